"""Clients of a shop while a version is rolled out: they keep records of their own, which the system is held against."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
from google.protobuf import field_mask_pb2
from lookalike.v1 import catalog_pb2

from services.common.images import decode_image
from services.common.manifest import MODEL_FILE, Manifest
from services.evaluation.inference import embed, open_session
from tests.integration.shop import OK, Shop, picture, product

# a similarity computed by ONNX Runtime here and the one that a search answers; versions differ by far more
SAME = 0.02


class Pictures:
    """A few hundred pictures that all products share, and what each version makes of them, without the system."""

    def __init__(self, count: int, models: Path, versions: tuple[int, ...]) -> None:
        self.data = [picture(seed, side=96) for seed in range(count)]
        self.vectors: dict[int, npt.NDArray[np.float32]] = {}
        for version in versions:
            side = Manifest.read(models / str(version)).side
            pixels = np.stack([decode_image(data, side) for data in self.data])
            self.vectors[version] = embed(open_session(models / str(version) / MODEL_FILE), pixels)

    def cosine(self, version: int, one: int, other: int) -> float:
        return float(self.vectors[version][one] @ self.vectors[version][other])


class Failure(NamedTuple):
    """Of a call, from when to when by the loop's clock."""

    began: float
    ended: float
    error: str


@dataclass
class Record:
    """What is known of one product. `sent`: contents that were sent and not (yet) acknowledged; None is a delete."""

    acknowledged: int | None = None
    sent: list[int | None] = field(default_factory=list)

    def may_be(self, number: int | None) -> bool:
        return number == self.acknowledged or number in self.sent


@dataclass
class Writer:
    """Writes products of its own, again and again: upserts, deletes, and updates of attributes alone.

    The title of a product is the number of the write, its brand the number of its picture.
    """

    name: str
    shop: Shop
    pictures: Pictures
    products: int
    seed: int
    pause_s: float = 0.1
    records: dict[str, Record] = field(default_factory=dict)
    brands: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    done: int = 0
    slowest_s: float = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        rng, loop = random.Random(self.seed), asyncio.get_running_loop()
        while not stop.is_set():
            self.done += 1
            name = f"{self.name}-{rng.randrange(self.products)}"
            record = self.records.setdefault(name, Record())
            there = record.acknowledged is not None and not record.sent
            kind = rng.random()
            start = loop.time()
            try:
                if there and kind < 0.2:
                    record.sent.append(None)
                    await self.shop.delete(f"products/{name}", allow_missing=True)
                    acknowledged: int | None = None
                elif there and kind < 0.5:
                    record.sent.append(self.done)
                    await self.shop.catalog.UpdateProduct(
                        catalog_pb2.UpdateProductRequest(
                            product=catalog_pb2.Product(name=f"products/{name}", title=str(self.done)),
                            update_mask=field_mask_pb2.FieldMask(paths=["title"]),
                        ),
                        timeout=60,
                    )
                    acknowledged = self.done
                else:
                    record.sent.append(self.done)
                    brand = rng.randrange(len(self.pictures.data))
                    self.brands[name] = brand
                    sent = product(name, self.pictures.data[brand], title=str(self.done), brand=str(brand))
                    (answer,) = await self.shop.upsert([sent])
                    if answer.status.code != OK:
                        raise RuntimeError(answer.status.message)
                    acknowledged = self.done
            except (grpc.aio.AioRpcError, RuntimeError) as error:
                self.failures.append(Failure(start, loop.time(), str(error)))
                await asyncio.sleep(0.2)
                continue
            self.slowest_s = max(self.slowest_s, loop.time() - start)
            record.acknowledged, record.sent = acknowledged, []
            await asyncio.sleep(self.pause_s)

    async def faults(self, shop: Shop) -> list[str]:
        """What is missing, stale or back from the dead."""
        found = []
        for name, record in self.records.items():
            try:
                stored = await shop.get(f"products/{name}")
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.NOT_FOUND, error
                if not record.may_be(None):
                    found.append(f"{name}: missing, acknowledged {record.acknowledged}")
                continue
            if not record.may_be(int(stored.title)):
                found.append(f"{name}: holds {stored.title}, acknowledged {record.acknowledged}, sent {record.sent}")
        return found


@dataclass
class Searcher:
    """Searches by pictures of the catalogue and holds each answer against vectors that it computed itself."""

    caller: str
    shop: Shop
    pictures: Pictures
    seed: int
    pause_s: float = 0.1
    answers: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)

    async def run(self, stop: asyncio.Event) -> None:
        rng, loop = random.Random(self.seed), asyncio.get_running_loop()
        while not stop.is_set():
            asked = rng.randrange(len(self.pictures.data))
            start = loop.time()
            try:
                found = await self.shop.search(self.pictures.data[asked], caller=self.caller, page_size=5)
            except grpc.aio.AioRpcError as error:
                self.failures.append(Failure(start, loop.time(), f"{error.code()}: {error.details()}"))
                await asyncio.sleep(0.1)
                continue
            model = found.provenance.model
            self.answers.append(model)
            version = int(model.removeprefix("models/"))
            if found.provenance.collection != f"products_m{version}" or not found.results:
                self.mixed.append(f"{model} in {found.provenance.collection}, {len(found.results)} results")
            for result in found.results:
                expected = self.pictures.cosine(version, asked, int(result.product.brand))
                if abs(result.similarity - max(0.0, expected)) > SAME:
                    self.mixed.append(f"{model}: {result.product.name} {result.similarity:.3f}, not {expected:.3f}")
            await asyncio.sleep(self.pause_s)
