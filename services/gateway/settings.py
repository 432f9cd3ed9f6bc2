"""What can be set for the gateway."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    pool_size: int = Field(default=20, ge=1, le=100)
    pool_overflow: int = Field(default=10, ge=0, le=100)
