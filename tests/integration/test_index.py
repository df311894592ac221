"""The index on the real engines. Both are compared with plain Python, so they agree with each other too."""

from __future__ import annotations

import asyncio
import random
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import numpy as np
import pytest

from services.backends.index import MAIN_IMAGES, Collection, Index, IndexSettings, Row, Vector
from services.backends.index_schema import literal
from services.common.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, Unavailable
from services.common.products import MAX_IMAGES, Product, ProductImage, Region

pytestmark = pytest.mark.timeout(180)

DIMENSION = 32
QUOTED = 'a "b" \\ c'


def settings(uri: str) -> IndexSettings:
    return IndexSettings(uri=uri, alias=f"alias_{uuid.uuid4().hex[:12]}")


def version() -> int:
    """Of an encoder that no other test uses."""
    return random.randrange(10**6, 10**9)


def unit(seed: int) -> Vector:
    vector = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
    return vector / np.linalg.norm(vector)


def row(product: Product, position: int = 0, seed: int = 0, region: Region | None = None) -> Row:
    image = ProductImage(id=f"i{position}", sha256=f"{seed:064x}", uri=f"s3://shop/{position}.jpg", region=region)
    return Row(product=product, image=image, position=position, vector=unit(seed))


def one_of(rows: list[Row], product_id: str) -> Row:
    return next(r for r in rows if r.product.id == product_id)


@pytest.fixture(scope="module")
async def index(milvus_uri: str) -> AsyncIterator[Index]:
    async with Index(settings(milvus_uri)) as index:
        yield index


@pytest.fixture(scope="module")
async def other(milvus_uri: str) -> AsyncIterator[Index]:
    """As of a second gateway."""
    async with Index(settings(milvus_uri)) as other:
        yield other


@pytest.fixture(scope="module")
async def collection(index: Index) -> Collection:
    return await index.collections.create_collection(version(), DIMENSION, "fit-224-v1")


@pytest.fixture(scope="module")
async def stocked(index: Index) -> tuple[Collection, list[Row]]:
    """A collection of 300 products with one to three images, and its rows."""
    collection = await index.collections.create_collection(version(), DIMENSION, "fit-224-v1")
    random_ = random.Random(7)
    rows = []
    for number in range(300):
        product = Product(
            id=f"p{number}",
            category=random_.choice(["shoes", "hats", QUOTED]),
            colors=tuple(random_.sample(["red", "blue", "grün"], random_.randrange(3))),
            price=random_.choice([None, 0.0, 9.99, 50.0]),
            in_stock=random_.random() < 0.5,
            update_time_us=number,
        )
        rows += [row(product, position, 1000 + 3 * number + position) for position in range(random_.randrange(1, 4))]
    await index.upsert(collection, rows)
    return collection, rows


async def test_rows_come_back_as_they_were_written(index: Index, collection: Collection) -> None:
    plain = Product(id="plain", update_time_us=1)
    rich = Product(
        id="rich-1.a_b",
        title='Quotes " and \\ and \n and 日本語 🧦',
        description="d",
        category="c",
        brand="b",
        colors=("red", 'b"l\\ue', "🧦"),
        sizes=("S",),
        materials=("wool",),
        price=12.5,
        currency="EUR",
        in_stock=False,
        attributes={"fit": "slim", "quote": '"\\\n🧦', "empty": ""},
        update_time_us=1_700_000_000_123_456,
    )
    widest = Product(
        id="w" * 128,
        title="🧦" * 1000,
        description="🧦" * 8000,
        category="🧦" * 200,
        brand="🧦" * 200,
        colors=("🧦" * 100,) * 32,
        price=0.0,
    )
    written = [row(plain), *(row(rich, n, n, Region(0.25, 0.0, 1.0, 0.5)) for n in range(3)), row(widest)]
    await index.upsert(collection, random.Random(1).sample(written, len(written)))

    found = await index.product_rows(collection, ["plain", rich.id, widest.id, "missing"], vectors=True)

    assert set(found) == {"plain", rich.id, widest.id}
    read = found["plain"] + found[rich.id] + found[widest.id]
    assert [replace(r, vector=None) for r in read] == [replace(r, vector=None) for r in written]
    for one, another in zip(read, written, strict=True):
        np.testing.assert_array_equal(one.vector, another.vector)
    assert (await index.product_rows(collection, ["plain"], vectors=False))["plain"] == [
        replace(row(plain), vector=None)
    ]


async def test_a_product_that_is_too_large_is_refused_and_its_neighbours_are_not_written(
    index: Index, collection: Collection
) -> None:
    huge = Product(id="huge", attributes={f"key{n}": "🧦" * 1000 for n in range(64)})
    with pytest.raises(InvalidArgument, match="attributes"):
        await index.upsert(collection, [row(Product(id="beside-huge")), row(huge)])
    assert await index.product_rows(collection, ["huge", "beside-huge"], vectors=False) == {}


async def test_all_images_of_the_largest_product(index: Index, collection: Collection) -> None:
    product = Product(id="largest", description="🧦" * 8000, attributes={f"key{n}": "x" * 900 for n in range(64)})
    await index.upsert(collection, [row(product, n, n) for n in range(MAX_IMAGES)])
    found = await index.product_rows(collection, ["largest"], vectors=True)
    assert [r.position for r in found["largest"]] == list(range(MAX_IMAGES))


async def test_search_finds_the_nearest(index: Index, stocked: tuple[Collection, list[Row]]) -> None:
    collection, rows = stocked
    gallery = np.stack([r.vector for r in rows])
    for seed in range(20):
        cosines = gallery @ unit(seed)
        nearest = sorted(range(len(rows)), key=lambda n: -cosines[n])[:15]
        hits = await index.search(collection, unit(seed), 15)
        assert [(h.product_id, h.image_id) for h in hits] == [(rows[n].product.id, rows[n].image.id) for n in nearest]
        assert [h.cosine for h in hits] == pytest.approx(cosines[nearest], abs=1e-5)
        assert [(h.product, h.image) for h in hits] == [(rows[n].product, rows[n].image) for n in nearest]


async def test_cosine_does_not_leave_its_range(index: Index, stocked: tuple[Collection, list[Row]]) -> None:
    collection, rows = stocked
    for stored in rows[:50]:
        (hit,) = await index.search(collection, stored.vector, 1)
        assert (hit.product_id, hit.image_id) == (stored.product.id, stored.image.id)
        assert 0.9999 < hit.cosine <= 1.0
    (far, *_) = (await index.search(collection, -rows[0].vector, len(rows)))[::-1]
    assert -1.0 <= far.cosine < -0.9999


async def test_an_expression_holds_for_every_answer(index: Index, stocked: tuple[Collection, list[Row]]) -> None:
    collection, rows = stocked
    expressions = {
        f"category == {literal('shoes')}": lambda p: p.category == "shoes",
        f"category == {literal(QUOTED)}": lambda p: p.category == QUOTED,
        "price >= 0 and price < 50": lambda p: p.price is not None and p.price < 50,
        f"array_contains(colors, {literal('grün')}) or in_stock == true": lambda p: "grün" in p.colors or p.in_stock,
    }
    for expression, matches in expressions.items():
        expected = sorted(r.key for r in rows if matches(r.product))
        assert expected
        hits = await index.search(collection, unit(1), len(rows), expression)
        assert sorted(f"{h.product_id}/{h.image_id}" for h in hits) == expected
        assert [r.key for r in await index.match_vectors(collection, expression)] == expected
        assert [r.key for r in await index.scan(collection, expression, "", 1000)] == expected
        assert await index.count(collection, expression) == len(expected)


async def test_scan_goes_through_all_rows_in_the_order_of_their_keys(
    index: Index, stocked: tuple[Collection, list[Row]]
) -> None:
    collection, rows = stocked
    keys: list[str] = []
    while page := await index.scan(collection, "", keys[-1] if keys else "", 37):
        assert len(page) <= 37
        assert all(r.vector is None for r in page)
        keys += [r.key for r in page]
    assert keys == sorted(r.key for r in rows)


async def test_match_vectors_over_several_pages(
    index: Index, stocked: tuple[Collection, list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.backends.index._PAGE_FLOATS", 1)  # then a page has 256 rows
    collection, rows = stocked
    by_key = {r.key: r for r in rows}
    assert len(rows) > 512
    found = await index.match_vectors(collection, "")
    assert [r.key for r in found] == sorted(by_key)
    for one in found:
        np.testing.assert_array_equal(one.vector, by_key[one.key].vector)
    assert [r.key for r in await index.match_vectors(collection, "", 300)] == sorted(by_key)[:300]


async def test_count(index: Index, stocked: tuple[Collection, list[Row]]) -> None:
    collection, rows = stocked
    assert await index.count(collection) == len(rows)
    assert await index.count(collection, MAIN_IMAGES) == 300


async def test_what_was_acknowledged_is_seen_by_every_client(
    index: Index, other: Index, stocked: tuple[Collection, list[Row]]
) -> None:
    collection, rows = stocked
    for number in range(15):
        new = row(Product(id=f"new{number}", title="first", update_time_us=1), seed=5000 + number)
        await index.upsert(collection, [new])
        (hit,) = await other.search(collection, new.vector, 1)
        assert hit.product == new.product
        changed = replace(new, product=replace(new.product, title="second", update_time_us=2))
        await other.upsert(collection, [changed])
        found = await index.product_rows(collection, [new.product.id], vectors=False)
        assert [r.product.title for r in found[new.product.id]] == ["second"]
        assert await index.count(collection) == len(rows) + 1
        await index.delete(collection, [(new.product.id, new.image.id), (new.product.id, "never")])
        assert await other.product_rows(collection, [new.product.id], vectors=False) == {}
        (hit,) = await other.search(collection, new.vector, 1)
        assert hit.product_id != new.product.id
        assert await other.count(collection) == len(rows)


async def test_a_write_can_be_waited_for_by_its_timestamp(index: Index, other: Index, collection: Collection) -> None:
    new = row(Product(id="stamped"), seed=4711)
    timestamp = await index.upsert(collection, [new])
    (hit,) = await other.search(collection, new.vector, 1, after_ts=timestamp)
    assert hit.product_id == "stamped"


async def test_concurrent_writers_lose_nothing(index: Index, other: Index, collection: Collection) -> None:
    async def write(writer: int) -> None:
        door = (index, other)[writer % 2]
        for number in range(5):
            await door.upsert(collection, [row(Product(id=f"w{writer}-{number}"), n, n) for n in range(3)])

    await asyncio.gather(*map(write, range(8)))
    ids = [f"w{writer}-{number}" for writer in range(8) for number in range(5)]
    found = await index.product_rows(collection, ids, vectors=False)
    assert {product_id: len(rows) for product_id, rows in found.items()} == dict.fromkeys(ids, 3)


async def test_several_gateways_start_at_once(milvus_uri: str) -> None:
    shared = settings(milvus_uri)
    number = version()
    async with Index(shared) as one, Index(shared) as two:
        assert await one.collections.resolve() is None

        async def start(index: Index) -> Collection:
            made = await index.collections.create_collection(number, DIMENSION, "fit-224-v1")
            await index.collections.set_alias(made.name)
            return made

        made = await asyncio.gather(start(one), start(two))
        assert made == [Collection(f"products_m{number}", number, DIMENSION, "fit-224-v1")] * 2
        assert await one.collections.resolve() == await two.collections.resolve() == made[0]
        assert await start(one) == made[0]
        with pytest.raises(FailedPrecondition, match=f"products_m{number}"):
            await one.collections.create_collection(number, DIMENSION + 1, "fit-224-v1")


async def test_the_alias_is_switched_for_every_client(milvus_uri: str) -> None:
    shared = settings(milvus_uri)
    async with Index(shared) as one, Index(shared) as two:
        old = await one.collections.create_collection(version(), DIMENSION, "fit-224-v1")
        new = await one.collections.create_collection(version(), DIMENSION * 2, "fit-256-v1")
        await one.collections.set_alias(old.name)
        assert await two.collections.resolve() == old
        await one.collections.set_alias(new.name)
        assert await two.collections.resolve() == new
        assert await two.collections.describe(old.name) == old
        assert await two.collections.describe("products_m0") is None


async def test_the_fence_is_seen_by_every_client(index: Index, other: Index, collection: Collection) -> None:
    for token in ("first", "second"):
        await index.collections.keep(collection.name, {"fence": token})
        seen = await other.collections.describe(collection.name)
        assert seen == replace(collection, fence=token)


async def test_version_is_told(index: Index) -> None:
    assert await index.version()


@pytest.fixture
def silent_uri() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


ABSENT = Collection("products_m1", 1, DIMENSION, "fit-224-v1")


async def test_a_dead_server_fails_within_the_timeout(silent_uri: str) -> None:
    began = time.monotonic()
    async with Index(IndexSettings(uri=silent_uri, timeout_s=0.3)) as index:
        with pytest.raises(Unavailable) as error:
            await index.search(ABSENT, unit(0), 1)
        assert error.value.reason == "INDEX_UNAVAILABLE"
        with pytest.raises(Unavailable):
            await index.upsert(ABSENT, [row(Product(id="a"))])
        with pytest.raises(Unavailable):
            await index.delete(ABSENT, [("a", "i0")])
        with pytest.raises(DeadlineExceeded):
            await index.search(ABSENT, unit(0), 1, timeout_s=0.1)
    assert time.monotonic() - began < 10


async def test_no_server_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with Index(IndexSettings(uri=f"http://127.0.0.1:{port}", timeout_s=2)) as index:
        for call in (index.version(), index.collections.resolve(), index.search(ABSENT, unit(0), 1)):
            with pytest.raises(Unavailable) as error:
                await call
            assert error.value.reason == "INDEX_UNAVAILABLE"
            assert len(error.value.message) < 300
