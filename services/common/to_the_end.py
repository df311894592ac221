"""Work that must not stop half-way because whoever waits for it goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """What the work gives. A caller that is cancelled meanwhile, however often, is let go when the work is done."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        # nobody asks for it any more
        task.cancelled() or task.exception()
        raise asyncio.CancelledError
    return task.result()
