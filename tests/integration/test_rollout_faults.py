"""Rollouts while parts die and stand still, under searches and writes: some calls must fail, and no answer is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import duration_pb2
from lookalike.v1 import model_pb2

from services.backends.index import Collection, Index, IndexSettings
from services.local.ports import PortPicker
from services.local.service import ServicePorts, program
from services.local.stack import LocalStack
from services.local.supervisor import Supervisor
from tests.integration.encoders import DIMENSION, make_repository, publish_version, tiles
from tests.integration.rollout_clients import Failure, Pictures, Searcher, Writer
from tests.integration.rollout_operator import Operator, stage_of
from tests.integration.shop import OK, Shop, picture, product

pytestmark = pytest.mark.timeout(300)

PRODUCTS, PICTURES = 24, 8
SUCCEEDED = model_pb2.ROLLOUT_STATUS_SUCCEEDED
OPTIONS = {
    "canary": 0.5,
    # pictures of tiles have no classes that a version could be better or worse at
    "tolerance": 1.0,
    "category_tolerance": 1.0,
    "latency_budget": duration_pb2.Duration(seconds=50),
}


def distorted() -> np.ndarray:
    """Similarities are others than without it, so that an answer tells which version it is of."""
    rng = np.random.default_rng(2)
    turned = np.linalg.qr(rng.normal(size=(DIMENSION, DIMENSION)))[0]
    return np.asarray(turned * rng.uniform(0.1, 2.0, DIMENSION))


@dataclass
class System:
    """Two gateways, and what was done to them.

    Args:
        outages: which part, from when to when by the loop's clock.
    """

    stack: LocalStack
    models: Path
    shops: list[Shop]
    operator: Operator
    pictures: Pictures
    outages: list[tuple[str, float, float]] = field(default_factory=list)

    async def kill(self, part: str) -> None:
        """SIGKILL. Returns when searches that need everything are answered by both gateways again."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self.stack.kill(part)
        await self.stack.ready(part, 60)
        async with asyncio.timeout(60):
            for shop in self.shops:
                while True:
                    # of the version in service, and of the one that is coming
                    asked = (shop.search(picture(round(loop.time() * 1e3)), caller=f"again-{n}") for n in range(6))
                    found = await asyncio.gather(*asked, return_exceptions=True)
                    if not any(isinstance(each, BaseException) for each in found):
                        break
                    await asyncio.sleep(0.1)
        self.outages.append((part, began, loop.time()))

    def excused(self, failure: Failure, gateway: int) -> bool:
        """Whether it was under way while a part that it needs was dead: an engine, or the gateway that was asked."""
        needed = {"triton", "milvus", ("gateway", "gateway2")[gateway]}
        return any(
            part in needed and failure.began <= ended and failure.ended >= began for part, began, ended in self.outages
        )

    async def is_rolled_out(self) -> None:
        """Version 2 serves, and 1 is kept."""
        if (await self.operator.model(2)).state != model_pb2.MODEL_STATE_SERVING:
            await self.operator.start(2, **OPTIONS)
            assert (await self.operator.walk()).status == SUCCEEDED


@pytest.fixture(scope="module")
async def system(
    make_stack: Callable[..., LocalStack], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[System]:
    models = make_repository(tmp_path_factory.mktemp("faults"))
    publish_version(models, 1, tiles())
    async with contextlib.AsyncExitStack() as exit_stack:
        enter = exit_stack.enter_async_context
        stack = await enter(make_stack(gateways=2, model_repository=models.parent))
        publish_version(models, 2, tiles(distorted(), slow_layers=2))
        pictures = Pictures(PICTURES, models, (1, 2))
        shops = [await enter(Shop(address)) for address in stack.gateway_addresses]
        answers = await shops[0].upsert(
            product(f"p{n:02}", pictures.data[n % PICTURES], title="0", brand=str(n % PICTURES))
            for n in range(PRODUCTS)
        )
        assert all(answer.status.code == OK for answer in answers)
        yield System(stack, models, shops, await enter(Operator(stack, seed=3)), pictures)


@dataclass
class Clients:
    writers: list[Writer]
    searchers: list[Searcher]


@contextlib.asynccontextmanager
async def clients(system: System, seed: int, callers: tuple[str, ...] = ("one", "two")) -> AsyncIterator[Clients]:
    """Who write and search until the end; then what they know is held against what is there.

    Args:
        callers: of searches, by each gateway in turn.
    """
    shops, pictures = system.shops, system.pictures
    writers = [Writer(f"w{seed}-{n}", shops[n], pictures, products=6, seed=seed + n) for n in range(2)]
    searchers = [Searcher(caller, shops[n % 2], pictures, seed=seed + n) for n, caller in enumerate(callers)]
    stop = asyncio.Event()
    running = [asyncio.create_task(client.run(stop)) for client in (*writers, *searchers)]
    try:
        yield Clients(writers, searchers)
    finally:
        stop.set()
        await asyncio.gather(*running)
    failures = [
        (failure, number % 2)
        for some in (writers, searchers)
        for number, one in enumerate(some)
        for failure in one.failures
    ]
    done = (sum(writer.done for writer in writers), sum(len(searcher.answers) for searcher in searchers))
    print("writes, searches, failures:", *done, len(failures))
    assert not [failure for failure in failures if not system.excused(*failure)]
    assert not [mixed for searcher in searchers for mixed in searcher.mixed]
    for shop in shops:
        assert not [fault for writer in writers for fault in await writer.faults(shop)]
    assert all(writer.done for writer in writers)


@contextlib.asynccontextmanager
async def index_of(system: System) -> AsyncIterator[tuple[Index, dict[int, Collection]]]:
    async with Index(IndexSettings(uri=system.stack.milvus_uri)) as index:
        yield index, {each.model_version: each for each in await index.collections.all()}


async def content(index: Index, collection: Collection) -> dict[str, tuple[object, ...]]:
    rows = await index.match_vectors(collection, "")
    return {row.key: (row.product, row.image, row.position) for row in rows}


async def test_a_redis_that_is_lost_with_its_data_in_the_canary(system: System) -> None:
    """No caller notices; what the lost log might have told is found by comparing, before anything is switched."""
    stack, operator = system.stack, system.operator
    await operator.start(2, **OPTIONS)
    await operator.waits_in("canary")
    sides = {
        caller: (await system.shops[0].search(system.pictures.data[0], caller=caller)).provenance.model
        for caller in (f"caller-{n}" for n in range(12))
    }
    callers = [next(caller for caller, model in sides.items() if model == f"models/{version}") for version in (1, 2)]
    # each of them by both gateways
    async with (
        clients(system, 10, (callers[0], callers[0], callers[1], callers[1])) as running,
        index_of(system) as (
            index,
            collections,
        ),
    ):
        await asyncio.sleep(1.0)
        stack.signal("redis", signal.SIGKILL)
        await stack.stop("redis")
        data = Path(stack.image_store_url.removeprefix("file://")).parent / "redis"
        shutil.rmtree(data)
        await asyncio.sleep(3.0)
        lost, stale, ghost = [await index.match_vectors(collections[2], f'product == "p{n:02}"') for n in (1, 2, 3)]
        await index.delete(collections[2], [(row.product.id, row.image.id) for row in lost])
        await index.upsert(
            collections[2],
            [replace(row, product=replace(row.product, title="stale", update_time_us=1)) for row in stale],
        )
        await index.upsert(collections[2], [replace(row, product=replace(row.product, id="ghost")) for row in ghost])
        await stack.start("redis")

        async with asyncio.timeout(60):
            while True:
                there = {key: row for key, row in (await content(index, collections[2])).items() if key[0] != "w"}
                if there == {key: row for key, row in (await content(index, collections[1])).items() if key[0] != "w"}:
                    break
                await asyncio.sleep(0.2)
        rollout = await operator.waits_in("canary")
        for searcher in running.searchers:
            assert set(searcher.answers) == {sides[searcher.caller]}
        # what was sampled since is told
        assert (await operator.when(lambda now: now.canary.queries > 0)).canary.failed == 0
        assert rollout.previous_model == "models/1"
        assert (await operator.walk()).status == SUCCEEDED
        await asyncio.sleep(1.0)
    async with index_of(system) as (index, collections):
        rows = await content(index, collections[2])
        assert not [key for key in rows if key.startswith("ghost")]
        assert {f"p{n:02}" for n in range(PRODUCTS)} <= {key.partition("/")[0] for key in rows}


async def test_each_part_is_killed_in_turn(system: System) -> None:
    operator = system.operator
    await system.is_rolled_out()

    def kill(*parts: str) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            for part in parts:
                await system.kill(part)

        return work

    async with clients(system, 20) as running:
        await operator.rollback()
        assert (await operator.walk(faults={"check": kill("gateway"), "switch": kill("milvus")})).status == SUCCEEDED
        await operator.retire(2)
        await operator.start(2, **OPTIONS)
        faults = {
            "gate": kill("triton"),
            "backfill": kill("milvus", "rollout"),
            "canary": kill("gateway2", "triton"),
            "check": kill("redis"),
            "switch": kill("rollout"),
        }
        rollout = await operator.walk(faults=faults)
        assert rollout.status == SUCCEEDED, rollout
        assert (await operator.model(2)).state == model_pb2.MODEL_STATE_SERVING
        marks = [len(searcher.answers) for searcher in running.searchers]
        await asyncio.sleep(1.0)
        for searcher, mark in zip(running.searchers, marks, strict=True):
            assert set(searcher.answers[mark + 1 :]) == {"models/2"}


async def test_a_gateway_that_stood_still_over_a_switch_gives_no_old_answer(system: System) -> None:
    """It was taken for dead: the switch did not wait for it."""
    await system.is_rolled_out()
    one, two = system.shops
    old, new = system.pictures.data[:2]
    only = {"filter": 'id = "moved"'}
    async with clients(system, 30):
        await one.upsert([product("moved", old, title="old", brand="0")])
        for shop in (one, two):
            assert (await shop.search(old, **only)).results[0].product.title == "old"
        frozen = asyncio.get_running_loop().time()
        system.stack.signal("gateway2", signal.SIGSTOP)
        try:
            await system.operator.rollback()
            assert (await system.operator.walk()).status == SUCCEEDED
            await one.upsert([product("moved", new, title="new", brand="1")])
            asked = [asyncio.create_task(two.search(data, **only)) for data in (old, new, old, new)]
            await asyncio.sleep(0.5)
        finally:
            system.stack.signal("gateway2", signal.SIGCONT)
        # who waits longer than its deadline gets no answer, and no wrong one
        system.outages.append(("gateway2", frozen, asyncio.get_running_loop().time() + 1.0))
        for found in await asyncio.gather(*asked):
            assert found.provenance.model == "models/1"
            assert [result.product.title for result in found.results] == ["new"]
        await one.delete("products/moved")


async def test_a_service_that_stood_still_while_another_took_over_changes_nothing(system: System) -> None:
    stack = system.stack
    await system.is_rolled_out()
    async with clients(system, 40), index_of(system) as (index, _):
        await system.operator.rollback()
        await system.operator.when(lambda now: stage_of(now) == "check")
        stack.signal("rollout", signal.SIGSTOP)
        try:
            async with second_service(system) as address, Operator(stack, address=address) as other:
                assert (await other.walk()).status == SUCCEEDED
                # what it would go on with is gone
                await other.retire(2)
                before = await index.collections.resolve()
                stack.signal("rollout", signal.SIGCONT)
                for _ in range(20):
                    await asyncio.sleep(0.1)
                    assert (await system.operator.now()).status == SUCCEEDED
                assert await index.collections.resolve() == before
                assert [each.model_version for each in await index.collections.all()] == [1]
        finally:
            stack.signal("rollout", signal.SIGCONT)
        # and takes over in its turn
        await system.operator.ended(await system.operator.start(2, **OPTIONS | {"validate_only": True}))


@contextlib.asynccontextmanager
async def second_service(system: System) -> AsyncIterator[str]:
    """Another rollout service of the same stack; its address."""
    stack, picker = system.stack, PortPicker()
    ports = ServicePorts("127.0.0.1", picker.pick("the rollout service"), picker.pick("metrics"))
    settings = {
        "MODEL_REPOSITORY": str(system.models.parent),
        "ENCODER__URL": stack.triton_url,
        "INDEX__URI": stack.milvus_uri,
        "COORDINATION__URL": stack.redis_url,
        "IMAGE_STORE__URL": stack.image_store_url,
    }
    log = system.models.parent.parent / "rollout2.log"
    async with Supervisor(program("rollout", "rollout2", log, ports, settings, {})):
        yield ports.address
