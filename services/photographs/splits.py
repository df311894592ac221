"""Training, validation and test: as the source says, or by a seeded split of pictures or of products.

A seeded split depends on the seed and the names of products and files, not on the order in which they were read. What
shows the same picture stays together, also where two products share it: it could otherwise be learnt and asked for.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from services.common.errors import InvalidArgument
from services.photographs.fingerprint import Fingerprint
from services.photographs.groups import product_clusters, same_picture_groups
from services.photographs.photograph import Photograph, Place, Splits

T = TypeVar("T")

# a split to be made, and the share of pictures or products that it gets
_Shares = tuple[tuple[str, float], ...]


def split_by_file(photographs: Sequence[Photograph]) -> Splits:
    """As each photograph's own `split` says.

    Raises InvalidArgument: DATA_SPLIT_MISSING when one says nothing, DATA_SPLIT_EMPTY.
    """
    silent = next((photograph for photograph in photographs if not photograph.split), None)
    if silent is not None:
        raise InvalidArgument(
            f"{silent.path} is in no split; name one for each picture, or split by images or by products",
            reason="DATA_SPLIT_MISSING",
        )
    return _splits(photographs, {photograph: photograph.split for photograph in photographs}, ("train", "validation"))


def split_images(
    photographs: Sequence[Photograph],
    fingerprints: Mapping[Place, Fingerprint],
    *,
    validation_share: float,
    test_share: float = 0.0,
    seed: int = 1,
) -> Splits:
    """The same share of each product's pictures, so rounded that it holds over all of them.

    The shop's own pictures stay in training, and so does one picture at least of each product: with one alone, there
    is nothing to ask for.

    Raises InvalidArgument (DATA_SPLIT_EMPTY).
    """
    groups = same_picture_groups(photographs, fingerprints)
    movable: dict[str, list[frozenset[Photograph]]] = defaultdict(list)
    count_of: dict[str, int] = defaultdict(int)
    for group in groups:
        products = {photograph.product for photograph in group}
        for product in products:
            count_of[product] += 1
        if len(products) == 1 and not any(photograph.catalogue for photograph in group):
            movable[min(products)].append(group)
    split_of = dict.fromkeys(photographs, "train")
    shares = _shares(validation_share, test_share)
    debt = {name: 0.5 for name, _ in shares}
    for product in _shuffled(sorted(count_of), seed, "images"):
        free = _shuffled(movable[product], seed, product)[: count_of[product] - 1]
        for name, share in shares:
            debt[name] += share * count_of[product]
            for _ in range(min(int(debt[name]), len(free))):
                split_of |= dict.fromkeys(free.pop(), name)
                debt[name] -= 1
    return _splits(photographs, split_of, ("train", *debt))


def split_products(
    photographs: Sequence[Photograph],
    fingerprints: Mapping[Place, Fingerprint],
    *,
    validation_share: float,
    test_share: float = 0.0,
    seed: int = 1,
) -> Splits:
    """Whole products, each in one split: what is measured are products that training never saw.

    Raises InvalidArgument (DATA_SPLIT_EMPTY).
    """
    clusters = _shuffled(product_clusters(same_picture_groups(photographs, fingerprints)), seed, "products")
    total = sum(map(len, clusters))
    split_of_product: dict[str, str] = {}
    shares = _shares(validation_share, test_share)
    for name, share in shares:
        # two at least: with one product, every answer is right; and training keeps some
        wanted = max(2, round(share * total))
        while wanted > 0 and len(clusters) > 1:
            cluster = clusters.pop()
            split_of_product |= dict.fromkeys(cluster, name)
            wanted -= len(cluster)
    split_of = {photograph: split_of_product.get(photograph.product, "train") for photograph in photographs}
    return _splits(photographs, split_of, ("train", *(name for name, _ in shares)))


def limit(photographs: Sequence[Photograph], *, products: int = 0, images_per_product: int = 0) -> list[Photograph]:
    """The first so many products by id, and at most so many photographs of each in each split; 0: all.

    They are evenly spread, because neighbours in a sequence of photographs look alike. The shop's own pictures do not
    count.
    """
    ids = sorted({photograph.product for photograph in photographs})
    chosen = set(ids[:products] if products else ids)
    series: dict[tuple[str, str], list[Photograph]] = defaultdict(list)
    for photograph in photographs:
        if photograph.product in chosen and not photograph.catalogue:
            series[photograph.product, photograph.split].append(photograph)
    kept: set[Photograph] = set()
    for taken in series.values():
        most = min(images_per_product or len(taken), len(taken))
        kept |= {taken[int(place)] for place in np.linspace(0, len(taken) - 1, most).round()}
    return [p for p in photographs if p in kept or (p.catalogue and p.product in chosen)]


def _shares(validation_share: float, test_share: float) -> _Shares:
    return (("validation", validation_share), *((("test", test_share),) if test_share else ()))


def _splits(photographs: Sequence[Photograph], split_of: Mapping[Photograph, str], needed: Sequence[str]) -> Splits:
    """Each photograph carries the split that it is in."""
    parts: dict[str, list[Photograph]] = {"train": [], "validation": [], "test": []}
    for photograph in photographs:
        split = split_of[photograph]
        parts[split].append(replace(photograph, split=split))
    for name in needed:
        # the shop's own pictures can be learnt, and can't be asked with
        if not any(name == "train" or not photograph.catalogue for photograph in parts[name]):
            products = len({photograph.product for photograph in photographs})
            raise InvalidArgument(
                f"nothing is left for {name}: there are {len(photographs)} pictures of {products} products",
                reason="DATA_SPLIT_EMPTY",
            )
    return Splits(parts["train"], parts["validation"], parts["test"])


def _shuffled(things: Sequence[T], seed: int, text: str) -> list[T]:
    digest = hashlib.sha256(f"{seed} {text}".encode("utf-8", "surrogateescape")).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return [things[i] for i in rng.permutation(len(things))]
