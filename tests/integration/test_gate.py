"""The gate on the real Triton, a real index and a real image store: good versions pass, worse and slow ones do not."""

from __future__ import annotations

import asyncio
import hashlib
import io
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.backends.coordination import Coordination, CoordinationSettings
from services.backends.encoder import Encoder, EncoderSettings
from services.backends.gateway_registry import GatewayRegistry
from services.backends.image_store import ImageStore, ImageStoreSettings
from services.backends.index import Collection, Index, IndexSettings, Row
from services.common.errors import FailedPrecondition
from services.common.images import PREPROCESSING, ImageDecoder
from services.common.manifest import Manifest
from services.common.products import Product, ProductImage
from services.local import milvus
from services.local.engines import Engines
from services.local.ports import PortPicker
from services.local.supervisor import Supervisor
from services.rollout.gate import gate_error, measure_gate
from services.rollout.golden_set import drawn
from services.rollout.pace import Pace
from services.rollout.record import Gate, Options
from tests.integration.encoders import DIMENSION, SIDE, make_repository, publish_version, tiles, triton_of

pytestmark = pytest.mark.timeout(180)

PRODUCTS, CATEGORIES = 60, ("hats", "shoes")
GOOD, WORSE, SLOW, TURNED, SHORT = 2, 3, 4, 5, 6
# no machine is that slow
NO_HURRY = Options(latency_budget_ms=60_000)


def rotation(dimension: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(1).normal(size=(dimension, dimension)))[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="module")
def manifests(models: Path) -> dict[int, Manifest]:
    """Version 1 serves. TURNED finds as well, in a space of its own; WORSE keeps 3 of 192 directions."""
    some = np.zeros((DIMENSION, DIMENSION))
    some[:, :3] = rotation(DIMENSION)[:, :3]
    made = {
        1: tiles(),
        GOOD: tiles(name="the same"),
        WORSE: tiles(some),
        SLOW: tiles(slow_layers=25),
        TURNED: tiles(rotation(DIMENSION)),
        SHORT: tiles(rotation(DIMENSION)[:, :96]),
    }
    return {version: publish_version(models, version, model) for version, model in made.items()}


@pytest.fixture(scope="module")
async def encoder(
    engines: Engines, models: Path, manifests: dict[int, Manifest], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Encoder]:
    supervisor, url = triton_of(engines, models, tmp_path_factory.mktemp("triton"))
    async with supervisor, Encoder(EncoderSettings(url=url, timeout_s=20)) as encoder:
        yield encoder


@pytest.fixture(scope="module")
async def milvus_lite(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    data, port = tmp_path_factory.mktemp("lite"), PortPicker().pick("Milvus")
    async with Supervisor(milvus.lite_program(data / "data", data / "log", port)):
        yield f"http://127.0.0.1:{port}"


@dataclass
class Shop:
    """A catalogue that version 1 serves."""

    index: Index
    images: ImageStore
    decoder: ImageDecoder
    encoder: Encoder
    manifests: dict[int, Manifest]
    collection: Collection

    async def fill(self, images_of: Sequence[int], seed: int = 0) -> None:
        """Args:
        images_of: how many each product has.
        """
        rows, pixels = [], []
        for number, count in enumerate(images_of):
            product = Product(f"p{number:03}", category=CATEGORIES[number % 2], update_time_us=1)
            for position in range(count):
                data = png(number + 1000 * seed, position)
                sha256 = await self.images.put(data)
                rows.append((product, ProductImage(f"i{position}", sha256), position))
                pixels.append(await self.decoder.decode(data, SIDE))
        vectors = [await self.encoder.embed(np.stack(pixels[at : at + 32]), 1) for at in range(0, len(pixels), 32)]
        await self.index.upsert(
            self.collection,
            [Row(*row, vector) for row, vector in zip(rows, np.concatenate(vectors), strict=True)],
        )

    async def gate(self, version: int, options: Options = NO_HURRY, told: list[tuple[int, int]] | None = None) -> Gate:
        return await measure_gate(
            self.index,
            self.images,
            self.decoder,
            self.encoder,
            # not entered: nobody searches
            Pace(GatewayRegistry(Coordination(CoordinationSettings()))),
            self.collection,
            SIDE,
            self.manifests[version],
            options,
            (lambda done, total: told.append((done, total))) if told is not None else lambda done, total: None,
        )


def png(product: int, position: int) -> bytes:
    """A patch of 8 x 8 colours; other pictures of the product are the same in other light, with noise."""
    colours = np.random.default_rng(product).uniform(40, 215, (8, 8, 3))
    taken = np.random.default_rng((product, position + 1))
    light = np.kron(colours, np.ones((12, 12, 1))) * taken.uniform(0.8, 1.15) + taken.normal(0, 20, (96, 96, 3))
    file = io.BytesIO()
    Image.fromarray(light.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


async def open_shop(
    milvus_uri: str, folder: Path, encoder: Encoder, manifests: dict[int, Manifest]
) -> AsyncIterator[Shop]:
    settings = IndexSettings(uri=milvus_uri, alias=f"alias_{uuid.uuid4().hex[:12]}")
    async with (
        Index(settings) as index,
        ImageStore(ImageStoreSettings(url=folder.as_uri())) as images,
        ImageDecoder(2) as decoder,
    ):
        collection = await index.collections.create_collection(1, DIMENSION, PREPROCESSING)
        yield Shop(index, images, decoder, encoder, manifests, collection)
        await index.collections.drop(collection.name)


@pytest.fixture
async def empty_shop(
    milvus_lite: str, tmp_path: Path, encoder: Encoder, manifests: dict[int, Manifest]
) -> AsyncIterator[Shop]:
    async for shop in open_shop(milvus_lite, tmp_path, encoder, manifests):
        yield shop


@pytest.fixture
async def shop(empty_shop: Shop) -> Shop:
    """Most products have three images, some have one."""
    await empty_shop.fill([3 if number % 6 else 1 for number in range(PRODUCTS)])
    return empty_shop


async def test_an_equal_version_passes(shop: Shop) -> None:
    told: list[tuple[int, int]] = []
    gate = await shop.gate(GOOD, told=told)
    assert gate.passed
    overall, *categories = gate.rows
    assert (overall.category, overall.queries) == ("", 50)
    assert overall.recall_1[0] == overall.recall_1[1] > 0.9
    assert overall.ndcg_10[1] <= overall.recall_5[1]
    assert {row.category: row.queries for row in categories} == {"hats": 20, "shoes": 30}
    assert gate.golden_set == "50 products of the catalogue by one of their images, looked for among 110 others"
    # the candidate's vectors alone had to be made
    assert told[-1] == (160, 160)


async def test_a_version_in_another_space_passes(shop: Shop) -> None:
    """Nothing but what it finds in its own space counts, also in fewer dimensions."""
    for version in (TURNED, SHORT):
        gate = await shop.gate(version)
        assert gate.passed
        assert gate.rows[0].recall_1[1] > 0.9


async def test_a_worse_version_does_not_pass(shop: Shop) -> None:
    gate = await shop.gate(WORSE)
    assert not gate.passed
    assert gate.rows[0].failed
    assert gate.rows[0].recall_1[1] < gate.rows[0].recall_1[0] - 0.3
    error = gate_error(gate)
    assert error.reason == "GATE_FAILED"
    assert "falls from" in error.message


async def test_a_slow_version_does_not_pass(shop: Shop) -> None:
    slow = await shop.gate(SLOW)
    assert slow.passed
    assert slow.latency_ms[1] > 2 * slow.latency_ms[0]
    budget = Options(latency_budget_ms=slow.latency_ms[1] / 4)
    gate = await shop.gate(SLOW, budget)
    assert not gate.passed
    assert not any(row.failed for row in gate.rows)
    assert gate_error(gate).reason == "LATENCY_OVER_BUDGET"


async def test_compatible_queries(shop: Shop) -> None:
    asked = Options(compatible=True, latency_budget_ms=60_000)
    gate = await shop.gate(GOOD, asked)
    assert gate.passed
    assert gate.compatible
    assert gate.rows[0].compatible == gate.rows[0].recall_1[0]
    # finds as well, and yet its queries mean nothing among the old vectors
    gate = await shop.gate(TURNED, asked)
    assert not gate.passed
    assert not gate.compatible
    assert not gate.rows[0].failed
    assert gate_error(gate).reason == "NOT_COMPATIBLE"
    with pytest.raises(FailedPrecondition) as error:
        await shop.gate(SHORT, asked)
    assert error.value.reason == "NOT_COMPATIBLE"


async def test_a_catalogue_of_single_images_is_asked_with_altered_copies(empty_shop: Shop) -> None:
    await empty_shop.fill([1] * 40)
    good = await empty_shop.gate(TURNED)
    assert good.passed
    assert "altered copies of 40 images" in good.golden_set
    assert good.rows[0].queries == 40
    assert good.rows[0].recall_1[0] > 0.9
    assert not (await empty_shop.gate(WORSE)).passed


async def test_an_empty_catalogue_has_nothing_to_lose(empty_shop: Shop) -> None:
    gate = await empty_shop.gate(WORSE)
    assert gate.passed
    assert gate.rows == ()
    assert "empty" in gate.golden_set
    assert min(gate.latency_ms) > 0


async def test_missing_originals_are_passed_over_for_both(shop: Shop) -> None:
    golden = await drawn(shop.index, shop.collection)
    await shop.images.delete(str(golden.queries[0].source))
    await shop.images.delete(str(golden.gallery[0].source))
    gate = await shop.gate(GOOD)
    assert gate.passed
    assert gate.rows[0].queries == 49
    assert gate.golden_set.endswith("; 2 without a readable original passed over")
    for picture in golden.queries:
        await shop.images.delete(str(picture.source))
    with pytest.raises(FailedPrecondition) as error:
        await shop.gate(GOOD)
    assert error.value.reason == "GOLDEN_SET_MISSING"


async def test_a_named_set_is_measured_with_both(empty_shop: Shop, tmp_path: Path) -> None:
    for number in range(25):
        folder = tmp_path / "golden" / CATEGORIES[number % 2] / f"p{number}"
        folder.mkdir(parents=True)
        for position in range(2):
            await asyncio.to_thread((folder / f"{position}.png").write_bytes, png(number, position))
    options = Options(golden_set=str(tmp_path / "golden"), latency_budget_ms=60_000)
    told: list[tuple[int, int]] = []
    gate = await empty_shop.gate(TURNED, options, told)
    assert gate.passed
    assert gate.rows[0].queries == 50
    assert told[-1] == (100, 100)
    assert str(tmp_path) in gate.golden_set
    assert not (await empty_shop.gate(WORSE, options)).passed


async def test_the_same_set_is_drawn_each_time(shop: Shop) -> None:
    one, other = [await drawn(shop.index, shop.collection) for _ in range(2)]
    assert [each.source for each in one.pictures] == [each.source for each in other.pictures]
    different = await drawn(shop.index, shop.collection, seed=2)
    assert {each.source for each in one.queries} != {each.source for each in different.queries}
    assert not {each.source for each in one.queries} & {each.source for each in one.gallery}
    # the shop's own picture is never the question
    own = {hashlib.sha256(png(number, 0)).hexdigest() for number in range(PRODUCTS)}
    assert not own & {each.source for each in one.queries}
    assert len(own & {each.source for each in one.gallery}) == PRODUCTS


async def test_searches_go_on_while_a_gate_is_measured(shop: Shop) -> None:
    pixels = await shop.decoder.decode(png(1, 0), SIDE)
    expected = await shop.encoder.embed(pixels[None], 1)
    stop = asyncio.Event()

    async def ask() -> int:
        calls = 0
        while not stop.is_set():
            np.testing.assert_allclose(await shop.encoder.embed(pixels[None], 1), expected, atol=1e-5)
            calls += 1
        return calls

    asking = asyncio.create_task(ask())
    await shop.gate(SLOW)
    stop.set()
    assert await asking > 10
