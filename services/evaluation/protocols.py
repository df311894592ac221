"""What is asked and where it is looked for: the two situations of a shop.

`photographs`: shoppers' photographs are looked for among other photographs of the same products, what a shop has after
a while; without a training split with these products, each photograph among all the others (leave-one-out).
`catalogue`: they are looked for among one catalogue picture of each product, what a shop has on its first day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.common.errors import InvalidArgument
from services.evaluation.metrics import Places
from services.photographs.photograph import Photograph

PHOTOGRAPHS, CATALOGUE = "photographs", "catalogue"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Protocol:
    """Args:
    name: PHOTOGRAPHS or CATALOGUE.
    queries, gallery: every query's product is in the gallery.
    leave_one_out: the gallery is the queries, and each is looked for among the others.
    left_out: photographs that could not be queries, because no picture in the gallery shows their product.
    """

    name: str
    queries: Sequence[Photograph]
    gallery: Sequence[Photograph]
    leave_one_out: bool = False
    left_out: int = 0

    @property
    def query_ids(self) -> list[str]:
        return [photograph.product for photograph in self.queries]

    @property
    def gallery_ids(self) -> list[str]:
        return [photograph.product for photograph in self.gallery]

    @property
    def own(self) -> Places | None:
        """int64 [n]: the queries' own places in the gallery, to be passed over; None when they are not in it."""
        return np.arange(len(self.queries)) if self.leave_one_out else None


def protocols(photographs: Sequence[Photograph], split: str = "validation") -> list[Protocol]:
    """Those that the pictures allow, PHOTOGRAPHS first.

    Args:
        photographs: of all splits; each says its own.
        split: the photographs to ask with: "train", "validation", "test", or "all".

    Raises InvalidArgument: SPLIT_EMPTY when the split holds no photograph, PROTOCOL_NONE when nothing can be asked.
    """
    asked = [p for p in photographs if not p.catalogue and split in ("all", p.split)]
    if not asked:
        there = sorted({p.split for p in photographs if not p.catalogue} - {""})
        raise InvalidArgument(
            f"there is no photograph in split {split!r}; there are {', '.join([*there, 'all'])}", reason="SPLIT_EMPTY"
        )
    possible = (among_photographs(photographs, asked), in_catalogue(photographs, asked))
    found = [protocol for protocol in possible if protocol is not None]
    if not found:
        raise InvalidArgument(
            f"none of the {len(asked)} photographs has a second picture of its product to be looked for among",
            reason="PROTOCOL_NONE",
        )
    return found


def among_photographs(photographs: Sequence[Photograph], asked: Sequence[Photograph]) -> Protocol | None:
    """The photographs of the training split are the gallery, unless the asked ones are among them or are strangers."""
    gallery = [p for p in photographs if not p.catalogue and p.split == "train"]
    if not set(asked) & set(gallery):
        queries = _with_product_in(asked, {p.product for p in gallery})
        if queries:
            return Protocol(PHOTOGRAPHS, queries, gallery, left_out=len(asked) - len(queries))
    counts: dict[str, int] = {}
    for photograph in asked:
        counts[photograph.product] = counts.get(photograph.product, 0) + 1
    queries = _with_product_in(asked, {product for product, count in counts.items() if count > 1})
    if not queries:
        return None
    return Protocol(PHOTOGRAPHS, queries, queries, leave_one_out=True, left_out=len(asked) - len(queries))


def in_catalogue(photographs: Sequence[Photograph], asked: Sequence[Photograph]) -> Protocol | None:
    """The first catalogue picture of each product is the gallery, whichever split it is in."""
    first: dict[str, Photograph] = {}
    for photograph in photographs:
        if photograph.catalogue:
            first.setdefault(photograph.product, photograph)
    queries = _with_product_in(asked, set(first))
    if not queries:
        return None
    return Protocol(CATALOGUE, queries, list(first.values()), left_out=len(asked) - len(queries))


def _with_product_in(photographs: Sequence[Photograph], products: set[str]) -> list[Photograph]:
    return [photograph for photograph in photographs if photograph.product in products]
