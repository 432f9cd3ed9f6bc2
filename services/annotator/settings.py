"""What can be set for the annotator."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings


class UpstreamSettings(BaseModel):
    """Another place, or another rate, for one source."""

    model_config = ConfigDict(extra="forbid")

    base_url: str | None = None
    requests_per_second: float | None = Field(default=None, ge=0)  # 0: as fast as it answers.


class AnnotatorSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="ANNOTATOR_")

    raw_folder: Path  # Where downloads arrive, and stay unless `raw_store` is another place.
    raw_store: str = ""  # s3://bucket/prefix. Either is shared by all annotators.
    raw_s3_endpoint: str = ""  # Of a service that is not AWS: http://host:port, or https.
    raw_s3_region: str = "us-east-1"
    raw_s3_access_key_id: str = ""  # Empty: the machine's own, by the chain that AWS describes.
    raw_s3_secret_access_key: SecretStr = SecretStr("")
    raw_days: float = Field(default=365, ge=0)  # How long files are kept that nobody needs,
    raw_bytes_max: int = Field(default=20 * 1024**3, ge=0)  # unless all take more than this.
    upstreams: dict[str, UpstreamSettings] = Field(default_factory=dict)
