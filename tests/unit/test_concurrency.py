"""Batcher, SingleFlight and in_order: what they promise, and what they do when callers go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.common.batching import Batcher
from services.common.ordered import in_order
from services.common.single_flight import SingleFlight


async def test_batcher_collects_what_arrives_while_a_call_runs() -> None:
    calls: list[list[int]] = []
    gate = asyncio.Event()

    async def run(items: list[int]) -> list[int]:
        calls.append(items)
        await gate.wait()
        return [item * 10 for item in items]

    batcher: Batcher[int, int] = Batcher(run, max_items=3)
    first = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0.01)
    rest = [asyncio.create_task(batcher.submit(i)) for i in (2, 3, 4, 5)]
    await asyncio.sleep(0.01)
    assert calls == [[1]]
    gate.set()
    assert await asyncio.gather(first, *rest) == [10, 20, 30, 40, 50]
    assert calls == [[1], [2, 3, 4], [5]]


async def test_batcher_gives_each_caller_its_own_error() -> None:
    async def run(items: list[int]) -> list[int | BaseException]:
        return [ValueError(str(item)) if item % 2 else item for item in items]

    batcher: Batcher[int, int] = Batcher(run, max_items=8)
    results = await asyncio.gather(*(batcher.submit(i) for i in range(4)), return_exceptions=True)
    assert [r if isinstance(r, int) else str(r) for r in results] == [0, "1", 2, "3"]


async def test_batcher_survives_a_failing_call_and_a_cancelled_caller() -> None:
    seen: list[list[int]] = []

    async def run(items: list[int]) -> list[int]:
        seen.append(items)
        await asyncio.sleep(0.01)
        if 1 in items:
            raise RuntimeError("down")
        return items

    batcher: Batcher[int, int] = Batcher(run, max_items=1)
    with pytest.raises(RuntimeError, match="down"):
        await batcher.submit(1)
    running = asyncio.create_task(batcher.submit(2))
    await asyncio.sleep(0)
    gone = asyncio.create_task(batcher.submit(3))
    await asyncio.sleep(0)
    gone.cancel()
    assert await running == 2
    assert await batcher.submit(4) == 4
    assert [3] not in seen


async def test_batcher_never_forgets_a_caller_that_comes_as_a_call_ends() -> None:
    """Callers submit again in the very turn of the loop in which the batcher runs out of work."""

    async def run(items: list[int]) -> list[int]:
        return items

    for concurrency in (1, 2):
        batcher: Batcher[int, int] = Batcher(run, max_items=4, concurrency=concurrency)

        async def caller(number: int, batcher: Batcher[int, int] = batcher) -> None:
            for turn in range(50):
                assert await batcher.submit(number) == number
                for _ in range((number + turn) % 4):
                    await asyncio.sleep(0)

        async with asyncio.timeout(10):
            await asyncio.gather(*(caller(number) for number in range(3)))


async def test_single_flight_runs_identical_work_once() -> None:
    runs = 0

    async def work() -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.01)
        return runs

    flights: SingleFlight[int] = SingleFlight()
    assert await asyncio.gather(*(flights.run("a", work) for _ in range(5))) == [1] * 5
    assert await flights.run("a", work) == 2


async def test_single_flight_goes_on_while_one_caller_is_left_and_stops_with_the_last() -> None:
    cancelled = asyncio.Event()

    async def work() -> str:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "done"

    flights: SingleFlight[str] = SingleFlight()
    leaves = asyncio.create_task(flights.run("a", work))
    stays = asyncio.create_task(flights.run("a", work))
    await asyncio.sleep(0)
    leaves.cancel()
    assert await stays == "done"
    alone = asyncio.create_task(flights.run("a", work))
    await asyncio.sleep(0.01)
    alone.cancel()
    await asyncio.wait_for(cancelled.wait(), 1)
    assert await flights.run("a", work) == "done"


async def _items(count: int) -> AsyncIterator[int]:
    for item in range(count):
        yield item


async def test_in_order_answers_in_order_and_bounds_what_is_in_flight() -> None:
    running, most = 0, 0

    async def work(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02 if item % 3 == 0 else 0.001)
        running -= 1
        return item

    assert [r async for r in in_order(_items(20), work, max_in_flight=4)] == list(range(20))
    assert 1 < most <= 4


async def test_in_order_passes_on_an_error_of_the_stream_and_cancels_the_rest() -> None:
    cancelled = 0

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ConnectionError("gone")

    async def work(item: int) -> int:
        nonlocal cancelled
        try:
            await asyncio.sleep(60 * item)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return item

    with pytest.raises(ConnectionError):
        [r async for r in in_order(broken(), lambda item: work(0), max_in_flight=4)]
    results = in_order(_items(10), work, max_in_flight=4)
    assert await anext(results) == 0
    await results.aclose()  # type: ignore[attr-defined]
    assert cancelled == 3
