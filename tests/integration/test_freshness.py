"""Every answer is fresh, whatever Redis does: stopped, slow, full, flushed, gone during a write and back as it was."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis

from tests.integration.shop import OK, Shop, ids, picture, product

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
async def stack(make_stack) -> AsyncIterator:
    """A stack of its own, with two gateways: its Redis is maltreated."""
    async with make_stack(gateways=2) as stack:
        yield stack


@pytest.fixture(scope="module")
async def shops(stack) -> AsyncIterator[tuple[Shop, Shop]]:
    first, second = stack.gateway_addresses
    async with Shop(first) as one, Shop(second) as two:
        yield one, two


@pytest.fixture
async def client(stack) -> AsyncIterator[redis.Redis]:
    client = redis.Redis.from_url(stack.redis_url, socket_timeout=5)
    yield client
    await client.aclose()


async def written(shop: Shop, product_id: str, data: bytes, **fields) -> None:
    (answer,) = await shop.upsert([product(product_id, data, **fields)])
    assert answer.status.code == OK, answer


async def fresh_over(shops: tuple[Shop, Shop], brand: str, data: bytes, titles: set[str]) -> None:
    """Both gateways answer with exactly these titles."""
    for shop in shops:
        answer = await shop.search(data, filter=f'brand = "{brand}"', page_size=50)
        assert {r.product.title for r in answer.results} == titles


async def warmed(shops: tuple[Shop, Shop], brand: str, data: bytes) -> None:
    """The answer is in the cache, and both gateways use it."""
    async with asyncio.timeout(20):
        for shop in shops:
            while not (await shop.search(data, filter=f'brand = "{brand}"', page_size=50)).provenance.result_cached:
                await asyncio.sleep(0.1)


async def test_a_write_through_one_gateway_is_seen_through_the_other(shops) -> None:
    brand, data = uuid.uuid4().hex, picture(1)
    for number in range(6):
        await written(shops[number % 2], f"a{brand}-{number}", data, brand=brand, title=str(number))
        await fresh_over(shops, brand, data, {str(n) for n in range(number + 1)})
        await warmed(shops, brand, data)


async def test_a_redis_that_stood_still_during_a_write(shops, stack) -> None:
    """Its connections live on, it forgot nothing, and it was never told of the write."""
    brand, data = uuid.uuid4().hex, picture(2)
    await written(shops[0], f"a{brand}", data, brand=brand, title="old")
    await warmed(shops, brand, data)
    stack.signal("redis", signal.SIGSTOP)
    try:
        await written(shops[0], f"a{brand}", data, brand=brand, title="new")
        await fresh_over(shops, brand, data, {"new"})
    finally:
        stack.signal("redis", signal.SIGCONT)
    for _ in range(5):
        await fresh_over(shops, brand, data, {"new"})
        await asyncio.sleep(0.3)
    await warmed(shops, brand, data)
    await fresh_over(shops, brand, data, {"new"})


async def test_a_redis_that_was_down_during_a_write_and_comes_back_with_what_it_held(shops, stack) -> None:
    brand, data = uuid.uuid4().hex, picture(3)
    await written(shops[0], f"a{brand}", data, brand=brand, title="old")
    await warmed(shops, brand, data)
    await stack.stop("redis")
    try:
        await written(shops[0], f"a{brand}", data, brand=brand, title="new")
        await fresh_over(shops, brand, data, {"new"})
    finally:
        await stack.start("redis")
    await fresh_over(shops, brand, data, {"new"})
    await warmed(shops, brand, data)
    await fresh_over(shops, brand, data, {"new"})


async def test_a_redis_put_back_to_an_older_state(shops, stack, client: redis.Redis) -> None:
    """As after a power cut that lost the last second of its log: the epoch of before stands beside its results."""
    brand, data = uuid.uuid4().hex, picture(4)
    await written(shops[0], f"a{brand}", data, brand=brand, title="old")
    await warmed(shops, brand, data)
    held = {key: await client.dump(key) for key in await client.keys("*")}
    await written(shops[0], f"a{brand}", data, brand=brand, title="new")
    await fresh_over(shops, brand, data, {"new"})
    for key, value in held.items():
        await client.restore(key, 600_000 if b"epoch" not in key else 0, value, replace=True)
    await stack.restart("redis")
    await fresh_over(shops, brand, data, {"new"})
    await asyncio.sleep(1)
    await fresh_over(shops, brand, data, {"new"})


async def test_a_flushed_redis(shops, client: redis.Redis) -> None:
    brand, data = uuid.uuid4().hex, picture(5)
    await written(shops[0], f"a{brand}", data, brand=brand, title="old")
    await warmed(shops, brand, data)
    await client.flushall()
    await fresh_over(shops, brand, data, {"old"})
    await written(shops[1], f"a{brand}", data, brand=brand, title="new")
    await client.flushall()
    await fresh_over(shops, brand, data, {"new"})
    await warmed(shops, brand, data)


async def test_a_full_redis(shops, client: redis.Redis) -> None:
    brand, data = uuid.uuid4().hex, picture(6)
    await written(shops[0], f"a{brand}", data, brand=brand, title="old")
    await warmed(shops, brand, data)
    await client.config_set("maxmemory-policy", "noeviction")
    await client.config_set("maxmemory", "1mb")
    try:
        await written(shops[0], f"a{brand}", data, brand=brand, title="new")
        await fresh_over(shops, brand, data, {"new"})
    finally:
        await client.config_set("maxmemory", "256mb")
        await client.config_set("maxmemory-policy", "volatile-lfu")
    await fresh_over(shops, brand, data, {"new"})


async def test_damaged_values_are_not_used(shops, client: redis.Redis) -> None:
    brand, data = uuid.uuid4().hex, picture(7)
    await written(shops[0], f"a{brand}", data, brand=brand, title="t")
    await warmed(shops, brand, data)
    for key in await client.keys("*"):
        if b"epoch" not in key:
            await client.set(key, b"\x00" * 4096, ex=600)
    await fresh_over(shops, brand, data, {"t"})


async def test_everything_in_the_cache_expires_but_the_epoch(shops, client: redis.Redis) -> None:
    brand, data = uuid.uuid4().hex, picture(8)
    await written(shops[0], f"a{brand}", data, brand=brand, title="t")
    await warmed(shops, brand, data)
    without = [key for key in await client.keys("*") if await client.ttl(key) < 0]
    assert [key.rsplit(b":", 1)[-1] for key in without] == [b"epoch"]


async def test_searches_and_writes_at_once_never_show_the_past(shops) -> None:
    """A counter goes up through one gateway; no search that began after an acknowledgement shows less."""
    brand, data = uuid.uuid4().hex, picture(9)
    acknowledged = -1
    done = False

    async def write() -> None:
        nonlocal acknowledged, done
        for number in range(30):
            await written(shops[0], f"a{brand}", data, brand=brand, price=number)
            acknowledged = number
        done = True

    async def read(shop: Shop) -> int:
        reads = 0
        while not done:
            least = acknowledged
            answer = await shop.search(data, filter=f'brand = "{brand}"')
            if least >= 0:
                assert answer.results[0].product.price >= least
                reads += 1
        return reads

    *reads, _ = await asyncio.gather(read(shops[0]), read(shops[1]), read(shops[1]), write())
    assert min(reads) > 0
    assert ids(await shops[1].search(data, filter=f'brand = "{brand}"')) == [f"a{brand}"]
