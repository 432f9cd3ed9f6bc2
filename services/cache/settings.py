"""What can be set for the cache."""

from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings


class CacheSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="CACHE_")
