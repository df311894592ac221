"""Random histories: writes and deletes through two gateways, switches, and deaths of the rollout service at any call.

An in-memory model of the shop says what each product must be. After each switch the real index must agree with it, and
the collection that follows with the one that serves. tests/protocol goes through the same protocol without engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import tritonclient.grpc.aio as triton
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from services.backends.change_log import ChangeLog
from services.backends.coordination import Coordination, CoordinationSettings
from services.backends.encoder import Encoder, EncoderSettings
from services.backends.gateway_registry import GatewayRegistry
from services.backends.image_store import ImageStore, ImageStoreSettings
from services.backends.index import Index, IndexSettings
from services.backends.live_samples import LiveSamples
from services.common.images import ImageDecoder
from services.common.manifest import MODEL_NAME
from services.export.adding import add, manifest_beside
from services.local.stack import LocalStack
from services.rollout.agreement import Agreement
from services.rollout.board import Board
from services.rollout.mirroring import Parts
from services.rollout.pace import Pace
from services.rollout.record import Options, Rollout, Stage, Status
from services.rollout.walk import Walk
from tests.conftest import KEPT_ENCODER
from tests.integration.shop import OK, Shop, picture, product

pytestmark = pytest.mark.timeout(600)

PRODUCTS = 6
PICTURES = 5


class Died(BaseException):
    """What every call of a rollout service that has died ends with."""


class Service:
    """A rollout service in this process that dies at its n-th call to Milvus or Redis. Use as `async with`.

    Args:
        life: how many calls it lives; None: it does not die.
        late: whether the call that it dies of is still carried out.
    """

    def __init__(self, stack: LocalStack, models: Path, life: int | None, late: bool) -> None:
        self._stack = stack
        self._models = models
        self._left = life
        self._late = late
        self._exit = AsyncExitStack()
        self.dead = asyncio.Event()

    async def __aenter__(self) -> Service:
        enter = self._exit.enter_async_context
        index = await enter(Index(IndexSettings(uri=self._stack.milvus_uri)))
        coordination = await enter(Coordination(CoordinationSettings(url=self._stack.redis_url)))
        log, registry = ChangeLog(coordination), GatewayRegistry(coordination)
        parts = Parts(
            models=self._models,
            index=index,
            encoder=await enter(Encoder(EncoderSettings(url=self._stack.triton_url))),
            images=await enter(ImageStore(ImageStoreSettings(url=self._stack.image_store_url))),
            decoder=await enter(ImageDecoder(1)),
            log=log,
            samples=LiveSamples(coordination),
            agreement=Agreement(index, registry, log),
            pace=await enter(Pace(registry)),
        )
        for door, method in ((index._milvus, "call"), (index._milvus, "call_blocking"), (coordination, "call")):
            setattr(door, method, self._mortal(getattr(door, method)))
        self.index = index
        self.board = Board(index)
        self._walk = Walk(parts, self.board)
        return self

    async def __aexit__(self, *error: object) -> None:
        with contextlib.suppress(Died):
            await self._exit.aclose()

    def _mortal(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapped(*arguments: Any, **options: Any) -> Any:
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    self.dead.set()
                    if self._late and self._left == -1:
                        await call(*arguments, **options)
                    raise Died
            return await call(*arguments, **options)

        return wrapped

    async def switch(self, version: int) -> None:
        """To the other version, or on with what a service that died had begun. Returns when it is over, or dead."""
        walking = asyncio.create_task(self._switched(version))
        dying = asyncio.create_task(self.dead.wait())
        await asyncio.wait({walking, dying}, return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if self.dead.is_set():
            walking.cancel()
            await asyncio.gather(walking, return_exceptions=True)
        else:
            await walking

    async def _switched(self, version: int) -> None:
        await self._walk.read()
        if self.board.record is None or self.board.record.status.ended:
            serving = self.board.collection.model_version
            if serving == version:
                return
            options = Options(auto=True, retention_s=3600)
            record = Rollout(f"to-{version}", version, serving, options, rollback=True, stage=Stage.CHECK)
            await self.board.remember(record)
        running = asyncio.create_task(self._walk.run())
        try:
            while not running.done() and self.board.record and not self.board.record.status.ended:
                await asyncio.sleep(0.02)
        finally:
            running.cancel()
            results = await asyncio.gather(running, return_exceptions=True)
        assert self.board.record is not None
        assert self.board.record.status is Status.SUCCEEDED, (self.board.record, results)

    async def content(self, version: int) -> dict[str, tuple[object, ...]]:
        collection = await self.index.collections.describe(f"products_m{version}")
        assert collection is not None
        return {
            row.key: (row.product, row.image, row.position) for row in await self.index.match_vectors(collection, "")
        }


@dataclass
class Shelf:
    """The model: what each product was last acknowledged as, and what was sent since without an answer."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    unanswered: dict[str, set[str]] = field(default_factory=dict)

    def allows(self, name: str, title: str) -> bool:
        """`title` "" means that it is not there."""
        return title == self.acknowledged.get(name, "") or title in self.unanswered.get(name, set())


# --- histories --------------------------------------------------------------------------------------------------------

# of one product: (gateway, kind, picture), one after the other; different products at the same time
writes = st.tuples(st.integers(0, 1), st.sampled_from(["write", "write", "delete"]), st.integers(0, PICTURES - 1))
batches = st.dictionaries(st.integers(0, PRODUCTS - 1), st.lists(writes, min_size=1, max_size=16), min_size=1)
# calls that the service lives, and whether the last of them is carried out
deaths = st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=2)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """hypothesis calls plain functions, so these tests have a loop of their own."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def shop(
    loop: asyncio.Runner,
    make_stack: Callable[..., LocalStack],
    model_repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[LocalStack, Path, Shelf]]:
    """Two gateways that serve version 1, version 2 loaded, and no rollout service."""
    repository = tmp_path_factory.mktemp("random") / "models"
    shutil.copytree(model_repository, repository)

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[LocalStack]:
        async with make_stack(gateways=2, model_repository=repository) as stack:
            await stack.stop("rollout")
            add(repository / MODEL_NAME, KEPT_ENCODER, manifest_beside(KEPT_ENCODER))
            async with triton.InferenceServerClient(stack.triton_url) as client:
                await client.load_model(MODEL_NAME)
            yield stack

    context = opened()
    stack = loop.run(context.__aenter__())
    yield stack, repository / MODEL_NAME, Shelf()
    loop.run(context.__aexit__(None, None, None))


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(batch=batches, deaths=deaths)
def test_index_and_model_agree_after_each_switch(
    loop: asyncio.Runner,
    shop: tuple[LocalStack, Path, Shelf],
    batch: dict[int, list[tuple[int, str, int]]],
    deaths: list[tuple[int, bool]],
) -> None:
    loop.run(history(*shop, batch, deaths))


async def history(
    stack: LocalStack,
    models: Path,
    shelf: Shelf,
    batch: dict[int, list[tuple[int, str, int]]],
    deaths: list[tuple[int, bool]],
) -> None:
    async with Shop(stack.gateway_addresses[0]) as one, Shop(stack.gateway_addresses[1]) as two:
        (serving,) = {(await shop.search(picture(0, side=96))).provenance.model for shop in (one, two)}
        version = 3 - int(serving.removeprefix("models/"))
        clients = [asyncio.create_task(use(shelf, (one, two), f"r{number}", steps)) for number, steps in batch.items()]
        async with asyncio.timeout(120):
            for life, late in deaths:
                async with Service(stack, models, life, late) as service:
                    await service.switch(version)
            async with Service(stack, models, None, False) as service:
                await service.switch(version)
                await asyncio.gather(*clients)
                titles = {
                    key.partition("/")[0]: row[0].title  # type: ignore[attr-defined]
                    for key, row in (await service.content(version)).items()
                }
        for number in range(PRODUCTS):
            name = f"r{number}"
            assert shelf.allows(name, titles.get(name, "")), (name, titles.get(name), shelf)
            for shop in (one, two):
                found = await shop.search(picture(0, side=96), filter=f'id = "{name}"')
                shown = found.results[0].product.title if found.results else ""
                assert found.provenance.model == f"models/{version}"
                assert shown == titles.get(name, "")
        for name, title in titles.items():
            # what was not answered is known now
            shelf.acknowledged[name] = title
        for name in [name for name in shelf.acknowledged if name not in titles]:
            del shelf.acknowledged[name]
        shelf.unanswered.clear()


async def use(shelf: Shelf, shops: tuple[Shop, Shop], name: str, steps: list[tuple[int, str, int]]) -> None:
    for number, (gateway, kind, pictured) in enumerate(steps):
        shop = shops[gateway]
        title = "" if kind == "delete" else f"{id(steps)}-{number}"
        shelf.unanswered.setdefault(name, set()).add(title)
        try:
            if kind == "delete":
                await shop.delete(f"products/{name}", allow_missing=True)
            else:
                (answer,) = await shop.upsert([product(name, picture(pictured, side=96), title=title)])
                assert answer.status.code == OK, answer.status
        except grpc.aio.AioRpcError as error:
            raise AssertionError(f"a write was refused: {error.details()}") from error
        shelf.unanswered[name].clear()
        if title:
            shelf.acknowledged[name] = title
        else:
            shelf.acknowledged.pop(name, None)
