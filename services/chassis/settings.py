"""Settings: `ANNOBUS_…` for what all services share, `<SERVICE>_…` for a service's own."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class SharedSettings(BaseSettings):
    """What every process of one system has in common."""

    model_config = SettingsConfigDict(env_prefix="ANNOBUS_")

    kafka_bootstrap: str = "127.0.0.1:9092"
    topic_prefix: str = Field(default="", pattern=r"^[a-z0-9.-]*$")  # Lets tests share a broker.
    log_format: Literal["json", "console"] = "json"
    environment: Literal["production", "test"] = "production"
    failpoints_folder: Path | None = None  # Where a test arms points at which a process stops.

    @model_validator(mode="after")
    def production_has_no_failpoints(self) -> Self:
        if self.failpoints_folder is not None and self.environment == "production":
            raise ValueError(
                f"ANNOBUS_FAILPOINTS_FOLDER={self.failpoints_folder} is refused in production; "
                "set ANNOBUS_ENVIRONMENT=test or remove it"
            )
        return self


class ServiceSettings(BaseSettings):
    """What each service has one of; a service adds its own and sets the prefix."""

    database_url: SecretStr  # postgresql://role:password@host:port/database
    pool_size: int = Field(default=5, ge=1, le=100)
    pool_overflow: int = Field(default=5, ge=0, le=100)
    slot: int | None = Field(default=None, ge=0)  # None: the lowest that is free.
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65_535)  # 0: any free one.
    shared: SharedSettings = Field(default_factory=SharedSettings)
