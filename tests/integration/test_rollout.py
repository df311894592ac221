"""A rollout, a rollback and the same rollout again, while everything is used and the rollout service is killed in every
stage. What the clients recorded is held against what is left: nobody noticed."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import duration_pb2
from lookalike.v1 import model_pb2

from services.backends.index import Index, IndexSettings
from services.common.manifest import MODEL_NAME
from services.export.adding import add, manifest_beside
from services.local.stack import LocalStack
from tests.conftest import KEPT_ENCODER
from tests.integration.rollout_clients import SAME, Pictures, Searcher, Writer
from tests.integration.rollout_operator import Operator
from tests.integration.shop import OK, Shop, darker, product

pytestmark = pytest.mark.timeout(1500)

SUCCEEDED = model_pb2.ROLLOUT_STATUS_SUCCEEDED
# products that follow each other share a picture, as variants of one article do
PICTURES, VARIANTS = 200, 25
BEFORE = ["verify", "load", "gate", "backfill", "drain", "shadow", "canary", "check", "switch"]


@pytest.fixture
async def repository(model_repository: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "models"
    shutil.copytree(model_repository, copy)
    return copy


@contextlib.asynccontextmanager
async def shop_of(
    make_stack: Callable[..., LocalStack], repository: Path, milvus: str, products: int
) -> AsyncIterator[tuple[LocalStack, Pictures]]:
    """Two gateways that serve version 1, `products` in the catalogue, version 2 in the repository."""
    async with make_stack(milvus=milvus, gateways=2, model_repository=repository) as stack:
        add(repository / MODEL_NAME, KEPT_ENCODER, manifest_beside(KEPT_ENCODER))
        pictures = Pictures(PICTURES, repository / MODEL_NAME, (1, 2))

        async with Shop(stack.gateway_addresses[0]) as shop:
            answers = await shop.upsert(
                product(f"p{n:04}", pictures.data[n // VARIANTS], title="0", brand=str(n // VARIANTS))
                for n in range(0, products, VARIANTS)
            )
            assert all(answer.status.code == OK for answer in answers)
        # what the gateway made of one variant holds for the others
        async with Index(IndexSettings(uri=stack.milvus_uri)) as index:
            collection = await index.collections.resolve()
            assert collection is not None
            for row in await index.match_vectors(collection, "", limit=products):
                first = int(row.product.id[1:])
                others = [replace(row.product, id=f"p{first + n:04}") for n in range(1, VARIANTS)]
                await index.upsert(collection, [replace(row, product=other) for other in others])
        yield stack, pictures


@pytest.mark.parametrize(("milvus", "products"), [("lite", 5000), ("standalone", 500)])
async def test_nobody_notices(
    make_stack: Callable[..., LocalStack], repository: Path, tmp_path: Path, milvus: str, products: int
) -> None:
    async with contextlib.AsyncExitStack() as exit_stack:
        stack, pictures = await exit_stack.enter_async_context(shop_of(make_stack, repository, milvus, products))
        shops = [await exit_stack.enter_async_context(Shop(address)) for address in stack.gateway_addresses]
        writers = [Writer(f"w{n}", shops[n % 2], pictures, products=20, seed=n, pause_s=0.2) for n in range(3)]
        searchers = [Searcher(f"caller-{n}", shops[n % 2], pictures, seed=n, pause_s=0.2) for n in range(4)]
        operator = await exit_stack.enter_async_context(Operator(stack, seed=5))
        golden = golden_set(tmp_path / "golden", pictures)
        stop = asyncio.Event()
        clients = [asyncio.create_task(client.run(stop)) for client in (*writers, *searchers)]
        try:
            # --- 1 -> 2, in every stage before the switch
            start = model_pb2.RolloutModelRequest(
                name="models/2",
                canary=0.5,
                shadow=0.2,
                retention=duration_pb2.Duration(seconds=3600),
                golden_set=str(golden),
                # pictures of tiles have no classes that a version could be better or worse at
                tolerance=0.2,
                category_tolerance=0.5,
                latency_budget=duration_pb2.Duration(seconds=5),
            )
            await operator.again(operator.models.RolloutModel, start)
            kills = BEFORE if milvus == "lite" else ["backfill", "check", "switch"]
            rollout = await operator.walk(kills, limit_s=900)
            assert rollout.status == SUCCEEDED, rollout
            await settled(stack, shops, searchers, 2)
            # --- back, and once more
            await operator.again(operator.models.RollbackModel, model_pb2.RollbackModelRequest())
            rollout = await operator.walk(["check", "switch"], limit_s=300)
            assert rollout.status == SUCCEEDED, rollout
            await settled(stack, shops, searchers, 1)
            await operator.again(operator.models.RolloutModel, start)
            rollout = await operator.walk(["switch", "retention"], limit_s=600)
            assert rollout.status == SUCCEEDED, rollout
            await settled(stack, shops, searchers, 2)
        finally:
            stop.set()
            await asyncio.gather(*clients)
        print(
            f"{milvus}: killed in {operator.killed}; {sum(w.done for w in writers)} writes, "
            f"{sum(len(s.answers) for s in searchers)} searches, "
            f"slowest write {max(w.slowest_s for w in writers):.2f} s"
        )
        # a stage that is over in milliseconds may have been missed
        assert {*kills, "retention"} - {"verify", "drain"} <= set(operator.killed)
        assert not [failure for searcher in searchers for failure in searcher.failures]
        assert not [mixed for searcher in searchers for mixed in searcher.mixed]
        assert not [failure for writer in writers for failure in writer.failures]
        assert {model for searcher in searchers for model in searcher.answers} == {"models/1", "models/2"}
        for shop in shops:
            assert not [fault for writer in writers for fault in await writer.faults(shop)]
        await rows_are_of_version(stack, pictures, 2, products)


def golden_set(folder: Path, pictures: Pictures) -> Path:
    """A folder to gate on: a few pictures, each beside one of its own that is a little darker."""
    for number, data in enumerate(pictures.data[:30]):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "0.jpg").write_bytes(data)
        (folder / str(number) / "1.png").write_bytes(darker(data))
    return folder


async def settled(stack: LocalStack, shops: list[Shop], searchers: list[Searcher], version: int) -> None:
    """Both gateways answer with this version alone from now on."""
    for shop in shops:
        found = await shop.search(searchers[0].pictures.data[0], page_size=1)
        assert found.provenance.model == f"models/{version}"
    marks = [len(searcher.answers) for searcher in searchers]
    await asyncio.sleep(1.0)
    for searcher, mark in zip(searchers, marks, strict=True):
        # one search may have been under way
        assert set(searcher.answers[mark + 1 :]) <= {f"models/{version}"}


async def rows_are_of_version(stack: LocalStack, pictures: Pictures, version: int, products: int) -> None:
    """Every vector in the serving collection is what this version makes of the picture, and no product is missing."""
    async with Index(IndexSettings(uri=stack.milvus_uri)) as index:
        collection = await index.collections.resolve()
        assert collection is not None
        assert collection.model_version == version
        rows = await index.match_vectors(collection, "", limit=1_000_000)
        wrong = [
            row.key
            for row in rows
            if row.vector is None or float(row.vector @ pictures.vectors[version][int(row.product.brand)]) < 1 - SAME
        ]
        assert not wrong
        assert {f"p{n:04}" for n in range(products)} <= {row.product.id for row in rows}
