"""The change log: which products were written while a second collection follows the first, as a Redis stream.

An entry says "this product may have changed", never how: whoever reads it copies the product as it is then. So
entries may come twice, in any order, and too many. None may be missing: see `intact`, and docs/decisions/0008.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio as redis

from services.backends.coordination import Coordination
from services.common.batching import Batcher
from services.common.errors import Unavailable

START = "0-0"


class LogLost(Unavailable):
    """The change log may lack entries: Redis was lost, or could not be told of a write."""

    reason = "CHANGE_LOG_LOST"


@dataclass(frozen=True, slots=True)
class Entry:
    """`id`: its place, in the order of `place`. `collection`: the one that was written."""

    id: str
    product: str
    collection: str


def place(entry_id: str) -> tuple[int, int]:
    """An entry's id as something that compares."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)


class ChangeLog:
    """All logs of this Redis, by their ids. Every method raises Unavailable when Redis does not answer."""

    def __init__(self, coordination: Coordination) -> None:
        self._coordination = coordination
        self._appends: Batcher[tuple[str, str, str], None] = Batcher(self._append, max_items=128)

    async def open(self, log: str) -> None:
        """Begins a log, before anybody is told of it."""
        run_id = await self._coordination.run_id()

        async def begin(client: redis.Redis) -> Any:
            pipeline = client.pipeline(transaction=True)
            pipeline.set(self._mark(log), run_id)
            # an empty stream: entries are not taken by a Redis that has none
            pipeline.xadd(self._stream(log), {"begun": run_id})
            pipeline.xtrim(self._stream(log), maxlen=0, approximate=False)
            return await pipeline.execute()

        await self._coordination.call(begin)

    async def append(self, log: str, product: str, collection: str) -> None:
        """Enters a product. Raises Unavailable when that is not certain; LogLost, when this Redis lacks the log."""
        await self._appends.submit((log, product, collection))

    async def read(self, log: str, after: str = START, count: int = 500, *, until: str = "") -> list[Entry]:
        """The first entries behind `after`, in their order; up to `until`, when it is given."""
        found = await self._coordination.call(
            lambda client: client.xrange(self._stream(log), min=f"({after}", max=until or "+", count=count)
        )
        return [
            Entry(id=entry_id.decode(), product=fields[b"p"].decode(), collection=fields[b"c"].decode())
            for entry_id, fields in found
        ]

    async def length(self, log: str) -> int:
        """How many entries there are."""
        return int(await self._coordination.call(lambda client: client.xlen(self._stream(log))))

    async def last(self, log: str) -> str:
        """The place of the newest entry."""
        found = await self._coordination.call(lambda client: client.xrevrange(self._stream(log), count=1))
        return str(found[0][0].decode()) if found else START

    async def trim(self, log: str, through: str) -> None:
        """Forgets the entries up to and including `through`."""
        milliseconds, number = place(through)
        await self._coordination.call(
            lambda client: client.xtrim(self._stream(log), minid=f"{milliseconds}-{number + 1}", approximate=False)
        )

    async def intact(self, log: str) -> bool:
        """Whether no entry can have been lost since `open`: the same server process, and nobody emptied it.

        A server that was started again may have lost its last second; one that was flushed lost the mark and the
        stream too, and nobody but `open` makes them.
        """

        async def look(client: redis.Redis) -> Any:
            pipeline = client.pipeline(transaction=True)
            pipeline.get(self._mark(log))
            pipeline.exists(self._stream(log))
            return await pipeline.execute()

        mark, stream = await self._coordination.call(look)
        return bool(stream) and mark is not None and mark.decode() == await self._coordination.run_id()

    async def close(self, log: str) -> None:
        """Forgets the log."""
        await self._coordination.call(lambda client: client.delete(self._stream(log), self._mark(log)))

    async def _append(self, batch: list[tuple[str, str, str]]) -> Sequence[BaseException | None]:
        async def add(client: redis.Redis) -> Any:
            pipeline = client.pipeline(transaction=False)
            for log, product, collection in batch:
                # a Redis that was lost and came back empty must not begin the log anew: it would pass for a whole one
                pipeline.xadd(self._stream(log), {"p": product, "c": collection}, nomkstream=True)
            return await pipeline.execute()

        added = await self._coordination.call(add)
        return [
            None if entry else LogLost(f"this Redis does not hold the change log {log}")
            for entry, (log, *_) in zip(added, batch, strict=True)
        ]

    def _stream(self, log: str) -> str:
        return self._coordination.key("changes", log)

    def _mark(self, log: str) -> str:
        return self._coordination.key("changes", log, "run-id")
