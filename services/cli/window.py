"""How much may be under way at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Window:
    """Counts products and their bytes, from reading the files to the gateway's answer.

    Args:
        most_products: of them at a time.
        most_bytes: together; a product that is larger than this goes alone.
    """

    def __init__(self, most_products: int, most_bytes: int) -> None:
        self._most_products = most_products
        self._most_bytes = most_bytes
        self._products = 0
        self._bytes = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def holding(self, size: int) -> AsyncIterator[None]:
        """Waits until a product of `size` bytes fits in, and holds its place."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._fits(size))
            self._products += 1
            self._bytes += size
        try:
            yield
        finally:
            self._products -= 1
            self._bytes -= size
            async with self._changed:
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self._products or (self._products < self._most_products and self._bytes + size <= self._most_bytes)
