"""How far a backfill gets out of the way of searches, by a clock of its own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from services.backends.gateway_registry import Beat
from services.rollout import pace as module
from services.rollout.pace import BUSY_BATCH, IDLE_BATCH, Pace


class Clock:
    """`rests`: what a call to the encoder that took a second was followed by."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.rests: list[float] = []

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    sleep = asyncio.sleep

    async def rest(seconds: float) -> None:
        clock.rests.append(seconds)
        await sleep(0)

    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module.asyncio, "sleep", rest)
    monkeypatch.setattr(module, "_LONGEST_REST_S", 1000.0)
    return clock


def pace_of() -> Pace:
    registry: Any = None
    return Pace(registry)


def beat(p99_ms: float, p50_ms: float = 10.0) -> Beat:
    return Beat("g", "host:1", 1, searches_per_s=10.0 if p99_ms else 0.0, p50_ms=p50_ms, p99_ms=p99_ms)


async def rest_s(pace: Pace, clock: Clock) -> float:
    """How long it rests after a call that took a second."""
    clock.rests.clear()
    async with asyncio.timeout(5), pace.turn():
        clock.now += 1.0
    return sum(clock.rests)


def searched(pace: Pace, clock: Clock, p99_ms: float, seconds: float, p50_ms: float = 10.0) -> None:
    """Nobody calls the encoder meanwhile."""
    for _ in range(round(seconds / 0.5)):
        clock.now += 0.5
        pace.look([beat(p99_ms, p50_ms)])


async def worked(pace: Pace, clock: Clock, p99_ms: float, seconds: float, p50_ms: float = 10.0) -> None:
    """It calls the encoder all the time that it may."""
    for _ in range(round(seconds / 0.5)):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.005), pace.turn():
                pass
        searched(pace, clock, p99_ms, 0.5, p50_ms)


async def test_nobody_searches_and_nothing_is_held_back(clock: Clock) -> None:
    pace = pace_of()
    pace.look([beat(0)])
    assert pace.batch == IDLE_BATCH
    async with asyncio.timeout(5), pace.turn(), pace.turn():
        pass
    assert clock.rests == []


async def test_when_searches_begin_it_first_sees_how_they_fare_without_it(clock: Clock) -> None:
    pace = pace_of()
    pace.look([beat(0)])
    async with pace.turn():
        pass
    pace.look([beat(20)])
    assert pace.batch == BUSY_BATCH
    turn = pace.turn()
    waiting = asyncio.ensure_future(turn.__aenter__())
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    searched(pace, clock, 20, 5)
    async with asyncio.timeout(5):
        await waiting
    await turn.__aexit__(None, None, None)


async def test_what_begins_among_searches_knows_how_they_fared_and_begins_gently(clock: Clock) -> None:
    pace = pace_of()
    searched(pace, clock, 20, 100)
    # what comes before the first call may hold up searches for a moment
    searched(pace, clock, 90, 1, p50_ms=60)
    assert await rest_s(pace, clock) == pytest.approx(1 / module._LEAST - 1)
    await worked(pace, clock, 30, 2.5, p50_ms=15)
    assert await rest_s(pace, clock) > 10


async def test_rests_shrink_while_searches_are_as_quick_as_before_and_grow_when_they_are_not(clock: Clock) -> None:
    pace = pace_of()
    searched(pace, clock, 20, 5)
    await worked(pace, clock, 20, 2)
    first = await rest_s(pace, clock)
    await worked(pace, clock, 25, 10)
    quicker = await rest_s(pace, clock)
    await worked(pace, clock, 27, 8)
    slower = await rest_s(pace, clock)
    assert quicker < first
    assert slower > quicker
    # meanwhile the quiet latency is measured anew
    await worked(pace, clock, 27, 100)
    assert await rest_s(pace, clock) < slower


async def test_one_slow_search_is_chance(clock: Clock) -> None:
    pace = pace_of()
    searched(pace, clock, 20, 10)
    await worked(pace, clock, 20, 10)
    before = await rest_s(pace, clock)
    # it is among the last three seconds' for three seconds
    await worked(pace, clock, 200, 3)
    assert await rest_s(pace, clock) < before


async def test_rests_grow_when_the_usual_searches_take_longer_though_the_slowest_do_not(clock: Clock) -> None:
    pace = pace_of()
    searched(pace, clock, 20, 5)
    await worked(pace, clock, 20, 10, p50_ms=11)
    before = await rest_s(pace, clock)
    await worked(pace, clock, 20, 2, p50_ms=12)
    assert await rest_s(pace, clock) > before


async def test_searches_that_are_slower_for_another_reason_hold_it_back_for_seconds_not_minutes(clock: Clock) -> None:
    pace = pace_of()
    searched(pace, clock, 20, 5)
    await worked(pace, clock, 20, 10)
    # whatever it does
    await worked(pace, clock, 60, 9)
    least = await rest_s(pace, clock)
    assert least == pytest.approx(1 / module._LEAST - 1)
    await worked(pace, clock, 60, 20)
    assert await rest_s(pace, clock) < least / 4


async def test_searches_that_got_quicker_are_noticed_within_a_minute_or_so(clock: Clock) -> None:
    pace = pace_of()
    searched(pace, clock, 60, 20, p50_ms=30)
    await worked(pace, clock, 20, 70)
    # it knows by now that 10 ms are possible, and that these are too many
    await worked(pace, clock, 20, 3, p50_ms=20)
    assert await rest_s(pace, clock) > 2


async def test_one_call_at_a_time_while_there_are_searches(clock: Clock) -> None:
    pace = pace_of()
    searched(pace, clock, 20, 5)
    async with pace.turn():
        second = asyncio.ensure_future(pace.turn().__aenter__())
        await asyncio.wait([second], timeout=0.05)
        assert not second.done()
        second.cancel()
