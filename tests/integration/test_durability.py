"""An OK is durable: eight catalogue clients write while the gateway, Milvus, Triton and Redis are killed in turn.

Afterwards the clients' own records are held against the system: every acknowledged product is found by id and by its
own image, with its last acknowledged content; every acknowledged delete is gone; no product is half there.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import dataclass, field

import grpc
import grpc.aio
import pytest

from tests.integration.shop import OK, Shop, picture, product

pytestmark = pytest.mark.timeout(600)

CLIENTS = 8
KILLS = 5
PARTS = ("gateway", "milvus", "triton", "redis")


@dataclass
class Record:
    """What one client knows of one product. `open`: contents sent and not (yet) acknowledged; None is a delete."""

    acknowledged: int | None = None
    open: list[int | None] = field(default_factory=list)

    def may_be(self, version: int | None) -> bool:
        return version == self.acknowledged or version in self.open


@dataclass
class Client:
    number: int
    rng: random.Random
    records: dict[str, Record] = field(default_factory=dict)
    done: int = 0
    failures: int = 0

    async def run(self, shop: Shop, stop: asyncio.Event) -> None:
        version = 0
        while not stop.is_set():
            version += 1
            # few products, so that they are overwritten and deleted again and again
            name = f"c{self.number}-{self.rng.randrange(12)}"
            record = self.records.setdefault(name, Record())
            delete = record.acknowledged is not None and self.rng.random() < 0.25
            sent = None if delete else version
            record.open.append(sent)
            try:
                if delete:
                    await shop.delete(f"products/{name}", allow_missing=True)
                else:
                    (answer,) = await shop.upsert([content(name, version)])
                    if answer.status.code != OK:
                        self.failures += 1
                        await asyncio.sleep(0.1)
                        continue
            except grpc.aio.AioRpcError:
                self.failures += 1
                await asyncio.sleep(0.1)
                continue
            self.done += 1
            record.acknowledged, record.open = sent, []


def seed_of(name: str, version: int, image: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{name}/{version}/{image}".encode()).digest()[:4], "big")


def content(name: str, version: int):
    """One to three images, none of which another version has."""
    images = [picture(seed_of(name, version, image), side=96) for image in range(1 + version % 3)]
    return product(name, *images, title=str(version))


@pytest.mark.parametrize("engine", ["lite", "standalone"])
async def test_nothing_acknowledged_is_lost(make_stack, engine: str) -> None:
    async with make_stack(milvus=engine) as stack, Shop(stack.gateway_address) as shop:
        clients = [Client(number, random.Random(number)) for number in range(CLIENTS)]
        stop = asyncio.Event()
        running = [asyncio.create_task(client.run(shop, stop)) for client in clients]
        rng = random.Random(7)
        # after a kill the standalone engine starts again only when its old session has expired
        kills = dict.fromkeys(PARTS, KILLS) if engine == "lite" else {"milvus": 2, "gateway": 2}
        plan = [part for number in range(KILLS) for part in PARTS if number < kills.get(part, 0)]
        for part in plan:
            await asyncio.sleep(0.5 + rng.random())
            before = sum(client.done for client in clients)
            await stack.kill(part)
            await stack.ready(part)
            async with asyncio.timeout(60):  # writes go on
                while sum(client.done for client in clients) < before + 4:
                    await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*running)
        assert sum(client.done for client in clients) > 4 * len(plan)
        assert sum(client.failures for client in clients) > 0, "the kills hit nothing"
        await stack.kill("milvus")
        await stack.ready("milvus")
        lost = [
            fault
            for client in clients
            for name, record in client.records.items()
            if (fault := await fault_of(shop, name, record))
        ]
        assert not lost


async def fault_of(shop: Shop, name: str, record: Record) -> str:
    """What is wrong with a product after all; empty when nothing is."""
    try:
        stored = await shop.get(f"products/{name}")
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
        if not record.may_be(None):
            return f"{name}: lost, acknowledged {record.acknowledged}"
        found = await shop.search(picture(1), filter=f'id = "{name}"')
        return f"{name}: deleted, but a search finds it" if found.results else ""
    version = int(stored.title)
    if not record.may_be(version):
        return f"{name}: holds {version}, acknowledged {record.acknowledged}, open {record.open}"
    expected = [hashlib.sha256(image.content).hexdigest() for image in content(name, version).images]
    if [image.sha256 for image in stored.images] != expected:
        return f"{name}: half a product at version {version}"
    for image in range(len(expected)):
        found = await shop.search(picture(seed_of(name, version, image), side=96), page_size=3)
        if not any(r.product.name == stored.name and r.similarity > 0.98 for r in found.results):
            return f"{name}: not found by its image {image}"
    return ""
