"""Pictures of a golden set become vectors: from their originals through Triton, behind the queries of users."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.backends.encoder import Encoder, Priority
from services.backends.image_store import ImageStore
from services.backends.index import Vector
from services.common.errors import InvalidImage, NotFound, Overloaded
from services.common.images import ImageDecoder
from services.evaluation.corruptions import corrupt
from services.evaluation.metrics import Vectors
from services.rollout.golden_set import Picture
from services.rollout.pace import Pace

# batches under way at a time: one for each instance of Triton, and one that is being decoded
_CONCURRENT = 3

_log = logging.getLogger("lookalike.gate")


class GoldenEmbedding:
    """A few batches at a time, at the pace of a backfill. progress: called with pictures done since the last call."""

    def __init__(
        self, images: ImageStore, decoder: ImageDecoder, encoder: Encoder, pace: Pace, progress: Callable[[int], None]
    ) -> None:
        self._images = images
        self._decoder = decoder
        self._encoder = encoder
        self._pace = pace
        self._progress = progress

    async def vectors(self, pictures: Sequence[Picture], version: int, side: int) -> dict[int, Vector]:
        """By id() of each picture; those that can't be read are left out."""
        found: dict[int, Vector] = {}
        left = deque(pictures)

        async def work() -> None:
            while left:
                batch = [left.popleft() for _ in range(min(self._pace.batch, len(left)))]
                decoded = [(each, await self._pixels(each, side)) for each in batch]
                there = [(each, pixels) for each, pixels in decoded if pixels is not None]
                if there:
                    answered = await self._embed(np.stack([pixels for _, pixels in there]), version)
                    found.update((id(each), vector) for (each, _), vector in zip(there, answered, strict=True))
                self._progress(len(batch))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_CONCURRENT):
                    group.create_task(work())
        except ExceptionGroup as failed:
            # the first stopped the others
            raise failed.exceptions[0] from None
        return found

    async def _embed(self, pixels: npt.NDArray[np.uint8], version: int) -> Vectors:
        while True:
            try:
                async with self._pace.turn():
                    return await self._encoder.embed(pixels, version, priority=Priority.BACKFILL)
            except Overloaded as error:
                await asyncio.sleep(error.retry_after_s or 0.5)

    async def _pixels(self, picture: Picture, side: int) -> npt.NDArray[np.uint8] | None:
        try:
            if isinstance(picture.source, Path):
                data = await asyncio.to_thread(picture.source.read_bytes)
            else:
                data = await self._images.get(picture.source)
            pixels = await self._decoder.decode(data, side, picture.region)
        except (NotFound, InvalidImage, OSError) as error:
            _log.warning(
                "a picture is passed over", extra={"facts": {"picture": str(picture.source), "why": str(error)}}
            )
            return None
        if picture.altered is None:
            return pixels
        return await asyncio.to_thread(_alter, pixels, picture.altered)


def _alter(pixels: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    """Brighter and through a coarse JPEG; the cut was made when it was decoded."""
    return corrupt(corrupt(pixels, "brightness", 1, seed), "jpeg", 1, seed)
