"""What belongs together because it shows the same picture."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from services.photographs.fingerprint import Fingerprint, same_pictures
from services.photographs.photograph import Photograph, Place

Key = TypeVar("Key", bound=Hashable)


class Union(Generic[Key]):
    """Disjoint sets of keys, joined two at a time (Tarjan 1975)."""

    def __init__(self) -> None:
        self._above: dict[Key, Key] = {}

    def join(self, one: Key, other: Key) -> None:
        self._above[self.root(one)] = self.root(other)

    def root(self, key: Key) -> Key:
        """The same for all of a set; a key that was never joined is alone."""
        above = self._above.setdefault(key, key)
        while above != self._above[above]:
            self._above[key] = self._above[above]
            key, above = above, self._above[above]
        return above


def same_picture_groups(
    photographs: Sequence[Photograph], fingerprints: Mapping[Place, Fingerprint]
) -> list[frozenset[Photograph]]:
    """Photographs that show one picture, chains of them too, in an order that does not depend on theirs."""
    linked = Union[int]()
    prints = [fingerprints[photograph.place] for photograph in photographs]
    for one, other in same_pictures(prints, prints):
        linked.join(one, other)
    groups: dict[int, set[Photograph]] = {}
    for number, photograph in enumerate(photographs):
        groups.setdefault(linked.root(number), set()).add(photograph)
    return sorted((frozenset(group) for group in groups.values()), key=lambda group: min(map(_name, group)))


def product_clusters(groups: Sequence[frozenset[Photograph]]) -> list[list[str]]:
    """Products that share a picture, together; sorted."""
    linked = Union[str]()
    products = {photograph.product for group in groups for photograph in group}
    for group in groups:
        first, *others = sorted({photograph.product for photograph in group})
        for other in others:
            linked.join(first, other)
    clusters: dict[str, list[str]] = {}
    for product in sorted(products):
        clusters.setdefault(linked.root(product), []).append(product)
    return sorted(clusters.values())


def _name(photograph: Photograph) -> str:
    region = photograph.region.as_tuple() if photograph.region else ()
    return f"{photograph.path} {region} {photograph.product}"
