"""Settings of the rollout service; see services/common/settings.py for how they are read."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.backends.coordination import CoordinationSettings
from services.backends.encoder import EncoderSettings
from services.backends.image_store import ImageStoreSettings
from services.backends.index import IndexSettings
from services.common.settings import ServerSettings, ServiceSettings, SettingsGroup


class RolloutGroup(SettingsGroup):
    decode_threads: int = Field(2, gt=0, description="that decode originals while a collection is filled")


class RolloutSettings(ServiceSettings):
    server: ServerSettings = ServerSettings(port=50052, metrics_port=9465)
    model_repository: Path = Path("model_repository")
    encoder: EncoderSettings = EncoderSettings()
    index: IndexSettings = IndexSettings()
    # no caller waits for it, and a switch that meets one slow answer is done once more
    coordination: CoordinationSettings = CoordinationSettings(timeout_s=1.0)
    image_store: ImageStoreSettings = ImageStoreSettings()
    rollout: RolloutGroup = RolloutGroup()
