"""A stream worked on concurrently and answered in order, with a bound on what is in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def in_order(
    items: AsyncIterator[T], work: Callable[[T], Awaitable[R]], *, max_in_flight: int
) -> AsyncIterator[R]:
    """Yields `work(item)` for every item, in order. Stops reading while `max_in_flight` items are not yet yielded.

    Closing the iterator, or an error of `items`, cancels what is in flight.
    """
    queue: asyncio.Queue[asyncio.Future[R] | None] = asyncio.Queue()
    free = asyncio.Semaphore(max_in_flight)
    started: set[asyncio.Future[R]] = set()

    async def read() -> None:
        try:
            async for item in items:
                # the next item is read only when there is room for the one after it
                task = asyncio.ensure_future(work(item))
                started.add(task)
                task.add_done_callback(started.discard)
                queue.put_nowait(task)
                await free.acquire()
        finally:
            queue.put_nowait(None)

    await free.acquire()
    reader = asyncio.create_task(read())
    try:
        while (task := await queue.get()) is not None:
            yield await task
            free.release()
        await reader  # raises what reading raised
    finally:
        reader.cancel()
        for task in list(started):
            task.cancel()
        await asyncio.gather(reader, *started, return_exceptions=True)
