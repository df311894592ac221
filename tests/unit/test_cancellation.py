"""A task that is cancelled stops, whatever answer comes in the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from services.backends.milvus import IndexSettings, Milvus
from services.common.cancellation import cancellation_kept, end

Answer = Callable[["asyncio.Future[str]"], None]


def answered(future: asyncio.Future[str]) -> None:
    future.set_result("answer")


def failed(future: asyncio.Future[str]) -> None:
    future.set_exception(ConnectionError("no answer"))


async def cancelled_while(answer: Answer, work: Callable[[Awaitable[str]], Awaitable[str]]) -> asyncio.Task[str]:
    """The ended task of `work`, which waits by wait_for for an answer that comes together with the cancellation."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run() -> str:
        return await work(asyncio.wait_for(future, 10))

    task = asyncio.create_task(run())
    await asyncio.sleep(0.05)
    answer(future)
    task.cancel()
    await asyncio.wait([task])
    return task


@pytest.mark.parametrize("answer", [answered, failed])
async def test_a_lost_cancellation_is_raised_again(answer: Answer) -> None:
    async def kept(waited: Awaitable[str]) -> str:
        with cancellation_kept():
            return await waited

    assert (await cancelled_while(answer, kept)).cancelled()


@pytest.mark.parametrize("answer", [answered, failed])
async def test_a_call_to_milvus_keeps_it(answer: Answer) -> None:
    async with Milvus(IndexSettings(uri="http://127.0.0.1:1")) as milvus:
        assert (await cancelled_while(answer, lambda waited: milvus.call(lambda _: waited))).cancelled()


async def test_what_was_not_cancelled_is_left_alone() -> None:
    with cancellation_kept():
        assert await asyncio.wait_for(asyncio.sleep(0, "answer"), 1) == "answer"
    with pytest.raises(ConnectionError), cancellation_kept():
        raise ConnectionError

    async def late() -> None:
        async with asyncio.timeout(0.01):
            with cancellation_kept():
                await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        await late()
    # one that came before and was heeded is not this block's
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    with cancellation_kept():
        await asyncio.sleep(0)
    task.uncancel()


async def test_a_task_is_ended_before_its_owner_goes_on() -> None:
    trace: list[str] = []

    async def work(error: Exception | None = None) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.01)
            trace.append("ended")
            if error:
                raise error

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await end(task)
    assert trace == ["ended"]
    await end(task)
    await end(None)
    failing = asyncio.create_task(work(ConnectionError()))
    await asyncio.sleep(0)
    with pytest.raises(ConnectionError):
        await end(failing)
