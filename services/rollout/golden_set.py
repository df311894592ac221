"""What two encoder versions are compared on: pictures to ask with, and pictures to look for them among.

It is what the operator names, or else is drawn from the catalogue: a product with several images is asked for by one
of them, and looked for among the others and those of other products. A catalogue that shows nearly every product once
has no such question, but must be protected too: there, products are asked for by altered copies of their images (cut by
a tenth, brighter, coarse JPEG) and looked for among the images. That is the easier question: it tells a version that is
broken or blind from a good one, rather than one that is a little worse.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from services.backends.index import Collection, Index, Row, Vector
from services.common.products import Region
from services.evaluation.metrics import Places
from services.evaluation.protocols import Protocol, protocols
from services.photographs.dataset import find_photographs, guess_source
from services.photographs.photograph import Photograph

MAX_QUERIES, MAX_GALLERY = 500, 2000
# with fewer products of several images, one of them counts for too much
MIN_QUERIES = 20
# images of a catalogue that are drawn from: the first so many by product id
MAX_SCANNED = 100_000
_PAGE = 5000
# what altered copies keep of the width and height
_KEPT = 0.9


@dataclass(frozen=True, slots=True)
class Picture:
    """Args:
    source: a file, or the hash of an original in the image store.
    vector: the serving version's, float32 [D], where the catalogue has it.
    altered: seed of its alterations; None: as it is.
    """

    product: str
    category: str
    source: Path | str
    region: Region | None = None
    vector: Vector | None = None
    altered: int | None = None


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Args:
    name: what is asked for what, in words.
    own: int64 [n], each query's own place in the gallery, passed over; None: it has none.
    """

    name: str
    queries: Sequence[Picture]
    gallery: Sequence[Picture]
    own: Places | None = None

    @property
    def pictures(self) -> list[Picture]:
        """Queries, then the gallery; what is both comes once."""
        return [*self.queries, *(self.gallery if self.own is None else ())]

    def without(self, lost: Callable[[Picture], bool]) -> GoldenSet:
        """What is left without some pictures; a query goes too when no picture of its product is left to be found."""
        if self.own is not None:
            kept = [each for each in self.queries if not lost(each)]
            shown = Counter(each.product for each in kept)
            kept = [each for each in kept if shown[each.product] > 1]
            return replace(self, queries=kept, gallery=kept, own=np.arange(len(kept)))
        gallery = [each for each in self.gallery if not lost(each)]
        there = {each.product for each in gallery}
        queries = [each for each in self.queries if not lost(each) and each.product in there]
        return replace(self, queries=queries, gallery=gallery)


def named(path: Path, seed: int = 1) -> GoldenSet:
    """Of a folder, a CSV or JSONL file or the Grocery Store Dataset, as `lookalike evaluate` asks by default.

    Raises InvalidArgument: DATA_INVALID, DATA_EMPTY, PROTOCOL_NONE, ...
    """
    photographs = find_photographs(guess_source(path), path=path)
    split = "validation" if any(p.split == "validation" for p in photographs) else "all"
    protocol = _fewer(protocols(photographs, split)[0], seed)
    among = "other photographs of the set" if protocol.leave_one_out else f"{len(protocol.gallery)} {protocol.name}"
    name = f"{len(protocol.queries)} photographs of {path}, looked for among {among}"
    queries = _pictures(protocol.queries)
    gallery = queries if protocol.leave_one_out else _pictures(protocol.gallery)
    return GoldenSet(name, queries, gallery, protocol.own)


async def drawn(index: Index, serving: Collection, seed: int = 1) -> GoldenSet:
    """From the catalogue in a collection, at most MAX_QUERIES in MAX_GALLERY; the same for the same catalogue and seed.

    Empty when the catalogue is. Raises Unavailable.
    """
    products = await _scanned(index, serving)
    rng = random.Random(seed)
    # by id, so that the order of reading does not matter
    ids = sorted(products)
    rng.shuffle(ids)
    several = [name for name in ids if len(products[name]) > 1]
    if len(several) < MIN_QUERIES:
        return await _altered(index, serving, products, ids)
    asked: list[str] = []
    shown: list[Row] = []
    for name in several:
        if len(asked) == MAX_QUERIES or len(shown) + len(products[name]) - 1 > MAX_GALLERY:
            break
        asked.append(name)
        shown += products[name]
    # the first image is the shop's own picture: the others are rather what people ask with
    query_keys = {rng.choice(products[name][1:]).key for name in asked}
    strangers = [row for name in ids if name not in set(asked) for row in products[name]]
    shown += strangers[: max(0, MAX_GALLERY - (len(shown) - len(asked)))]
    pictures = await _with_vectors(index, serving, shown)
    queries = [picture for key, picture in pictures.items() if key in query_keys]
    gallery = [picture for key, picture in pictures.items() if key not in query_keys]
    name = (
        f"{len(queries)} products of the catalogue by one of their images, looked for among {len(gallery)} others"
        + _part_of(products)
    )
    return GoldenSet(name, queries, gallery).without(lambda picture: False)


async def _altered(index: Index, serving: Collection, products: dict[str, list[Row]], ids: Sequence[str]) -> GoldenSet:
    shown = [row for name in ids for row in products[name]][:MAX_GALLERY]
    gallery = list((await _with_vectors(index, serving, shown)).values())
    queries = [
        replace(picture, vector=None, altered=place, region=_middle(picture.region))
        for place, picture in enumerate(gallery[:MAX_QUERIES])
    ]
    name = (
        f"altered copies of {len(queries)} images of the catalogue, looked for among {len(gallery)} images, because "
        f"fewer than {MIN_QUERIES} products have several" + _part_of(products)
    )
    return GoldenSet(name if gallery else "the catalogue is empty: there is nothing to compare", queries, gallery)


async def _scanned(index: Index, serving: Collection) -> dict[str, list[Row]]:
    """The images of each product, without vectors; of the last product of a cut scan perhaps not all."""
    products: dict[str, list[Row]] = {}
    after, read = "", 0
    while read < MAX_SCANNED:
        rows = await index.scan(serving, "", after, _PAGE)
        for row in rows:
            products.setdefault(row.product.id, []).append(row)
        read += len(rows)
        if len(rows) < _PAGE:
            break
        after = rows[-1].key
    return {name: sorted(rows, key=lambda row: (row.position, row.key)) for name, rows in products.items()}


async def _with_vectors(index: Index, serving: Collection, rows: Sequence[Row]) -> dict[str, Picture]:
    """By key, in the order of `rows`; what went or changed since it was scanned is left out."""
    ids = list(dict.fromkeys(row.product.id for row in rows))
    found = await index.product_rows(serving, ids, vectors=True)
    now = {row.key: row for same in found.values() for row in same}
    return {
        row.key: Picture(row.product.id, row.product.category, row.image.sha256, row.image.region, now[row.key].vector)
        for row in rows
        if row.key in now and now[row.key].image == row.image and now[row.key].vector is not None
    }


def _pictures(photographs: Sequence[Photograph]) -> list[Picture]:
    return [Picture(p.product, p.category, p.path, p.region) for p in photographs]


def _fewer(protocol: Protocol, seed: int) -> Protocol:
    """At most MAX_QUERIES and MAX_GALLERY, whole products of them, because a query needs its product in the gallery."""
    if len(protocol.queries) <= MAX_QUERIES and len(protocol.gallery) <= MAX_GALLERY:
        return protocol
    rng = random.Random(seed)
    products = sorted({p.product for p in protocol.queries})
    rng.shuffle(products)
    shown: dict[str, list[Photograph]] = {}
    for photograph in protocol.gallery:
        shown.setdefault(photograph.product, []).append(photograph)
    limit = MAX_QUERIES if protocol.leave_one_out else MAX_GALLERY
    # as many of each as let all products take part, if that can be
    most = max(1 + protocol.leave_one_out, limit // len(shown))
    kept: list[Photograph] = []
    for name in [*products, *sorted(set(shown) - set(products))]:
        some = rng.sample(shown[name], min(most, len(shown[name])))
        if len(kept) + len(some) > limit:
            break
        kept += some
    if protocol.leave_one_out:
        return replace(protocol, queries=kept, gallery=kept)
    there = {p.product for p in kept}
    possible = [p for p in protocol.queries if p.product in there]
    return replace(protocol, queries=rng.sample(possible, min(MAX_QUERIES, len(possible))), gallery=kept)


def _middle(region: Region | None) -> Region:
    left, top, right, bottom = region.as_tuple() if region else (0.0, 0.0, 1.0, 1.0)
    across, down = (1 - _KEPT) / 2 * (right - left), (1 - _KEPT) / 2 * (bottom - top)
    return Region(left + across, top + down, right - across, bottom - down)


def _part_of(products: dict[str, list[Row]]) -> str:
    scanned = sum(map(len, products.values()))
    return f"; drawn from its first {scanned} images" if scanned >= MAX_SCANNED else ""
