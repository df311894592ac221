"""Our only door to Milvus: the collections of products, searched, read and written.

Freshness. A write returns when it is durable *and* searches see it. Milvus applies writes in batches (every 200 ms as
it comes), and a search that must see the newest write ("Strong") waits for the next batch, every time. Here the writer
waits instead, once, and searches ask for no more than Milvus' "Bounded": all that is older than 5 s. That covers what a
Milvus that has just been restarted may not have applied again; what this process wrote within those 5 s is asked for
by its timestamp, and so is `after_ts`, for a caller who knows of somebody else's write. It needs one replica of the
collection in memory, which is what `Collections.ensure_loaded` asks for: a second one would not know that the first
is up to date.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from pymilvus import AsyncMilvusClient

from services.backends import index_rows
from services.backends.collections import Collections
from services.backends.filter_expressions import ascii_only
from services.backends.index_rows import Fingerprint, Hit, Row, Vector
from services.backends.index_schema import IMAGE_COLUMNS, MAX_LIMIT, PRODUCT_COLUMNS, VECTOR, Collection, both, literal
from services.backends.milvus import CollectionNotLoaded, IndexSettings, Milvus, Permit
from services.common.products import MAX_IMAGES

__all__ = [
    "DISCARDED",
    "MAIN_IMAGES",
    "MAX_LIMIT",
    "Collection",
    "Fingerprint",
    "Hit",
    "Index",
    "IndexSettings",
    "Row",
    "Vector",
]

# expression for one image of every product
MAIN_IMAGES = "position == 0"
# behind every image a product may have; rows that only wait for their deletion stand there
DISCARDED = MAX_IMAGES

T = TypeVar("T")

_FILTERED_EF = 512
_MAX_EF = 32_768
_ROW_COLUMNS = [*PRODUCT_COLUMNS, *IMAGE_COLUMNS]
_HIT_COLUMNS = [*PRODUCT_COLUMNS, "image", "sha256", "uri", "region"]
_FINGERPRINT_COLUMNS = ["id", "product", "sha256", "region", "position", "update_time"]
# how far "Bounded" lies behind (Milvus' common.gracefulTime)
_BOUNDED_S = 5.0
# of one write: Milvus' messages hold 5 MB, and what is in one message is applied as a whole
_WRITE_BYTES = 4_000_000
_IDS_PER_QUERY = 200
# of one page with vectors: 16 MB
_PAGE_FLOATS = 4_000_000


class Index:
    """Use as `async with Index(settings) as index`. Entering does not need Milvus to be up.

    Every method raises Unavailable when Milvus fails or takes longer than the settings' timeout, and DeadlineExceeded
    when it takes longer than the `timeout_s` of the call. After an outage the same object works again.

    Args:
        permit: awaited directly before each call that changes anything; raises when this process may not.
    """

    def __init__(self, settings: IndexSettings, permit: Permit | None = None) -> None:
        self._settings = settings
        self._milvus = Milvus(settings, permit)
        # Milvus Lite loses writes that come at the same time
        self._write_locks: dict[str, asyncio.Lock] = {}
        self._is_lite: bool | None = None
        self.collections = Collections(settings, self._milvus)
        # by collection: timestamp of the last write that searches were seen to see, and when (monotonic)
        self._written: dict[str, tuple[int, float]] = {}

    async def __aenter__(self) -> Index:
        await self._milvus.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._milvus.__aexit__(kind, error, trace)

    async def version(self) -> str:
        """The server's version. The cheapest sign of life."""
        return str(await self._milvus.call(lambda client: client.get_server_version()))

    # -- reading -------------------------------------------------------------------------------------------------

    async def search(
        self,
        collection: Collection,
        vector: Vector,
        limit: int,
        expression: str = "",
        *,
        after_ts: int = 0,
        timeout_s: float | None = None,
    ) -> list[Hit]:
        """The nearest images, the most similar first; approximate (HNSW).

        Args:
            vector: float32 [D], unit length.
            limit: 1 to MAX_LIMIT.
            expression: Milvus expression that every image must satisfy.
            after_ts: wait until this write (of any process) is seen.
        """
        query = [np.ascontiguousarray(vector, np.float32)]
        expression = await self._as_sent(expression)
        found = await self._read(
            collection.name,
            lambda client: client.search(
                collection.name,
                query,
                filter=expression,
                limit=limit,
                output_fields=_HIT_COLUMNS,
                anns_field=VECTOR,
                search_params={"params": {"ef": self._candidates(limit, expression)}},
                **self._consistency(collection.name, after_ts),
            ),
            timeout_s,
        )
        return [_hit(hit) for hit in found[0]]

    async def match_vectors(
        self, collection: Collection, expression: str, limit: int = MAX_LIMIT, *, timeout_s: float | None = None
    ) -> list[Row]:
        """The rows that match, with vectors, at most `limit`, in the order of their keys."""
        page_rows = min(MAX_LIMIT, max(256, _PAGE_FLOATS // collection.dimension))
        rows: list[Row] = []
        while len(rows) < limit:
            wanted = min(page_rows, limit - len(rows))
            after = rows[-1].key if rows else ""
            page = await self._scan(collection, expression, after, wanted, [*_ROW_COLUMNS, VECTOR], timeout_s)
            rows += page
            if len(page) < wanted:
                break
        return rows

    async def scan(
        self, collection: Collection, expression: str, after_key: str, limit: int, *, timeout_s: float | None = None
    ) -> list[Row]:
        """The first rows that match behind `after_key`, at most `limit`, in the order of their keys; no vectors."""
        return await self._scan(collection, expression, after_key, limit, _ROW_COLUMNS, timeout_s)

    async def fingerprints(self, collection: Collection, after_key: str, limit: int) -> list[Fingerprint]:
        """What the first rows behind `after_key` hold, at most `limit`, in the order of their keys."""
        found = await self._read(
            collection.name,
            lambda client: client.query(
                collection.name,
                filter=f"id > {literal(after_key)}",
                output_fields=_FINGERPRINT_COLUMNS,
                limit=min(limit, MAX_LIMIT),
                iterator="True",
            ),
            None,
        )
        return await asyncio.to_thread(index_rows.to_fingerprints, found)

    async def product_rows(
        self,
        collection: Collection,
        product_ids: Sequence[str],
        *,
        vectors: bool,
        after_ts: int = 0,
        timeout_s: float | None = None,
    ) -> dict[str, list[Row]]:
        """The rows of each product in the order of its images. Products that do not exist are left out."""
        columns = [*_ROW_COLUMNS, VECTOR] if vectors else _ROW_COLUMNS
        rows: list[Row] = []
        for start in range(0, len(product_ids), _IDS_PER_QUERY):
            ids = ", ".join(map(literal, product_ids[start : start + _IDS_PER_QUERY]))
            rows += await self._query(
                collection.name,
                f"product in [{ids}]",
                columns,
                timeout_s,
                **self._consistency(collection.name, after_ts),
            )
        return index_rows.by_product(rows)

    async def count(
        self, collection: Collection, expression: str = "", *, after_ts: int = 0, timeout_s: float | None = None
    ) -> int:
        """How many images match; with MAIN_IMAGES, how many products there are."""
        expression = await self._as_sent(expression)
        found = await self._read(
            collection.name,
            lambda client: client.query(
                collection.name,
                # empty for all: Milvus Lite would read every row for any other expression
                filter=expression,
                output_fields=["count(*)"],
                **self._consistency(collection.name, after_ts),
            ),
            timeout_s,
        )
        return int(found[0]["count(*)"])

    # -- writing -------------------------------------------------------------------------------------------------

    async def upsert(self, collection: Collection, rows: Sequence[Row], *, timeout_s: float | None = None) -> int:
        """Writes rows over those of the same keys. All rows of one product are written or none is.

        Returns:
            Milvus' timestamp of the write, for `after_ts`; 0 when the engine has none.

        Raises:
            InvalidArgument: a product is larger than Milvus can store; nothing was written.
        """
        unique = sorted({row.key: row for row in rows}.values(), key=lambda row: row.product.id)
        parts = list(index_rows.chunks(unique, _WRITE_BYTES))
        async with self._write_lock(collection.name):
            for part in parts:
                await self._write(collection.name, part, timeout_s)
        timestamp = self._milvus.write_timestamp(collection.name)
        # an engine without timestamps (Milvus Lite) applies writes at once
        if timestamp:
            await self._see(collection.name, _at_least(timestamp), timeout_s)
            self._written[collection.name] = max(
                self._written.get(collection.name, (0, 0.0)), (timestamp, time.monotonic())
            )
        return timestamp

    async def delete(
        self, collection: Collection, images: Sequence[tuple[str, str]], *, timeout_s: float | None = None
    ) -> None:
        """Removes images by (product id, image id); those that do not exist are passed over."""
        keys = [index_rows.key(product_id, image_id) for product_id, image_id in images]
        if not keys:
            return
        async with self._write_lock(collection.name):
            # in a thread: the asynchronous client's delete does not look at what the server answers
            await self._milvus.change_blocking(
                lambda client, limit_s: client.delete(collection.name, ids=keys, timeout=limit_s),
                self._settings.timeout_s,
                timeout_s,
            )
        # Milvus tells no timestamp of a delete
        await self._see(collection.name, {"consistency_level": "Strong"}, timeout_s)

    async def _write(self, name: str, part: list[dict[str, Any]], timeout_s: float | None) -> None:
        await self._milvus.change(lambda client: client.upsert(name, part), timeout_s)

    async def _see(self, name: str, consistency: dict[str, Any], timeout_s: float | None) -> None:
        """Returns when searches see what `consistency` asks for."""
        await self._read(
            name,
            lambda client: client.query(name, filter='id == ""', output_fields=["id"], **consistency),
            timeout_s,
        )

    # -- parts ---------------------------------------------------------------------------------------------------

    def _write_lock(self, name: str) -> asyncio.Lock:
        return self._write_locks.setdefault(name, asyncio.Lock())

    def _consistency(self, name: str, after_ts: int) -> dict[str, Any]:
        own_ts, when = self._written.get(name, (0, 0.0))
        if time.monotonic() - when < _BOUNDED_S:
            after_ts = max(after_ts, own_ts)
        return _at_least(after_ts) if after_ts else {"consistency_level": "Bounded"}

    async def _scan(
        self,
        collection: Collection,
        expression: str,
        after: str,
        limit: int,
        columns: list[str],
        timeout_s: float | None,
    ) -> list[Row]:
        # `iterator` is what makes rows come in the order of their keys; it reads at the collection's own level, Bounded
        return await self._query(
            collection.name,
            both(expression, f"id > {literal(after)}"),
            columns,
            timeout_s,
            limit=min(limit, MAX_LIMIT),
            iterator="True",
        )

    async def _query(
        self, name: str, expression: str, columns: list[str], timeout_s: float | None, **options: Any
    ) -> list[Row]:
        expression = await self._as_sent(expression)
        found = await self._read(
            name,
            lambda client: client.query(name, filter=expression, output_fields=columns, strict_float32=True, **options),
            timeout_s,
        )
        if VECTOR in columns and len(found) > 64:
            return await asyncio.to_thread(index_rows.to_rows, found)
        return index_rows.to_rows(found)

    def _candidates(self, limit: int, expression: str) -> int:
        """HNSW's ef. A filter takes candidates away while the graph is searched, so it needs many more; and what one
        page misses, no later page can show."""
        wanted = max(4 * limit, _FILTERED_EF) if expression else 2 * limit
        return min(_MAX_EF, max(wanted, self._settings.hnsw_ef))

    async def _as_sent(self, expression: str) -> str:
        """Servers get ASCII: newer ones spoil some characters before they parse. Milvus Lite knows no escapes."""
        if expression.isascii():
            return expression
        if self._is_lite is None:
            self._is_lite = "lite" in await self.version()
        return expression if self._is_lite else ascii_only(expression)

    async def _read(
        self, name: str, request: Callable[[AsyncMilvusClient], Awaitable[T]], timeout_s: float | None
    ) -> T:
        try:
            return await self._milvus.call(request, timeout_s)
        except CollectionNotLoaded:
            # Milvus Lite does not load by itself what was loaded before a restart
            await self.collections.ensure_loaded(name)
            return await self._milvus.call(request, timeout_s)


def _hit(found: Any) -> Hit:
    product_id, _, image_id = found["id"].partition("/")
    columns = found["entity"]
    return Hit(
        product_id=product_id,
        image_id=image_id,
        cosine=min(1.0, max(-1.0, found["distance"])),
        product=index_rows.to_product(columns),
        image=index_rows.to_image(columns),
    )


def _at_least(timestamp: int) -> dict[str, Any]:
    return {"consistency_level": "Customized", "guarantee_timestamp": timestamp}
