"""How a rollout feeds the encoder: the next pictures are loaded meanwhile, and searches come first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from services.backends.encoder import Priority
from services.common.products import ProductImage
from services.rollout.golden_embedding import GoldenEmbedding
from services.rollout.golden_set import Picture
from services.rollout.mirror import Mirror


class Parts:
    """Stands in for image store, decoder, encoder and pace: every picture is there."""

    batch = 4

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.turns = 0
        self.in_turn = False
        self.batches: list[int] = []
        self.more = asyncio.Event()

    async def get(self, sha256: str) -> bytes:
        self.loaded.append(sha256)
        if len(self.loaded) > self.batch:
            self.more.set()
        return b"x"

    async def decode(self, data: bytes, side: int, region: Any) -> np.ndarray:
        return np.zeros((side, side, 3), np.uint8)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        self.turns += 1
        self.in_turn = True
        yield
        self.in_turn = False

    async def embed(self, pixels: np.ndarray, version: int, *, priority: Priority) -> np.ndarray:
        assert (self.in_turn, priority) == (True, Priority.BACKFILL)
        self.batches.append(len(pixels))
        # the first call is answered when a picture of the next batch has been loaded
        await self.more.wait()
        return np.ones((len(pixels), 2), np.float32)


async def test_a_backfill_loads_the_next_pictures_while_the_present_ones_are_embedded() -> None:
    parts: Any = Parts()
    target: Any = SimpleNamespace(model_version=2)
    mirror = Mirror(parts, parts, parts, parts, parts, target, target, 8)
    images = {(str(number), ()): ProductImage("i", str(number)) for number in range(10)}
    async with asyncio.timeout(5):
        vectors, missing = await mirror._embed(images, True)
    assert (vectors.keys(), missing) == (images.keys(), set())
    assert (parts.batches, parts.turns) == ([4, 4, 2], 3)


async def test_a_gate_takes_its_turns_as_a_backfill_does() -> None:
    parts: Any = Parts()
    parts.batch = 1
    done: list[int] = []
    pictures = [Picture(f"p{number}", "", f"{number:064x}") for number in range(6)]
    found = await GoldenEmbedding(parts, parts, parts, parts, done.append).vectors(pictures, 2, 8)
    assert len(found) == sum(done) == parts.turns == 6
    assert parts.batches == [1] * 6
