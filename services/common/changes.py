"""Telling tasks that something has changed. It takes no lock, so a task can tell while it is being cancelled."""

from __future__ import annotations

import asyncio
import contextlib


class Changes:
    """What others wait for in a loop: look, and if it is not yet so, wait for the next change."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        """Wakes everybody who waits."""
        self._next.set()
        self._next = asyncio.Event()

    def mark(self) -> asyncio.Event:
        """For `wait`, taken before a look that takes a while: what changes meanwhile is not missed."""
        return self._next

    async def wait(self, limit_s: float | None = None, since: asyncio.Event | None = None) -> None:
        """Returns at the next change, or the next since `mark`, or after the time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await (since or self._next).wait()
