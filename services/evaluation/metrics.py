"""Retrieval metrics as pure functions over ids and vectors.

Whatever the metric: nearer is a larger inner product, and of equally near gallery pictures the earlier counts first. A
query without a right picture in the gallery counts as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

# queries ranked at once: the whole product of two large sets does not fit into memory
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Ranking:
    """How each of n queries did; means over any choice of them are means over rows.

    Args:
        rank: int64 [n], place of the first right picture, from 1; 0 when there is none.
        average_precision: float64 [n], AP@R in [0, 1].
        relevant: int64 [n], R: right pictures in the gallery.
    """

    rank: Places
    average_precision: npt.NDArray[np.float64]
    relevant: Places

    def found(self, k: int) -> npt.NDArray[np.bool_]:
        """bool [n]: a right picture is among the k nearest; their mean is recall@k."""
        return (self.rank > 0) & (self.rank <= k)

    @property
    def reciprocal_rank(self) -> npt.NDArray[np.float64]:
        """float64 [n]; their mean is the MRR."""
        return np.where(self.rank > 0, 1 / np.maximum(self.rank, 1), 0.0)


def rank(
    query_vectors: Vectors,
    query_ids: Sequence[str],
    gallery_vectors: Vectors,
    gallery_ids: Sequence[str],
    own: Places | None = None,
) -> Ranking:
    """Ranks the whole gallery for each query.

    Args:
        query_vectors, gallery_vectors: float32 [n, D], unit length.
        query_ids, gallery_ids: n ids; a gallery picture of the query's id is right.
        own: int64 [n], each query's own place in the gallery, which is passed over (leave-one-out); None: it has none.

    Raises ValueError when there are no queries or no gallery.
    """
    candidates = len(gallery_ids) - (own is not None)
    if not len(query_ids) or candidates < 1:
        raise ValueError(f"{len(query_ids)} queries in {candidates} pictures have no metrics")
    wanted, ids = _numbered(query_ids, gallery_ids)
    ranks, precisions, relevants = [], [], []
    for start, order in _orders(query_vectors, gallery_vectors, own):
        right = ids[order] == wanted[start : start + len(order), None]
        relevant = right.sum(axis=1)
        places = np.arange(1, right.shape[1] + 1)
        precision = np.cumsum(right, axis=1) / places
        # Musgrave, Belongie, Lim (2020): the precision at each right picture among the first R, over R
        total = (precision * (right & (places <= relevant[:, None]))).sum(axis=1)
        precisions.append(total / np.maximum(relevant, 1))
        ranks.append(np.where(relevant > 0, right.argmax(axis=1) + 1, 0))
        relevants.append(relevant)
    return Ranking(np.concatenate(ranks), np.concatenate(precisions), np.concatenate(relevants))


def nearest(query_vectors: Vectors, gallery_vectors: Vectors, k: int, own: Places | None = None) -> Places:
    """int64 [n, k]: places in the gallery of each query's k nearest, the nearest first; `own` as in `rank`."""
    return np.concatenate([order[:, :k] for _, order in _orders(query_vectors, gallery_vectors, own)])


def recall_at_k(
    query_vectors: Vectors,
    query_ids: Sequence[str],
    gallery_vectors: Vectors,
    gallery_ids: Sequence[str],
    ks: Sequence[int] = (1, 5),
    own: Places | None = None,
) -> dict[int, float]:
    """The share of queries that have a picture of their own id among their k nearest.

    As in Jégou et al. (2011) and in metric learning since. Arguments as in `rank`.

    Returns:
        A value in [0, 1] for each of `ks`. Raises ValueError when there are no queries, or fewer pictures than k.
    """
    candidates = len(gallery_ids) - (own is not None)
    if not len(query_ids) or candidates < max(ks):
        raise ValueError(f"recall@{max(ks)} of {len(query_ids)} queries in {candidates} pictures is not defined")
    wanted, ids = _numbered(query_ids, gallery_ids)
    right = ids[nearest(query_vectors, gallery_vectors, max(ks), own)] == wanted[:, None]
    return {k: float(right[:, :k].any(axis=1).mean()) for k in ks}


def mean_average_precision(
    query_vectors: Vectors,
    query_ids: Sequence[str],
    gallery_vectors: Vectors,
    gallery_ids: Sequence[str],
    own: Places | None = None,
) -> float:
    """mAP@R of Musgrave, Belongie, Lim, "A Metric Learning Reality Check" (2020); arguments as in `rank`."""
    return float(rank(query_vectors, query_ids, gallery_vectors, gallery_ids, own).average_precision.mean())


def mean_reciprocal_rank(
    query_vectors: Vectors,
    query_ids: Sequence[str],
    gallery_vectors: Vectors,
    gallery_ids: Sequence[str],
    own: Places | None = None,
) -> float:
    """MRR: one over the place of the first right picture, on average; arguments as in `rank`."""
    return float(rank(query_vectors, query_ids, gallery_vectors, gallery_ids, own).reciprocal_rank.mean())


def ndcg_at_k(
    query_vectors: Vectors,
    query_ids: Sequence[str],
    gallery_vectors: Vectors,
    gallery_ids: Sequence[str],
    k: int = 10,
    own: Places | None = None,
) -> npt.NDArray[np.float64]:
    """nDCG@k of each query, float64 [n], in [0, 1]; arguments as in `rank`.

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (ACM TOIS, 2002), with a gain of 1 for
    a right picture and a discount of log2(1 + place), over that of the best order there could be. Unlike recall@k it
    tells whether all pictures of a product come first.
    """
    wanted, ids = _numbered(query_ids, gallery_ids)
    scores = []
    for start, order in _orders(query_vectors, gallery_vectors, own):
        right = ids[order] == wanted[start : start + len(order), None]
        discount = 1 / np.log2(np.arange(2, right.shape[1] + 2))
        gained = (right[:, :k] * discount[:k]).sum(axis=1)
        best = np.concatenate([[0.0], np.cumsum(discount[:k])])[np.minimum(right.sum(axis=1), min(k, right.shape[1]))]
        scores.append(np.divide(gained, best, out=np.zeros(len(order)), where=best > 0))
    return np.concatenate(scores)


def mean_cosine(vectors: Vectors, others: Vectors) -> float:
    """Of unit vectors float32 [n, D], row by row."""
    return float(np.einsum("nd,nd->n", vectors, others).mean())


def _orders(query_vectors: Vectors, gallery_vectors: Vectors, own: Places | None) -> Iterator[tuple[int, Places]]:
    """First query of each block, and int64 [block, G] places in the gallery, the nearest first, without `own`."""
    count = len(gallery_vectors)
    for start in range(0, len(query_vectors), _BLOCK):
        order = np.argsort(-(query_vectors[start : start + _BLOCK] @ gallery_vectors.T), axis=1, kind="stable")
        if own is not None:
            order = order[order != own[start : start + _BLOCK, None]].reshape(len(order), count - 1)
        yield start, order


def _numbered(query_ids: Sequence[str], gallery_ids: Sequence[str]) -> tuple[Places, Places]:
    """Ids as numbers: comparing texts of 128 characters for each pair is slow."""
    number = {name: place for place, name in enumerate(dict.fromkeys([*query_ids, *gallery_ids]))}
    return (
        np.array([number[name] for name in query_ids], np.int64),
        np.array([number[name] for name in gallery_ids], np.int64),
    )
