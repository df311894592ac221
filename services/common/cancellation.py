"""Ending tasks, and cancellations that somebody else's code has lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Around awaits that may lose a cancellation: raises CancelledError at their end when one came and did not show.

    Before Python 3.12 `asyncio.wait_for`, with which redis-py and pymilvus wait, gives its answer or error instead of a
    cancellation that comes in the same moment; a task that then goes on could not be stopped any more.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


async def end(task: asyncio.Task[None] | None) -> None:
    """Cancels a task, if there is one, and returns when it has ended.

    Raises:
        What the task failed with; CancelledError when the caller is cancelled meanwhile.
    """
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
