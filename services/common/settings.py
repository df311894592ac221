"""What is common to the settings of every service.

Settings come from the environment: prefix `LOOKALIKE_`, nested by `__` (`LOOKALIKE_SERVER__PORT=50051`). They are read
once, in a service's `__main__`, frozen, and handed to constructors.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class SettingsGroup(BaseModel):
    """A frozen group of settings; an unknown name in the environment is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(SettingsGroup):
    """How a gRPC service listens."""

    host: str = "127.0.0.1"
    port: int = Field(50051, ge=0, le=65535, description="0 lets the system choose")
    metrics_port: int = Field(9464, ge=0, le=65535, description="Prometheus metrics over HTTP; 0 turns them off")
    # one message holds at most one product; 32 images of 20 MB would not be a sensible message
    max_message_bytes: int = Field(64 * 2**20, gt=0)
    max_concurrent_requests: int = Field(256, gt=0, description="beyond that RESOURCE_EXHAUSTED")
    lame_duck_s: float = Field(
        0.5, ge=0, description="after SIGTERM, how long new requests are still taken, NOT_SERVING"
    )
    drain_s: float = Field(10.0, ge=0, description="how long running requests may take to end after SIGTERM")
    log_level: str = "INFO"


class ServiceSettings(BaseSettings):
    """Base of every service's settings."""

    model_config = SettingsConfigDict(
        env_prefix="LOOKALIKE_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    server: ServerSettings = ServerSettings()
