"""What a protocol gave: metrics over all queries, by category and by product, and what each query found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.evaluation.metrics import Places, Ranking, Vectors, nearest, rank
from services.evaluation.protocols import Protocol
from services.photographs.photograph import Photograph

KS = (1, 5, 10)
TOP = 10
COARSE = "coarse "

# metric name, such as "recall@1" or "coarse mrr", to a value in [0, 1]
Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one query found.

    Args:
        query: its place in the protocol's queries.
        found: places in the gallery of the nearest, at most 10.
        similarities: inner products with them.
        rank: place of the first right picture, from 1.
        best: place in the gallery of that right picture.
        best_similarity: inner product with it.
    """

    query: int
    found: tuple[int, ...]
    similarities: tuple[float, ...]
    rank: int
    best: int
    best_similarity: float

    @property
    def regret(self) -> float:
        """How much nearer the first answer is than the first right one; 0 when it is right."""
        return self.similarities[0] - self.best_similarity


@dataclass(frozen=True, slots=True)
class Confusion:
    """Photographs of `product` whose nearest picture shows `taken_for`.

    Args:
        share: of the product's queries, in (0, 1].
    """

    product: str
    taken_for: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Result:
    """Args:
    overall: recall@1, @5, @10 (as far as the gallery reaches), map@r, mrr, and the same of the category with "coarse "
        before it where every picture has one.
    per_category, per_product: the fine metrics, and `queries`: how many.
    answers: of each query, in their order.
    confusions: the most frequent first.
    """

    protocol: Protocol
    overall: Metrics
    per_category: Mapping[str, Metrics]
    per_product: Mapping[str, Metrics]
    answers: Sequence[Answer]
    confusions: Sequence[Confusion]

    def worst(self, count: int) -> list[Answer]:
        """Wrong first answers, those that were most sure of it first."""
        wrong = [answer for answer in self.answers if answer.rank != 1]
        return sorted(wrong, key=lambda answer: (-answer.regret, answer.query))[:count]


def measure(protocol: Protocol, query_vectors: Vectors, gallery_vectors: Vectors) -> Result:
    """Args:
    query_vectors, gallery_vectors: float32 [n, D] of the protocol's queries and gallery, unit length.
    """
    queries, gallery = protocol.queries, protocol.gallery
    own = protocol.own
    fine = rank(query_vectors, protocol.query_ids, gallery_vectors, protocol.gallery_ids, own)
    ks = [k for k in KS if k <= len(gallery) - protocol.leave_one_out]
    overall = _means(fine, ks)
    if all(p.category for p in (*queries, *gallery)):
        coarse = rank(query_vectors, [p.category for p in queries], gallery_vectors, [p.category for p in gallery], own)
        overall |= {COARSE + name: value for name, value in _means(coarse, ks).items()}
    answers = _answers(protocol, query_vectors, gallery_vectors, fine, own)
    return Result(
        protocol,
        overall,
        _by([p.category for p in queries], fine, ks),
        _by(protocol.query_ids, fine, ks),
        answers,
        _confusions(queries, [gallery[answer.found[0]] for answer in answers]),
    )


def _means(ranking: Ranking, ks: Sequence[int], rows: Places | slice = slice(None)) -> dict[str, float]:
    return {
        **{f"recall@{k}": float(ranking.found(k)[rows].mean()) for k in ks},
        "map@r": float(ranking.average_precision[rows].mean()),
        "mrr": float(ranking.reciprocal_rank[rows].mean()),
    }


def _by(names: Sequence[str], ranking: Ranking, ks: Sequence[int]) -> dict[str, Metrics]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        if name:
            rows[name].append(row)
    return {
        name: {"queries": float(len(rows[name])), **_means(ranking, ks, np.array(rows[name]))} for name in sorted(rows)
    }


def _answers(
    protocol: Protocol,
    query_vectors: Vectors,
    gallery_vectors: Vectors,
    fine: Ranking,
    own: Places | None,
) -> list[Answer]:
    found = nearest(query_vectors, gallery_vectors, TOP, own)
    similarities = np.einsum("nd,nkd->nk", query_vectors, gallery_vectors[found])
    right: dict[str, list[int]] = defaultdict(list)
    for place, photograph in enumerate(protocol.gallery):
        right[photograph.product].append(place)
    answers = []
    for query, photograph in enumerate(protocol.queries):
        places = [p for p in right[photograph.product] if own is None or p != own[query]]
        scores = gallery_vectors[places] @ query_vectors[query]
        best = int(scores.argmax())
        answers.append(
            Answer(
                query,
                tuple(map(int, found[query])),
                tuple(map(float, similarities[query])),
                int(fine.rank[query]),
                places[best],
                float(scores[best]),
            )
        )
    return answers


def _confusions(queries: Sequence[Photograph], first: Sequence[Photograph]) -> list[Confusion]:
    asked = Counter(query.product for query in queries)
    wrong = Counter((q.product, f.product) for q, f in zip(queries, first, strict=True) if q.product != f.product)
    pairs = sorted(wrong.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Confusion(product, other, count, count / asked[product]) for (product, other), count in pairs]
