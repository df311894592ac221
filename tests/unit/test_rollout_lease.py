"""One process at a time acts as the rollout service, and finds out before a call when it is not that one any more."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from services.backends.milvus import IndexSettings, Milvus
from services.common.errors import Unavailable
from services.rollout import lease as module
from services.rollout.lease import Lease, LeaseLost


class Redis:
    """What is kept of a lease: who has it. `answers`: whether it does."""

    def __init__(self) -> None:
        self.holder = ""
        self.answers = True

    async def take_lease(self, name: str, owner: str, ttl_s: float) -> str:
        if not self.answers:
            raise Unavailable("Redis does not answer")
        self.holder = self.holder or owner
        return self.holder

    async def drop_lease(self, name: str, owner: str) -> None:
        if self.holder == owner:
            self.holder = ""


@pytest.fixture
def redis() -> Redis:
    return Redis()


def lease_of(redis: Any) -> Lease:
    return Lease(redis)


async def test_a_holder_that_was_paused_is_refused_and_does_not_take_it_again_by_itself(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lease_of(redis) as lease:
        await lease.acquired()
        await lease.confirm()
        # paused: no task of it runs, and the time passes
        real = time.monotonic
        monkeypatch.setattr(module.time, "monotonic", lambda: real() + module.TTL_S)
        # whoever had it meanwhile has given it up
        redis.holder = ""
        with pytest.raises(LeaseLost):
            await lease.confirm()
        await asyncio.sleep(0.01)
        assert not lease.held
        await lease.lost()
        await lease.acquired()
        await lease.confirm()


async def test_a_redis_that_was_emptied_may_have_given_it_to_another(redis: Redis) -> None:
    async with lease_of(redis) as lease:
        await lease.acquired()
        redis.holder = "another"
        assert lease.held
        with pytest.raises(LeaseLost, match="another"):
            await lease.confirm()
        await lease.lost()


async def test_without_redis_it_lasts_as_long_as_it_was_given(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    async with lease_of(redis) as lease:
        await lease.acquired()
        redis.answers = False
        await lease.confirm()
        real = time.monotonic
        monkeypatch.setattr(module.time, "monotonic", lambda: real() + module.TTL_S)
        with pytest.raises(LeaseLost):
            await lease.confirm()


async def test_a_second_one_waits_until_the_first_is_given_up(redis: Redis) -> None:
    async with lease_of(redis) as first:
        await first.acquired()
        async with lease_of(redis) as second:
            waiting = asyncio.create_task(second.acquired())
            await asyncio.sleep(0.01)
            assert not waiting.done()
            redis.holder = ""
            await first.__aexit__(None, None, None)
            await asyncio.wait_for(waiting, 5)


async def test_nothing_is_changed_in_milvus_without_a_permit() -> None:
    """Reading is free."""

    async def refused() -> None:
        raise LeaseLost("another one acts")

    calls = []

    async def request(client: Any) -> None:
        calls.append("read")

    async with Milvus(IndexSettings(uri="http://127.0.0.1:1"), refused) as milvus:
        await milvus.call(request)
        with pytest.raises(LeaseLost):
            await milvus.change(request)
        with pytest.raises(LeaseLost):
            await milvus.change_blocking(lambda client, limit_s: calls.append("written"), 1.0)
    assert calls == ["read"]
