"""Searches answered from the result cache when nothing was written since, and computed once when many ask the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from services.backends.cache import Cache
from services.backends.index import Collection, Index
from services.common.errors import InvalidArgument
from services.common.single_flight import SingleFlight
from services.common.telemetry import Metrics
from services.gateway.embedding import Embedder
from services.gateway.page_tokens import PageToken
from services.gateway.search import SearchAnswer, Searcher, SearchRequest
from services.gateway.serving import Serving

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
        encode: Callable[[SearchAnswer], bytes],
    ) -> None:
        self._searcher = searcher
        self._embedder = embedder
        self._cache = cache
        self._cache_ttl_s = cache_ttl_s
        self._index = index
        self._serving = serving
        self._metrics = metrics
        self._encode = encode
        self._flights: SingleFlight[bytes] = SingleFlight()

    async def search(self, request: SearchRequest, timeout_s: float | None) -> tuple[bytes, bool]:
        """The encoded answer, and whether it came from the cache.

        Raises:
            what Searcher.search raises; InvalidArgument for a page token that does not fit.
        """
        digest = request.digest()
        collection = await self._collection(request.page_token, digest)
        page = hashlib.sha256(str(request.page_token or "").encode()).hexdigest()[:16]
        result_key = self._cache.key("result", collection.name, digest, page)
        pictures = [part.picture for part in request.parts if part.picture]
        embedding_keys = [self._embedder.cache_key(picture, collection.model_version) for picture in pictures]
        with self._metrics.stage("cache"):
            found = await self._cache.fetch([result_key, *embedding_keys])
        stored, *embeddings = found.values
        # both halves of the epoch, read before the search: what is written after makes this result unusable
        fence = self._serving.fresh_fence
        usable = found.epoch is not None and fence is not None
        tag = hashlib.sha256((found.epoch or b"") + (fence or "").encode()).digest()[:16]
        hit = usable and stored is not None and stored.startswith(tag)
        self._metrics.cache.labels("result", "hit" if hit else "miss" if usable else "unavailable").inc()
        if hit and stored is not None:
            return stored[len(tag) :], True
        known = {key: value for key, value in zip(embedding_keys, embeddings, strict=True) if value is not None}

        async def work() -> bytes:
            encoded = self._encode(await self._searcher.search(request, collection, known, timeout_s))
            if usable:
                self._cache.store(result_key, tag + encoded, self._cache_ttl_s)
            return encoded

        # without an epoch nothing tells a search from before a write from one after it
        return await (self._flights.run((result_key, tag), work) if usable else work()), False

    async def _collection(self, token: PageToken | None, digest: str) -> Collection:
        """The collection in service or, for a further page, the one where its search began."""
        serving = self._serving.collection
        if token is None:
            return serving
        if token.request != digest:
            raise InvalidArgument(
                "the page token belongs to another request: only page_token may change from page to page",
                reason="PAGE_TOKEN_MISMATCH",
                field="page_token",
            )
        if token.collection == serving.name:
            return serving
        pinned = (
            await self._index.collections.describe(token.collection)
            if _COLLECTION_NAME.match(token.collection)
            else None
        )
        if pinned is None:
            raise InvalidArgument(
                "the collection of this page token is gone: search again from the first page",
                reason="PAGE_TOKEN_EXPIRED",
                field="page_token",
            )
        return pinned
