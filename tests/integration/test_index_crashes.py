"""Milvus is killed while products are written: what was acknowledged stays, no product is half, the Index goes on."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from services.backends.index import Collection, Index, IndexSettings, Row
from services.common.errors import Unavailable
from services.common.products import Product, ProductImage
from services.local.engines import Engines
from services.local.milvus import lite_program, standalone_program
from services.local.ports import PortPicker
from services.local.supervisor import Supervisor

pytestmark = pytest.mark.timeout(300)

DIMENSION = 64
IMAGES = 8
KILLS = {"lite": 3, "standalone": 1}


class Engine:
    def __init__(self, name: str, supervisor: Supervisor, uri: str) -> None:
        self.name = name
        self.supervisor = supervisor
        self.uri = uri


@pytest.fixture(params=["lite", "standalone"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    ports = PortPicker()
    port = ports.pick("milvus")
    if request.param == "lite":
        program = lite_program(tmp_path / "milvus", tmp_path / "milvus.log", port)
    else:
        program = standalone_program(Engines.default(), tmp_path / "milvus", tmp_path / "milvus.log", port, ports)
    async with Supervisor(program) as supervisor:
        yield Engine(request.param, supervisor, f"http://127.0.0.1:{port}")


class Writer:
    """Writes its products again and again, each time with one more in `update_time_us`; deletes every fifth time."""

    def __init__(self, index: Index, collection: Collection, number: int) -> None:
        self._index = index
        self._collection = collection
        self.products = [f"w{number}-{n}" for n in range(3)]
        self._written = 0
        # by product: what was acknowledged last (0: its deletion), and the writes since of which that is not known
        self.acknowledged: dict[str, int] = {}
        self.uncertain: dict[str, set[int]] = {}

    async def run(self) -> None:
        while True:
            self._written += 1
            product_id = self.products[self._written % len(self.products)]
            state = 0 if self._written % 5 == 0 else self._written
            self.uncertain.setdefault(product_id, set()).add(state)
            try:
                if state:
                    await self._index.upsert(self._collection, rows(product_id, state))
                else:
                    await self._index.delete(self._collection, [(product_id, f"i{n}") for n in range(IMAGES)])
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                self.acknowledged[product_id] = state
                del self.uncertain[product_id]


def rows(product_id: str, state: int) -> list[Row]:
    product = Product(id=product_id, title=f"state {state}", update_time_us=state)
    seed = zlib.crc32(f"{product_id} {state}".encode())
    vectors = np.random.default_rng(seed).normal(size=(IMAGES, DIMENSION)).astype(np.float32)
    return [Row(product, ProductImage(f"i{n}", f"{state:064x}"), n, vectors[n]) for n in range(IMAGES)]


async def again(index: Index, collection: Collection) -> None:
    """Waits until the index answers."""
    async with asyncio.timeout(60):
        while True:
            try:
                await index.search(collection, np.ones(DIMENSION, np.float32), 1)
                return
            except Unavailable:
                await asyncio.sleep(0.1)


async def test_milvus_is_killed_while_products_are_written(engine: Engine) -> None:
    async with Index(IndexSettings(uri=engine.uri, timeout_s=3)) as index:
        collection = await index.collections.create_collection(1, DIMENSION, "fit-224-v1")
        await index.collections.set_alias(collection.name)
        writers = [Writer(index, collection, number) for number in range(4)]
        for kill in range(KILLS[engine.name]):
            tasks = [asyncio.create_task(writer.run()) for writer in writers]
            try:
                await asyncio.sleep(1.5)
                await index.collections.keep(collection.name, {"fence": f"fence {kill}"})
                await engine.supervisor.kill()

                began = time.monotonic()
                with pytest.raises(Unavailable):
                    await index.product_rows(collection, ["w0-0"], vectors=False)
                assert time.monotonic() - began < 10
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert [e for e in ended if not isinstance(e, asyncio.CancelledError)] == []

            await engine.supervisor.ready(120)
            await again(index, collection)
            found = await index.collections.resolve()
            assert found is not None
            assert (found.name, found.fence) == (collection.name, f"fence {kill}")
            for writer in writers:
                for product_id in writer.products:
                    await check(index, collection, writer, product_id)


async def check(index: Index, collection: Collection, writer: Writer, product_id: str) -> None:
    stored = await index.match_vectors(collection, f'product == "{product_id}"')
    states = Counter(r.product.update_time_us for r in stored)
    assert len(states) <= 1, f"{product_id} is half: {states}"
    state = next(iter(states), 0)
    assert state in {writer.acknowledged.get(product_id, 0)} | writer.uncertain.get(product_id, set())
    assert len(stored) == (IMAGES if state else 0)
    if stored:
        hits = await index.search(collection, stored[0].vector, 1)
        assert hits[0].product is not None
        assert (hits[0].product_id, hits[0].product.update_time_us) == (product_id, state)
