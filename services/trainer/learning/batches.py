"""Which photographs come in which batch of an epoch: a pure function of seed and epoch, so that a resumed run goes on
as an uninterrupted one would."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidArgument

Places = npt.NDArray[np.int64]


def epoch_batches(
    labels: Sequence[int], batch: int, images_per_product: int, seed: int, epoch: int, rank: int = 0, ranks: int = 1
) -> list[Places]:
    """Places of photographs, batch by batch; each of `ranks` processes gets its share of every batch.

    Args:
        labels: product of each photograph.
        batch: photographs in a batch, over all processes; what is left over at the end is not used in this epoch.
        images_per_product: M: a batch holds batch / M products with M photographs each, repeated where a product has
            fewer; 0: photographs in random order. An epoch has as many photographs either way.

    Raises InvalidArgument (BATCH_TOO_SMALL) when not every process would get a photograph.
    """
    random = np.random.default_rng((seed, epoch))
    places = np.arange(len(labels), dtype=np.int64)
    order = (
        _by_product(np.asarray(labels), images_per_product, random)
        if images_per_product
        else random.permutation(places)
    )
    share = min(batch, len(order)) // ranks
    if images_per_product and share > images_per_product:
        share -= share % images_per_product  # the pictures of a product belong into one process
    if not share:
        raise InvalidArgument(
            f"{min(batch, len(order))} photographs are too few for a batch of {ranks} processes",
            reason="BATCH_TOO_SMALL",
        )
    batch = share * ranks
    whole = [order[start : start + batch] for start in range(0, len(order) - batch + 1, batch)]
    return [one[rank * share : (rank + 1) * share] for one in whole]


def _by_product(labels: npt.NDArray[np.int64], m: int, random: np.random.Generator) -> Places:
    """Groups of M photographs of one product, in random order; every photograph at most once but for repeats."""
    groups: list[Places] = []
    for product in np.unique(labels):
        places = random.permutation(np.flatnonzero(labels == product))
        if len(places) % m:
            places = np.concatenate([places, random.choice(places, m - len(places) % m)])
        groups.extend(places.reshape(-1, m))
    # products with many photographs would meet themselves in a batch: spread their groups
    order = random.permutation(len(groups))
    return np.concatenate([groups[i] for i in order])
