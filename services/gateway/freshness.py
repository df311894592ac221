"""Read-your-writes in spite of cached results: the catalogue epoch in two halves (docs/decisions/0002).

The fast half is a token in Redis that each write renews before it is acknowledged. When Redis can't be told, the write
renews the slow half, the *fence*: a property of the collection in Milvus. Gateways use cached results only while they
have read the fence within `max_age_s`; so a writer that waits that long after renewing it knows that every gateway has
seen it. A cached result is used only if both halves are what they were when it was computed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from services.backends.cache import Cache
from services.backends.index import Index
from services.common.batching import Batcher
from services.gateway.serving import Serving
from services.gateway.settings import ServingSettings


class Freshness:
    """Called once for every write, after its rows are durable and before it is acknowledged."""

    def __init__(self, settings: ServingSettings, cache: Cache, index: Index, serving: Serving) -> None:
        self._max_age_s = settings.max_age_s
        self._cache = cache
        self._index = index
        self._serving = serving
        # writes that end while one renewal runs share the next: it begins after all of them
        self._renewals: Batcher[str, None] = Batcher(self._renew, max_items=1000, concurrency=1)

    async def written(self, collection_name: str) -> None:
        """Returns when no search that begins from now on can be answered from before the write.

        Raises:
            Unavailable: neither Redis nor Milvus could be told. The write itself is durable.
        """
        await self._renewals.submit(collection_name)

    async def _renew(self, collection_names: list[str]) -> Sequence[None]:
        if not await self._cache.renew_epoch():
            for name in sorted(set(collection_names)):
                await self._index.collections.keep(name, {"fence": secrets.token_hex(8)})
            await self._serving.refresh()
            await asyncio.sleep(self._max_age_s)
        return [None] * len(collection_names)
