"""A cancellation that somebody else's code has lost is raised again."""

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
