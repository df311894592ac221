"""How much of its recall an encoder loses when photographs are corrupted."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from services.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from services.evaluation.inference import Embed, Pixels, Progress
from services.evaluation.metrics import Places, Vectors, rank

BATCH = 16


@dataclass(frozen=True, slots=True)
class Robustness:
    """Args:
    clean: recall@1 of the same queries as they are, in [0, 1].
    recall: recall@1 by corruption and severity.
    queries: how many.
    """

    clean: float
    recall: dict[str, dict[int, float]]
    queries: int

    @property
    def drops(self) -> dict[str, float]:
        """By corruption: what recall@1 falls by, on average over the severities; in points of [0, 1]."""
        return {name: self.clean - float(np.mean(list(by.values()))) for name, by in self.recall.items()}

    @property
    def drop(self) -> float:
        """On average over all corruptions and severities."""
        return float(np.mean(list(self.drops.values())))


def robustness(
    embed: Embed,
    query_pixels: Pixels,
    query_ids: Sequence[str],
    gallery_vectors: Vectors,
    gallery_ids: Sequence[str],
    *,
    own: Places | None = None,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    queries: int = 0,
    seed: int = 1,
    progress: Progress = lambda done: None,
) -> Robustness:
    """Queries are corrupted, the gallery is not: a shop's pictures are good.

    Args:
        embed: uint8 [n, S, S, 3] to float32 [n, D], unit length.
        query_pixels: uint8 [n, S, S, 3]. gallery_vectors: float32 [n, D].
        own: places of the queries in the gallery, for leave-one-out; see `services.evaluation.metrics.rank`.
        corruptions, severities: fewer of them, for speed.
        queries: so many of them, evenly spread; 0: all.
        progress: called with pictures embedded since the last call; in all as `pictures_to_embed` says.
    """
    chosen = _spread(len(query_ids), queries)
    pixels, ids = query_pixels[chosen], [query_ids[place] for place in chosen]
    places = None if own is None else own[chosen]

    def recall(vectors: Vectors) -> float:
        return float(rank(vectors, ids, gallery_vectors, gallery_ids, places).found(1).mean())

    with ThreadPoolExecutor() as pool:

        def embedded(name: str, severity: int) -> Vectors:
            def work(place: int) -> Pixels:
                # each picture has noise of its own, the same whatever else is asked for
                return corrupt(query_pixels[place], name, severity, seed * 1_000_003 + place)

            parts = []
            for start in range(0, len(chosen), BATCH):
                batch = np.stack(list(pool.map(work, map(int, chosen[start : start + BATCH]))))
                parts.append(embed(batch))
                progress(len(batch))
            return np.concatenate(parts)

        clean = recall(embed(pixels))
        progress(len(pixels))
        found = {name: {s: recall(embedded(name, s)) for s in severities} for name in corruptions}
    return Robustness(clean, found, len(chosen))


def pictures_to_embed(
    count: int, corruptions: int = len(CORRUPTIONS), severities: int = len(SEVERITIES), queries: int = 0
) -> int:
    """For a progress bar: of `count` queries, each as it is and in every corruption."""
    return len(_spread(count, queries)) * (1 + corruptions * severities)


def _spread(count: int, most: int) -> Places:
    if not most or count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)
