"""Embedding size against recall: shorter vectors, 8-bit vectors, and one bit a dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.evaluation.metrics import Places, Vectors, rank

TRUNCATED = (64, 128, 256, 512)
RERANKED = 100
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Size:
    """Args:
    name: for example "float32", "int8", "binary, 100 re-ranked".
    dimension: D that is kept.
    bytes: of one vector in the index. What is re-ranked is also read in float32, from disk.
    recall: recall@1 in [0, 1].
    """

    name: str
    dimension: int
    bytes: int
    recall: float


def sizes(
    query_vectors: Vectors,
    query_ids: Sequence[str],
    gallery_vectors: Vectors,
    gallery_ids: Sequence[str],
    own: Places | None = None,
) -> list[Size]:
    """Args:
        query_vectors, gallery_vectors: float32 [n, D], unit length.
        own: as in `services.evaluation.metrics.rank`.

    Returns:
        The full vectors first, then 8 bits, one bit, and the first 512, 256, 128, 64 dimensions where D is more.
    """
    dimension = query_vectors.shape[1]

    def recall(queries: Vectors, gallery: Vectors) -> float:
        return float(rank(queries, query_ids, gallery, gallery_ids, own).found(1).mean())

    top = _reranked(query_vectors, gallery_vectors, RERANKED, own)
    right = [gallery_ids[place] == product for place, product in zip(top, query_ids, strict=True)]
    found = [
        Size("float32", dimension, 4 * dimension, recall(query_vectors, gallery_vectors)),
        # the queries' scale changes nothing about the order
        Size("int8", dimension, dimension + 4, recall(query_vectors, to_int8(gallery_vectors))),
        Size(f"binary, {RERANKED} re-ranked", dimension, -(-dimension // 8), float(np.mean(right))),
    ]
    for kept in sorted((size for size in TRUNCATED if size < dimension), reverse=True):
        shorter = (truncated(vectors, kept) for vectors in (query_vectors, gallery_vectors))
        found.append(Size(f"float32, first {kept}", kept, 4 * kept, recall(*shorter)))
    return found


def truncated(vectors: Vectors, dimension: int) -> Vectors:
    """The first dimensions, float32 [n, dimension], at unit length again."""
    short = vectors[:, :dimension]
    return np.asarray(short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12), np.float32)


def to_int8(vectors: Vectors) -> Vectors:
    """float32 [n, D]: what is left after rounding each vector to -127..127 times a scale of its own."""
    scale = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-12) / 127
    return np.asarray(np.rint(vectors / scale).astype(np.int8) * scale, np.float32)


def to_bits(vectors: Vectors, centre: Vectors) -> npt.NDArray[np.uint8]:
    """uint8 [n, ceil(D / 8)]: on which side of the centre [D] each dimension is."""
    return np.packbits(vectors > centre, axis=1)


def _reranked(query_vectors: Vectors, gallery_vectors: Vectors, keep: int, own: Places | None) -> Places:
    """int64 [n]: the nearest by inner product among the `keep` of the least Hamming distance."""
    # features that come out of a ReLU are never negative: their sign would say next to nothing
    centre = np.median(gallery_vectors, axis=0)
    queries, gallery = to_bits(query_vectors, centre), to_bits(gallery_vectors, centre)
    best: list[int] = []
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        distance = np.zeros((len(block), len(gallery)), np.int32)
        for byte in range(gallery.shape[1]):
            distance += np.bitwise_count(block[:, byte, None] ^ gallery[None, :, byte])
        for row, distances in enumerate(distance):
            query = start + row
            if own is not None:
                distances[own[query]] = 8 * gallery.shape[1] + 1
            candidates = np.sort(np.argsort(distances, kind="stable")[:keep])
            if own is not None:
                candidates = candidates[candidates != own[query]]
            best.append(int(candidates[np.argmax(gallery_vectors[candidates] @ query_vectors[query])]))
    return np.array(best, np.int64)
