"""Settings of the gateway; see services/common/settings.py for how they are read."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.backends.cache import CacheSettings
from services.backends.coordination import CoordinationSettings
from services.backends.encoder import EncoderSettings
from services.backends.image_store import ImageStoreSettings
from services.backends.index import IndexSettings
from services.common.settings import ServiceSettings, SettingsGroup


class CatalogSettings(SettingsGroup):
    max_in_flight: int = Field(32, gt=0, description="products of one UpsertProducts stream being written at a time")
    # writes of this many concurrent products share one call of the index
    write_batch: int = Field(64, gt=0)
    allowed_uri_prefixes: tuple[str, ...] = Field((), description="ProductImage.uri is read only below one of these")


class SearchSettings(SettingsGroup):
    decode_threads: int = Field(2, gt=0)
    # pictures of one call to the encoder, and calls at a time; the encoder batches over gateways
    embed_batch: int = Field(8, gt=0)
    embed_concurrency: int = Field(4, gt=0)
    exact_max_images: int = Field(
        16_384, gt=0, le=16_384, description="compare all matches when a filter leaves this few"
    )


class ServingSettings(SettingsGroup):
    refresh_s: float = Field(0.4, gt=0, le=1, description="how often the serving pair is read from the index")
    hurry_s: float = Field(0.03, gt=0, le=1, description="the same while a switch is near")
    max_age_s: float = Field(
        1.0, gt=0, description="cached results are used only with a serving pair read this recently"
    )
    freeze_limit_s: float = Field(
        10.0, ge=10, description="how long a write waits for a freeze, which lasts half of that at most"
    )


class GatewaySettings(ServiceSettings):
    model_repository: Path = Path("model_repository")
    encoder: EncoderSettings = EncoderSettings()
    index: IndexSettings = IndexSettings()
    cache: CacheSettings = CacheSettings()
    coordination: CoordinationSettings = CoordinationSettings()
    image_store: ImageStoreSettings = ImageStoreSettings()
    catalog: CatalogSettings = CatalogSettings()
    search: SearchSettings = SearchSettings()
    serving: ServingSettings = ServingSettings()
