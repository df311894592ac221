"""Pictures to vectors: cache, decode off the event loop, micro-batches to the encoder, identical work done once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.backends.cache import Cache
from services.backends.encoder import Encoder
from services.backends.index import Vector
from services.common.batching import Batcher
from services.common.errors import Unavailable
from services.common.images import PREPROCESSING, ImageDecoder
from services.common.products import Region
from services.common.single_flight import SingleFlight
from services.common.telemetry import Metrics
from services.gateway.serving import Serving
from services.gateway.settings import SearchSettings

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture and what of it to look at. `sha256` is of `data`, hexadecimal."""

    data: bytes
    sha256: str
    region: Region | None = None


class Embedder:
    """One for the whole gateway. `purpose` labels the metric: "query" or "catalogue"."""

    def __init__(
        self,
        settings: SearchSettings,
        encoder: Encoder,
        decoder: ImageDecoder,
        cache: Cache,
        cache_ttl_s: int,
        serving: Serving,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._encoder = encoder
        self._decoder = decoder
        self._cache = cache
        self._cache_ttl_s = cache_ttl_s
        self._serving = serving
        self._metrics = metrics
        self._flights: SingleFlight[Vector] = SingleFlight()
        self._batchers: dict[tuple[int, str], Batcher[Pixels, Vector]] = {}

    def cache_key(self, picture: Picture, version: int) -> str:
        region = ",".join(f"{edge:.6g}" for edge in picture.region.as_tuple()) if picture.region else ""
        # a number may come back with another file
        return self._cache.key("embedding", self._serving.file(version), PREPROCESSING, picture.sha256, region)

    def from_cached(self, value: bytes | None, dimension: int) -> Vector | None:
        """The vector that `embed` stored, float32 [D]; None when there is none or it is damaged."""
        if value is None or len(value) != dimension * 4:
            return None
        vector = np.frombuffer(value, "<f4")
        return vector if abs(float(vector @ vector) - 1.0) < 1e-3 else None

    async def embed(self, picture: Picture, version: int, *, purpose: str, timeout_s: float | None = None) -> Vector:
        """float32 [D], unit length; also put into the cache when it is a query's.

        Raises:
            InvalidImage, Unavailable, Overloaded, DeadlineExceeded.
        """
        key = self.cache_key(picture, version)

        async def work() -> Vector:
            with self._metrics.stage("decode"):
                pixels = await self._decoder.decode(picture.data, self._serving.side(version), picture.region)
            with self._metrics.stage("embed"):
                vector = await self._batcher(version, purpose).submit(pixels)
            self._metrics.images.labels(purpose).inc()
            if purpose == "query":
                self._cache.store(key, vector.astype("<f4").tobytes(), self._cache_ttl_s)
            return vector

        if timeout_s is None:
            return await self._flights.run((purpose, key), work)
        try:
            # a little before the caller gives up, so that it hears the reason; others may still wait for the work
            async with asyncio.timeout(timeout_s * 0.9):
                return await self._flights.run((purpose, key), work)
        except TimeoutError:
            raise Unavailable("the encoder did not answer in time", reason="ENCODER_UNAVAILABLE") from None

    def _batcher(self, version: int, purpose: str) -> Batcher[Pixels, Vector]:
        """One a version and purpose, so that a catalogue import can't fill the queue in front of a search."""
        batcher = self._batchers.get((version, purpose))
        if batcher is None:

            async def run(batch: list[Pixels]) -> Sequence[Vector]:
                return list(await self._encoder.embed(np.stack(batch), version))

            batcher = Batcher(run, max_items=self._settings.embed_batch, concurrency=self._settings.embed_concurrency)
            self._batchers[version, purpose] = batcher
        return batcher
