"""A bound on the memory of concurrent work."""

from __future__ import annotations

import asyncio
from collections import deque


class Admission:
    """Lets work in, first come first served, while what is inside stays within bounds.

    Args:
        capacity_bytes: memory for all that is inside; nothing larger can ever come in.
        slots: how many may be inside.
    """

    def __init__(self, capacity_bytes: int, slots: int) -> None:
        self._free_bytes = capacity_bytes
        self._free_slots = slots
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, size_bytes: int) -> None:
        """Waits for its turn. A caller that is cancelled holds nothing; others must `release` the same size."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size_bytes, turn)
        self._waiting.append(entry)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._admit()  # who stood behind may fit
            else:
                self.release(size_bytes)
            raise

    def release(self, size_bytes: int) -> None:
        self._free_bytes += size_bytes
        self._free_slots += 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._free_slots and self._waiting[0][0] <= self._free_bytes:
            size_bytes, turn = self._waiting.popleft()
            self._free_bytes -= size_bytes
            self._free_slots -= 1
            if not turn.done():
                turn.set_result(None)
