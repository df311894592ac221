"""What gateways saw of a new version, in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from services.backends.live_samples import Sample

# of similarities
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Latency:
    """Of answers, in milliseconds; 0 without any."""

    p50_ms: float = 0.0
    p95_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Shadow:
    """Args:
    queries: searches that were asked of the new version too. failed: of them, without its answer.
    overlap_10: share of the first ten products that both versions found, on average; 0 without any.
    similarity_before, similarity_after: QUANTILES of the first result's, by the version before and the new one; empty
        without any.
    """

    queries: int
    failed: int
    overlap_10: float
    latency: Latency
    similarity_before: tuple[float, ...]
    similarity_after: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Canary:
    """Args:
    queries: searches that the new version answered. failed: of them, without an answer.
    latency: of the new version, serving: of the version before, to callers outside the canary.
    """

    queries: int
    failed: int
    latency: Latency
    serving: Latency


def shadow_of(samples: Sequence[Sample]) -> Shadow | None:
    """None when nothing was asked of the new version."""
    seen = _of("shadow", samples)
    if not seen:
        return None
    answered = [sample for sample in seen if not sample.failed]
    overlaps = [sample.overlap for sample in answered if sample.overlap >= 0]
    return Shadow(
        queries=len(seen),
        failed=len(seen) - len(answered),
        overlap_10=float(np.mean(overlaps)) if overlaps else 0.0,
        latency=_latency(answered),
        similarity_before=_quantiles([sample.serving_similarity for sample in answered]),
        similarity_after=_quantiles([sample.similarity for sample in answered]),
    )


def canary_of(samples: Sequence[Sample]) -> Canary | None:
    """None when the new version has answered nobody."""
    seen = _of("canary", samples)
    if not seen:
        return None
    answered = [sample for sample in seen if not sample.failed]
    others = [sample for sample in _of("serving", samples) if not sample.failed]
    return Canary(len(seen), len(seen) - len(answered), _latency(answered), _latency(others))


def _of(kind: Literal["shadow", "canary", "serving"], samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.kind == kind]


def _latency(answered: Sequence[Sample]) -> Latency:
    if not answered:
        return Latency()
    p50, p95 = np.quantile([sample.latency_ms for sample in answered], (0.5, 0.95))
    return Latency(float(p50), float(p95))


def _quantiles(similarities: Sequence[float]) -> tuple[float, ...]:
    """Of those that are one: a search without a result has none."""
    known = [similarity for similarity in similarities if similarity >= 0]
    return tuple(float(value) for value in np.quantile(known, QUANTILES)) if known else ()
