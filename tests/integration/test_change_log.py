"""The change log on a real Redis: what it holds, and that one that lost entries never passes for a whole one."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from services.backends.change_log import ChangeLog, LogLost
from services.backends.coordination import Coordination, CoordinationSettings


@pytest.fixture
async def coordination(redis_url: str) -> AsyncIterator[Coordination]:
    async with Coordination(CoordinationSettings(url=redis_url, prefix=uuid.uuid4().hex, timeout_s=5)) as made:
        yield made


async def test_entries_come_in_their_order_and_are_forgotten(coordination: Coordination) -> None:
    log = ChangeLog(coordination)
    await log.open("a")
    assert await log.read("a") == []
    assert await log.intact("a")
    for product in ("p1", "p2", "p1"):
        await log.append("a", product, "products_m1")
    entries = await log.read("a")
    assert [entry.product for entry in entries] == ["p1", "p2", "p1"]
    assert await log.read("a", entries[1].id) == entries[2:]
    assert await log.read("a", entries[0].id, until=entries[1].id) == entries[1:2]
    assert await log.read("a", entries[1].id, until=entries[1].id) == []
    await log.trim("a", entries[-1].id)
    # an empty log is one still
    assert await log.read("a") == []
    assert await log.intact("a")
    await log.append("a", "p3", "products_m1")
    assert [entry.product for entry in await log.read("a", entries[-1].id)] == ["p3"]


async def test_a_log_that_is_gone_takes_no_entries(coordination: Coordination) -> None:
    log = ChangeLog(coordination)
    await log.open("a")
    await log.open("b")
    await log.append("a", "p1", "products_m1")
    # Redis was lost and came back empty: both keys, or the entries alone
    await coordination.call(lambda client: client.delete(coordination.key("changes", "a")))
    assert not await log.intact("a")
    with pytest.raises(LogLost):
        await log.append("a", "p2", "products_m1")
    assert not await log.intact("a")
    # whoever comes in the same call
    await log.append("b", "p3", "products_m1")
    await log.close("b")
    assert not await log.intact("b")
    with pytest.raises(LogLost):
        await log.append("b", "p4", "products_m1")
