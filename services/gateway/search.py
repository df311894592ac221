"""A search from its checked request to its answer: query vector, nearest products, page, facets."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.backends.filter_expressions import to_milvus
from services.backends.index import Collection, Hit, Index, Vector
from services.common.errors import InvalidArgument, NotFound
from services.common.filters import Filter
from services.common.products import Product
from services.common.telemetry import Metrics
from services.gateway.embedding import Embedder, Picture
from services.gateway.nearest import NearestProducts
from services.gateway.page_tokens import PageToken
from services.gateway.serving import Pair

DEFAULT_PAGE_SIZE = 10
MAX_PAGE_SIZE = 200
MAX_PARTS = 8
MAX_WEIGHT = 10.0
MAX_FACETS = 8
MAX_FACET_VALUES = 100
# pages and facets reach this many nearest products
REACH = 1000


@dataclass(frozen=True, slots=True)
class QueryPart:
    """Either a picture or a stored product, and its weight."""

    picture: Picture | None
    product_id: str
    weight: float


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A request whose fields are within their limits."""

    parts: tuple[QueryPart, ...]
    filter: Filter | None
    facets: tuple[str, ...]
    page_size: int
    page_token: PageToken | None
    min_similarity: float

    def digest(self) -> str:
        """Of everything but the page token; equal for requests that ask the same."""
        parts = [
            (
                part.picture.sha256 if part.picture else part.product_id,
                part.picture.region.as_tuple() if part.picture and part.picture.region else None,
                part.weight,
            )
            for part in self.parts
        ]
        fields = [parts, str(self.filter or ""), self.facets, self.page_size, self.min_similarity]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """`facets` maps a field to its values with their counts, the most frequent first."""

    hits: tuple[Hit, ...]
    next_page_token: str
    facets: dict[str, list[tuple[str, int]]]
    pair: Pair
    embedding_cached: bool
    exact: bool


class Searcher:
    def __init__(self, index: Index, embedder: Embedder, nearest: NearestProducts, metrics: Metrics) -> None:
        self._index = index
        self._embedder = embedder
        self._nearest = nearest
        self._metrics = metrics

    async def search(
        self, request: SearchRequest, pair: Pair, cached: Mapping[str, bytes], timeout_s: float | None
    ) -> SearchAnswer:
        """Answers from one collection, by the one encoder version that goes with it.

        Args:
            cached: values of the embedding cache, by key.

        Raises:
            InvalidArgument, NotFound, Unavailable, Overloaded, DeadlineExceeded.
        """
        collection = pair.collection
        vector, embedding_cached = await self._query_vector(request.parts, pair, cached, timeout_s)
        excluded = frozenset(part.product_id for part in request.parts if part.product_id)
        expression = to_milvus(request.filter) if request.filter else ""
        token = request.page_token
        shown = token.shown if token else 0
        # one more than the page tells whether there is a next one
        wanted = REACH if request.facets else min(REACH, shown + request.page_size + 1)
        while True:
            with self._metrics.stage("search"):
                nearest = await self._nearest.find(
                    collection,
                    vector,
                    wanted,
                    expression=expression,
                    excluded=excluded,
                    min_similarity=request.min_similarity,
                )
            rest = [hit for hit in nearest.hits if not (token and token.is_shown(hit))]
            # products written since the page before may stand in front of its end
            if len(rest) > request.page_size or nearest.complete or wanted >= REACH:
                break
            wanted = min(REACH, wanted + request.page_size)
        page = tuple(rest[: request.page_size])
        more = len(rest) > request.page_size and shown + len(page) < REACH
        return SearchAnswer(
            hits=page,
            next_page_token=str(PageToken.after(page, collection.name, request.digest(), token)) if more else "",
            facets=count_facets(request.facets, [hit.product for hit in nearest.hits[:REACH]]),
            pair=pair,
            embedding_cached=embedding_cached,
            exact=nearest.exact,
        )

    async def _query_vector(
        self,
        parts: Sequence[QueryPart],
        pair: Pair,
        cached: Mapping[str, bytes],
        timeout_s: float | None,
    ) -> tuple[Vector, bool]:
        product_ids = sorted({part.product_id for part in parts if part.product_id})
        stored = await self._stored_vectors(pair.collection, product_ids) if product_ids else {}
        embedded = 0

        async def vector_of(part: QueryPart) -> Vector:
            nonlocal embedded
            if part.picture is None:
                return stored[part.product_id]
            key = self._embedder.cache_key(part.picture, pair.query_version)
            known = self._embedder.from_cached(cached.get(key), pair.collection.dimension)
            self._metrics.cache.labels("embedding", "miss" if known is None else "hit").inc()
            if known is not None:
                return known
            embedded += 1
            return await self._embedder.embed(part.picture, pair.query_version, purpose="query", timeout_s=timeout_s)

        vectors = await asyncio.gather(*(vector_of(part) for part in parts))
        return combine(vectors, [part.weight for part in parts]), embedded == 0

    async def _stored_vectors(self, collection: Collection, product_ids: Sequence[str]) -> dict[str, Vector]:
        rows = await self._index.product_rows(collection, product_ids, vectors=True)
        vectors = {}
        for product_id in product_ids:
            images = [row.vector for row in rows.get(product_id, []) if row.vector is not None]
            if not images:
                raise NotFound(
                    f"there is no product products/{product_id}", reason="PRODUCT_NOT_FOUND", field="queries.product"
                )
            vectors[product_id] = combine(images, [1.0] * len(images))
        return vectors


def combine(vectors: Sequence[Vector], weights: Sequence[float]) -> Vector:
    """The weighted sum as a unit vector (Rocchio, "Relevance feedback in information retrieval", 1971).

    Args:
        vectors: n of float32 [D], unit length. weights: n, negative ones push away.

    Returns:
        float32 [D], unit length.

    Raises:
        InvalidArgument: the sum is zero.
    """
    if len(vectors) == 1 and weights[0] > 0:
        return vectors[0]
    total = np.einsum("n,nd->d", np.asarray(weights, np.float64), np.stack(vectors).astype(np.float64))
    length = float(np.linalg.norm(total))
    if length < 1e-6:
        raise InvalidArgument("the parts of the query cancel each other out", reason="QUERY_EMPTY", field="queries")
    unit: Vector = (total / length).astype(np.float32)
    return unit


def count_facets(fields: Iterable[str], products: Sequence[Product]) -> dict[str, list[tuple[str, int]]]:
    """How many of the products have each value of each field; values that are not set are not counted."""
    return {
        field: sorted(
            Counter(value for product in products for value in _facet_values(product, field)).most_common(),
            key=lambda entry: (-entry[1], entry[0]),
        )[:MAX_FACET_VALUES]
        for field in fields
    }


def _facet_values(product: Product, field: str) -> set[str]:
    if field.startswith("attributes."):
        value = product.attributes.get(field.removeprefix("attributes."), "")
    elif field == "in_stock":
        value = "true" if product.in_stock else "false"
    else:
        value = getattr(product, field)
    return {v for v in ([value] if isinstance(value, str) else value) if v}
