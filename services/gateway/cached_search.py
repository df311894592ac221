"""Searches answered from the result cache when nothing was written since, and computed once when many ask the same."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable

from services.backends.cache import Cache
from services.backends.index import Index
from services.common.errors import InvalidArgument
from services.common.single_flight import SingleFlight
from services.common.telemetry import Metrics
from services.gateway.comparison import Comparison
from services.gateway.embedding import Embedder
from services.gateway.page_tokens import PageToken
from services.gateway.search import SearchAnswer, Searcher, SearchRequest
from services.gateway.search_stats import SearchStats
from services.gateway.serving import Pair, Serving

_COLLECTION_NAME = re.compile(r"products_m[0-9]{1,9}\Z")


class CachedSearch:
    """Args:
    encode: makes an answer into the bytes that are kept and given back.
    """

    def __init__(
        self,
        searcher: Searcher,
        embedder: Embedder,
        cache: Cache,
        cache_ttl_s: int,
        index: Index,
        serving: Serving,
        metrics: Metrics,
        stats: SearchStats,
        comparison: Comparison,
        encode: Callable[[SearchAnswer], bytes],
    ) -> None:
        self._searcher = searcher
        self._embedder = embedder
        self._cache = cache
        self._cache_ttl_s = cache_ttl_s
        self._index = index
        self._serving = serving
        self._metrics = metrics
        self._stats = stats
        self._comparison = comparison
        self._encode = encode
        self._flights: SingleFlight[bytes] = SingleFlight()

    async def search(self, request: SearchRequest, caller: str, timeout_s: float | None) -> tuple[bytes, bool]:
        """The encoded answer, and whether it came from the cache.

        Args:
            caller: who asks, by a name that stays the same; of use to a canary.

        Raises:
            what Searcher.search raises; InvalidArgument for a page token that does not fit.
        """
        start = time.perf_counter()
        answer = await self._search(request, caller, timeout_s)
        self._stats.ended(time.perf_counter() - start)
        return answer

    async def _search(self, request: SearchRequest, caller: str, timeout_s: float | None) -> tuple[bytes, bool]:
        digest = request.digest()
        pair = await self._pair(request.page_token, digest, caller)
        with self._serving.searching(pair.collection):
            return await self._search_in(pair, request, digest, timeout_s)

    async def _search_in(
        self, pair: Pair, request: SearchRequest, digest: str, timeout_s: float | None
    ) -> tuple[bytes, bool]:
        collection = pair.collection
        page = hashlib.sha256(str(request.page_token or "").encode()).hexdigest()[:16]
        result_key = self._cache.key("result", collection.name, str(pair.query_version), digest, page)
        pictures = [part.picture for part in request.parts if part.picture]
        embedding_keys = [self._embedder.cache_key(picture, pair.query_version) for picture in pictures]
        with self._metrics.stage("cache"):
            found = await self._cache.fetch([result_key, *embedding_keys])
        stored, *embeddings = found.values
        # both halves of the epoch, read before the search: what is written after makes this result unusable. They tell
        # of the serving collection alone: a mirror follows a moment later, without an epoch of its own
        fence = self._serving.fresh_fence
        usable = found.epoch is not None and fence is not None and pair.serving
        tag = hashlib.sha256((found.epoch or b"") + (fence or "").encode()).digest()[:16]
        hit = usable and stored is not None and stored.startswith(tag)
        self._metrics.cache.labels("result", "hit" if hit else "miss" if usable else "unavailable").inc()
        if hit and stored is not None:
            return stored[len(tag) :], True
        known = {key: value for key, value in zip(embedding_keys, embeddings, strict=True) if value is not None}

        async def work() -> bytes:
            began = time.perf_counter()
            answer = None
            try:
                answer = await self._searcher.search(request, pair, known, timeout_s)
            finally:
                self._comparison.answered(request, pair, answer, time.perf_counter() - began)
            encoded = self._encode(answer)
            if usable:
                self._cache.store(result_key, tag + encoded, self._cache_ttl_s)
            return encoded

        # without an epoch nothing tells a search from before a write from one after it
        return await (self._flights.run((result_key, tag), work) if usable else work()), False

    async def _pair(self, token: PageToken | None, digest: str, caller: str) -> Pair:
        """What answers this caller or, for a further page, what answered the first one."""
        pair = await self._serving.pair(caller)
        if token is None:
            return pair
        if token.request != digest:
            raise InvalidArgument(
                "the page token belongs to another request: only page_token may change from page to page",
                reason="PAGE_TOKEN_MISMATCH",
                field="page_token",
            )
        if token.collection == pair.collection.name:
            return pair
        known = _COLLECTION_NAME.match(token.collection)
        pinned = await self._index.collections.describe(token.collection) if known else None
        if pinned is None:
            raise InvalidArgument(
                "the collection of this page token is gone: search again from the first page",
                reason="PAGE_TOKEN_EXPIRED",
                field="page_token",
            )
        return Pair(pinned, pinned.model_version, serving=False)
