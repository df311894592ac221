"""Natural batching: while one call runs, what arrives waits and goes together with the next. Nothing waits idle."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Collects items of concurrent callers into calls of at most `max_items`, at most `concurrency` calls at a time.

    Args:
        run: takes a list of items and returns one result, or one exception, for each, in order. If it raises, every
            item of that call gets the exception.
    """

    def __init__(
        self, run: Callable[[list[T]], Awaitable[Sequence[R | BaseException]]], *, max_items: int, concurrency: int = 1
    ) -> None:
        self._run = run
        self._max_items = max_items
        self._concurrency = concurrency
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._active = 0
        # the event loop itself holds tasks only weakly
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: T) -> R:
        """The result for this item. A caller that is cancelled while waiting leaves the batch."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._active < self._concurrency:
            self._active += 1
            # a task starts after this turn of the loop: callers of the same turn share its call
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _drain(self) -> None:
        try:
            await self._run_all()
        finally:
            # in the same turn of the loop that found nothing waiting: who comes now starts a task of its own
            self._active -= 1

    async def _run_all(self) -> None:
        while self._waiting:
            batch: list[tuple[T, asyncio.Future[R]]] = []
            while self._waiting and len(batch) < self._max_items:
                entry = self._waiting.popleft()
                if not entry[1].done():
                    batch.append(entry)
            if not batch:
                return
            try:
                results = await self._run([item for item, _ in batch])
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error if isinstance(error, Exception) else RuntimeError("stopped"))
                if not isinstance(error, Exception):
                    raise
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)
