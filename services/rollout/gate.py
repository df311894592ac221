"""The gate: a new encoder version must find what the serving one finds, as fast as was asked for, before it is trusted.

Both are measured on the same pictures. The serving version's vectors of catalogue images are those that it serves with;
all others come from Triton, behind the queries of users and out of their way.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.backends.encoder import Encoder
from services.backends.image_store import ImageStore
from services.backends.index import Collection, Index, Vector
from services.common.errors import FailedPrecondition
from services.common.images import ImageDecoder
from services.common.manifest import Manifest
from services.evaluation.metrics import Vectors, ndcg_at_k, rank
from services.rollout.golden_embedding import GoldenEmbedding
from services.rollout.golden_set import GoldenSet, Picture, drawn, named
from services.rollout.pace import Pace
from services.rollout.record import Gate, GateRow, Options
from services.rollout.verification import latencies_ms

# categories with fewer queries are shown, and decide nothing: one query more or less is a large share of them
JUDGED_QUERIES = 20
# categories in a record, those with most queries
MAX_ROWS = 50
# a drop of exactly the tolerance must not fail by rounding
_HAIR = 1e-9


@dataclass(frozen=True, slots=True)
class Scores:
    """Of each query, [n]; their means over any choice of queries are the metrics."""

    recall_1: npt.NDArray[np.float64]
    recall_5: npt.NDArray[np.float64]
    ndcg_10: npt.NDArray[np.float64]


async def measure_gate(
    index: Index,
    images: ImageStore,
    decoder: ImageDecoder,
    encoder: Encoder,
    pace: Pace,
    serving: Collection,
    serving_side: int,
    candidate: Manifest,
    options: Options,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Gate:
    """Measures both versions; Triton must have them loaded.

    Pictures whose original is missing or can't be decoded are passed over for both, and counted in `golden_set`.

    Args:
        serving_side: S of the serving version.
        progress: called with pictures embedded so far, and how many there will be.

    Raises:
        FailedPrecondition: NOT_COMPATIBLE, when that is asked for and the dimensions differ; GOLDEN_SET_MISSING, when
            hardly an original is there.
        InvalidArgument: the golden set that the options name can't be read.
        Unavailable: a part of the system does not answer.
    """
    if options.compatible and candidate.dimension != serving.dimension:
        raise FailedPrecondition(
            f"encoder version {candidate.version} has {candidate.dimension} dimensions, the vectors that it would be "
            f"compared with have {serving.dimension}",
            reason="NOT_COMPATIBLE",
        )
    golden = await (asyncio.to_thread(named, Path(options.golden_set)) if options.golden_set else drawn(index, serving))
    pictures = golden.pictures
    to_embed = [each for each in pictures if each.vector is None]
    done, total = 0, len(to_embed) + len(pictures)

    def more(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    embedding = GoldenEmbedding(images, decoder, encoder, pace, more)
    after = await embedding.vectors(pictures, candidate.version, candidate.side)
    before = await embedding.vectors(to_embed, serving.model_version, serving_side)
    before |= {id(each): each.vector for each in pictures if each.vector is not None}
    left = golden.without(lambda picture: id(picture) not in before or id(picture) not in after)
    lost = len(pictures) - len(left.pictures)
    if lost and len(left.queries) < len(golden.queries) / 2:
        raise FailedPrecondition(
            f"{lost} of {len(pictures)} pictures of the golden set can't be read: {golden.name}",
            reason="GOLDEN_SET_MISSING",
        )
    if lost:
        left = replace(left, name=f"{left.name}; {lost} without a readable original passed over")
    rows = await asyncio.to_thread(_rows, left, before, after, options) if left.queries else ()
    latency = await latencies_ms(encoder, [(serving.model_version, serving_side), (candidate.version, candidate.side)])
    compatible = options.compatible and bool(rows) and _is_compatible(rows[0], options)
    passed = (
        not any(row.failed for row in rows)
        and latency[1] <= options.latency_budget_ms
        and (compatible or not options.compatible)
    )
    return Gate(passed, left.name, rows, (latency[0], latency[1]), options.latency_budget_ms, compatible)


def gate_error(gate: Gate) -> FailedPrecondition:
    """Why a gate that was not passed was not: GATE_FAILED, NOT_COMPATIBLE or LATENCY_OVER_BUDGET, in one line."""
    failed = [row for row in gate.rows if row.failed]
    if failed:
        drops = [
            (before - after, name, row, before, after)
            for row in failed
            for name, (before, after) in (
                ("recall@1", row.recall_1),
                ("recall@5", row.recall_5),
                ("nDCG@10", row.ndcg_10),
            )
        ]
        _, name, row, before, after = max(drops, key=lambda drop: drop[0])
        where = f"in category {row.category!r}" if row.category else "overall"
        return FailedPrecondition(
            f"{name} {where} falls from {before:.1%} to {after:.1%} ({row.queries} queries)", reason="GATE_FAILED"
        )
    if gate.rows and gate.rows[0].compatible is not None and not gate.compatible:
        return FailedPrecondition(
            f"its queries find {gate.rows[0].compatible:.1%} first among the serving version's vectors, which itself "
            f"finds {gate.rows[0].recall_1[0]:.1%}",
            reason="NOT_COMPATIBLE",
        )
    return FailedPrecondition(
        f"one picture takes {gate.latency_ms[1]:.0f} ms (p95), {gate.latency_budget_ms:.0f} ms are allowed; the "
        f"serving version takes {gate.latency_ms[0]:.0f} ms",
        reason="LATENCY_OVER_BUDGET",
    )


def compare(
    golden: Sequence[Picture],
    before: Scores,
    after: Scores,
    options: Options,
    compatible: npt.NDArray[np.float64] | None = None,
) -> tuple[GateRow, ...]:
    """A row for all queries, and one for each category, those with most queries first; at least one query.

    Args:
        golden: the queries, [n].
        compatible: of each query of the new version, whether it found the right product first among the old vectors.
    """
    everything = np.arange(len(golden))
    rows = [_row("", everything, before, after, options.tolerance, compatible)]
    counted = Counter(each.category for each in golden if each.category)
    names = np.array([each.category for each in golden])
    for category, count in sorted(counted.items(), key=lambda each: (-each[1], each[0]))[:MAX_ROWS]:
        tolerance = options.category_tolerance if count >= JUDGED_QUERIES else float("inf")
        rows.append(_row(category, np.flatnonzero(names == category), before, after, tolerance, compatible))
    return tuple(rows)


def _row(
    category: str,
    queries: npt.NDArray[np.int64],
    before: Scores,
    after: Scores,
    tolerance: float,
    compatible: npt.NDArray[np.float64] | None,
) -> GateRow:
    def both(name: str) -> tuple[float, float]:
        return float(getattr(before, name)[queries].mean()), float(getattr(after, name)[queries].mean())

    metrics = {name: both(name) for name in ("recall_1", "recall_5", "ndcg_10")}
    return GateRow(
        category,
        len(queries),
        **metrics,
        compatible=None if compatible is None else float(compatible[queries].mean()),
        failed=any(old - new > tolerance + _HAIR for old, new in metrics.values()),
    )


def _is_compatible(overall: GateRow, options: Options) -> bool:
    return overall.compatible is not None and overall.compatible >= overall.recall_1[0] - options.tolerance - _HAIR


def _rows(
    golden: GoldenSet, before: dict[int, Vector], after: dict[int, Vector], options: Options
) -> tuple[GateRow, ...]:
    old_queries, old_gallery = _stacked(golden.queries, before), _stacked(golden.gallery, before)
    new_queries, new_gallery = _stacked(golden.queries, after), _stacked(golden.gallery, after)
    compatible = _scores(golden, new_queries, old_gallery).recall_1 if options.compatible else None
    return compare(
        golden.queries,
        _scores(golden, old_queries, old_gallery),
        _scores(golden, new_queries, new_gallery),
        options,
        compatible,
    )


def _scores(golden: GoldenSet, queries: Vectors, gallery: Vectors) -> Scores:
    asked, shown = [each.product for each in golden.queries], [each.product for each in golden.gallery]
    ranking = rank(queries, asked, gallery, shown, golden.own)
    return Scores(
        ranking.found(1).astype(np.float64),
        ranking.found(5).astype(np.float64),
        ndcg_at_k(queries, asked, gallery, shown, 10, golden.own),
    )


def _stacked(pictures: Sequence[Picture], vectors: dict[int, Vector]) -> Vectors:
    return np.stack([vectors[id(each)] for each in pictures])
