"""The mirror, the follower and the switch on the real engines, with gateways that write and search meanwhile."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from services.backends.change_log import ChangeLog
from services.backends.coordination import Coordination, CoordinationSettings
from services.backends.encoder import Encoder, EncoderSettings
from services.backends.gateway_registry import GatewayRegistry
from services.backends.image_store import ImageStore, ImageStoreSettings
from services.backends.index import Index, IndexSettings
from services.common.images import PREPROCESSING, ImageDecoder
from services.common.manifest import MODEL_NAME, Manifest
from services.export.adding import add, manifest_beside
from services.local.stack import LocalStack
from services.rollout.agreement import Agreement
from services.rollout.board import Board
from services.rollout.follower import Follower
from services.rollout.mirror import Mirror
from services.rollout.pace import Pace
from services.rollout.record import Rollout, Stage, Status
from services.rollout.switch import Switch
from tests.conftest import KEPT_ENCODER
from tests.integration.shop import OK, Shop, picture, product

pytestmark = pytest.mark.timeout(120)


class Service:
    """The parts of a rollout service, by hand. Use as `async with`."""

    def __init__(self, stack: LocalStack, repository: Path) -> None:
        self.stack = stack
        self.repository = repository
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Service:
        enter = self._exit.enter_async_context
        self.index = await enter(Index(IndexSettings(uri=self.stack.milvus_uri)))
        self.encoder = await enter(Encoder(EncoderSettings(url=self.stack.triton_url)))
        self.images = await enter(ImageStore(ImageStoreSettings(url=self.stack.image_store_url)))
        self.decoder = await enter(ImageDecoder(2))
        coordination = await enter(Coordination(CoordinationSettings(url=self.stack.redis_url, timeout_s=5)))
        self.registry = GatewayRegistry(coordination)
        self.log = ChangeLog(coordination)
        self.pace = await enter(Pace(self.registry))
        self.agreement = Agreement(self.index, self.registry, self.log)
        self.board = Board(self.index)
        await self.board.read()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._exit.aclose()

    async def mirror_to(self, version: int) -> Mirror:
        manifest = Manifest.read(self.repository / MODEL_NAME / str(version))
        target = await self.index.collections.create_collection(version, manifest.dimension, PREPROCESSING)
        parts = (self.index, self.images, self.decoder, self.encoder, self.pace)
        return Mirror(*parts, self.board.collection, target, manifest.side)

    def follower(self, mirror: Mirror) -> Follower:
        return Follower(self.board, mirror, self.agreement, self.log, self.index)

    def switch(self) -> Switch:
        return Switch(self.board, self.agreement, self.log, self.index)

    async def switch_to(self, version: int) -> None:
        """As the walk does it from its check on."""
        mirror = await self.mirror_to(version)
        record = Rollout(f"to-{version}", version, self.board.collection.model_version, stage=Stage.SWITCH)
        await self.board.remember(record)
        switch = self.switch()
        start = await switch.check(mirror)
        await switch.switch(mirror, start, record, 3600.0)

    async def content(self, version: int) -> dict[str, tuple[object, ...]]:
        """What a collection holds, by key."""
        collection = await self.index.collections.describe(f"products_m{version}")
        assert collection is not None
        rows = await self.index.match_vectors(collection, "")
        return {row.key: (row.product, row.image, row.position) for row in rows}


@pytest.fixture(scope="module", params=["lite", "standalone"])
async def service(
    request: pytest.FixtureRequest,
    make_stack: Callable[..., LocalStack],
    model_repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Service]:
    """Two gateways that serve version 1; version 2 is in the repository and loaded."""
    repository = tmp_path_factory.mktemp("switch") / "models"
    shutil.copytree(model_repository, repository)
    async with make_stack(milvus=request.param, gateways=2, model_repository=repository) as stack:
        add(repository / MODEL_NAME, KEPT_ENCODER, manifest_beside(KEPT_ENCODER))
        client = triton.InferenceServerClient(stack.triton_url)
        await client.load_model(MODEL_NAME)
        await client.close()
        # this test is the rollout service
        await stack.stop("rollout")
        async with Service(stack, repository) as service:
            yield service


async def test_vectors_are_the_new_versions_own_and_kept_when_only_fields_change(service: Service) -> None:
    async with Shop(service.stack.gateway_address) as shop:
        await shop.upsert([product("p", picture(1, side=96), picture(2, side=96))])
        mirror = await service.mirror_to(2)
        assert await mirror.copy(["p", "missing"]) == 2
        side = Manifest.read(service.repository / MODEL_NAME / "2").side
        pixels = [await service.decoder.decode(picture(n, side=96), side) for n in (1, 2)]
        expected = await service.encoder.embed(np.stack(pixels), 2)
        found = (await service.index.product_rows(mirror.target, ["p"], vectors=True))["p"]
        for row, vector in zip(found, expected, strict=True):
            assert row.vector is not None
            assert float(row.vector @ vector) > 0.9999

        # an original that is gone now is not needed for pictures that are embedded
        for row in found:
            await service.images.delete(row.image.sha256)
        await shop.upsert([product("other", picture(3, side=96))])
        await service.index.upsert(mirror.source, [])
        assert [ids async for _, ids in mirror.differing()] == [["other"]]
        await service.images.delete((await shop.get("products/other")).images[0].sha256)
        assert await mirror.copy(["p", "other"]) == 2
        assert set(mirror.missing) == {f"other/{(await shop.get('products/other')).images[0].id}"}
        # what can't be copied is no difference
        assert [ids async for _, ids in mirror.differing()] == [[]]
        for name in ("products/p", "products/other"):
            await shop.delete(name)


async def test_a_log_that_was_lost_is_noticed_and_made_good(service: Service) -> None:
    async with Shop(service.stack.gateway_address) as shop:
        await shop.upsert(product(f"p{n}", picture(n, side=96)) for n in range(10))
        follower = service.follower(await service.mirror_to(2))
        async with follower:
            async with asyncio.timeout(60):
                await follower.caught_up()
            before = service.board.state.log
            await service.stack.stop("redis")
            answers = await shop.upsert([product("p3", picture(33, side=96), title="while Redis was down")])
            assert answers[0].status.code == OK
            await service.stack.start("redis")
            async with asyncio.timeout(60):
                while service.board.state.log == before or not follower.is_complete:
                    await asyncio.sleep(0.05)
                await follower.caught_up()
        assert await service.content(2) == await service.content(1)


async def test_a_switch_and_back_under_writes_loses_nothing(service: Service) -> None:
    stack = service.stack
    async with Shop(stack.gateway_addresses[0]) as one, Shop(stack.gateway_addresses[1]) as two:
        answers = await one.upsert(product(f"p{n}", picture(n, side=96), title="0") for n in range(40))
        assert all(answer.status.code == OK for answer in answers)
        follower = service.follower(await service.mirror_to(2))
        async with follower:
            async with asyncio.timeout(60):
                await follower.caught_up()
            # what is written now follows
            await one.upsert([product("p1", picture(1001, side=96), title="new")])
            await two.delete("products/p2")
            async with asyncio.timeout(10):
                while await service.content(2) != await service.content(1):
                    await asyncio.sleep(0.05)
        assert "p2" not in {key.partition("/")[0] for key in await service.content(2)}

        acknowledged: dict[str, str] = {}
        failed: list[BaseException] = []
        versions: set[str] = set()
        stop = asyncio.Event()

        async def write(shop: Shop, number: int) -> None:
            turn = 0
            while not stop.is_set():
                turn += 1
                name = f"p{number}-{turn % 5}"
                (answer,) = await shop.upsert([product(name, picture(turn * 7 + number, side=96), title=str(turn))])
                if answer.status.code == OK:
                    acknowledged[name] = str(turn)
                else:
                    failed.append(RuntimeError(answer.status.message))

        async def search(shop: Shop) -> None:
            while not stop.is_set():
                try:
                    found = await shop.search(picture(3, side=96))
                    assert found.results[0].product.name == "products/p3"
                    assert found.provenance.collection == f"products_m{found.provenance.model.removeprefix('models/')}"
                    versions.add(found.provenance.model)
                except BaseException as error:
                    failed.append(error)
                    raise

        running = [asyncio.create_task(work) for work in (write(one, 1), write(two, 2), search(one), search(two))]
        try:
            for version in (2, 1, 2):
                await asyncio.sleep(1.0)
                await service.switch_to(version)
                record = service.board.record
                assert record is not None
                assert (record.stage, record.status) == (Stage.RETENTION, Status.SUCCEEDED)
                assert 0 < record.freeze_s < 5
                other = 3 - version
                async with service.follower(await service.mirror_to(other)) as follower, asyncio.timeout(60):
                    await follower.caught_up()
                    found = await one.search(picture(3, side=96))
                    assert found.provenance.model == f"models/{version}"
        finally:
            stop.set()
            results = await asyncio.gather(*running, return_exceptions=True)
        assert not failed
        assert not [result for result in results if result is not None]
        assert versions == {"models/1", "models/2"}
        for name, title in acknowledged.items():
            for shop in (one, two):
                assert (await shop.get(f"products/{name}")).title == title
