"""From nearest images to nearest products, without silent shortfall.

The index finds images; a caller wants products, each once. How many images that takes depends on the catalogue, so the
first try takes what the last searches needed, and a try that falls short is repeated with four times as many. When the
index gives fewer images than asked for, the filter may simply leave no more, or the approximate search may have missed
some: then the matches are counted and, if that is so, all of them are compared exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from services.backends.index import MAX_LIMIT, Collection, Hit, Index, Vector
from services.common.products import MAX_IMAGES

# similarities are compared and shown to this many digits: the same pair of vectors computed twice may differ beyond
DIGITS = 6
TOLERANCE = 10.0**-DIGITS


@dataclass(frozen=True, slots=True)
class Nearest:
    """Products in order of similarity, each by its best image. `complete`: there are no further ones that match."""

    hits: tuple[Hit, ...]
    exact: bool
    complete: bool


class NearestProducts:
    def __init__(self, index: Index, exact_max_images: int) -> None:
        self._index = index
        self._exact_max_images = exact_max_images
        # images looked at for one product found, by collection: a moving average
        self._images_per_product: dict[str, float] = {}

    async def find(
        self,
        collection: Collection,
        vector: Vector,
        wanted: int,
        *,
        expression: str = "",
        excluded: frozenset[str] = frozenset(),
        min_similarity: float = 0.0,
    ) -> Nearest:
        """At least `wanted` products if so many match.

        Args:
            vector: float32 [D], unit length.
            expression: Milvus expression that every image must satisfy.
            excluded: product ids to leave out.
            min_similarity: in [0, 1]; what is less similar does not match.
        """
        ratio = self._images_per_product.get(collection.name, 1.0)
        limit = math.ceil(wanted * ratio) + len(excluded) * MAX_IMAGES
        while True:
            limit = min(limit, MAX_LIMIT)
            images = await self._index.search(collection, vector, limit, expression)
            products = best_of_each(images, excluded)
            # images come in order: if the last one is not similar enough, no further one is
            below = bool(images) and not similar_enough(images[-1], min_similarity)
            if len(products) >= wanted or below:
                break
            if len(images) < limit:
                matching = await self._index.count(collection, expression)
                if len(images) < matching <= self._exact_max_images:
                    products = await self._compare_all(collection, vector, expression, matching, excluded)
                    return Nearest(_similar(products, min_similarity), exact=True, complete=True)
                return Nearest(_similar(products, min_similarity), exact=False, complete=True)
            if limit == MAX_LIMIT:
                break
            limit *= 4
        if products:
            needed = len(images) / len(products)
            self._images_per_product[collection.name] = 0.8 * ratio + 0.2 * min(needed, MAX_IMAGES)
        return Nearest(_similar(products, min_similarity), exact=False, complete=below)

    async def _compare_all(
        self, collection: Collection, vector: Vector, expression: str, matching: int, excluded: frozenset[str]
    ) -> tuple[Hit, ...]:
        rows = await self._index.match_vectors(collection, expression, matching)
        if not rows:
            return ()
        cosines = np.clip(np.stack([row.vector for row in rows if row.vector is not None]) @ vector, -1.0, 1.0)
        hits = [
            Hit(
                product_id=row.product.id,
                image_id=row.image.id,
                cosine=float(cosine),
                product=row.product,
                image=row.image,
            )
            for row, cosine in zip(rows, cosines, strict=True)
        ]
        return best_of_each(hits, excluded)


def similarity(cosine: float) -> float:
    """Cosine clipped to [0, 1]."""
    return min(1.0, max(0.0, cosine))


def similar_enough(hit: Hit, min_similarity: float) -> bool:
    """Whether a hit is as similar as asked, to DIGITS digits: a similarity that was sent finds its result again."""
    return similarity(hit.cosine) >= min_similarity - TOLERANCE


def order(hit: Hit) -> tuple[float, str]:
    """Sort key: the most similar first, ties by product id."""
    return (-round(hit.cosine, DIGITS), hit.product_id)


def best_of_each(hits: Iterable[Hit], excluded: frozenset[str]) -> tuple[Hit, ...]:
    """The best image of every product that is not excluded, in order."""
    best: dict[str, Hit] = {}
    for hit in hits:
        known = best.get(hit.product_id)
        if hit.product_id not in excluded and (known is None or hit.cosine > known.cosine):
            best[hit.product_id] = hit
    return tuple(sorted(best.values(), key=order))


def _similar(hits: tuple[Hit, ...], min_similarity: float) -> tuple[Hit, ...]:
    return tuple(hit for hit in hits if similar_enough(hit, min_similarity))
