"""Fills the report from what a run measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from services.evaluation.protocols import CATALOGUE, Protocol
from services.evaluation.results import Metrics, Result
from services.evaluation.robustness import Robustness
from services.evaluation.sizes import Size
from services.photographs.dataset import DataSet
from services.photographs.photograph import Photograph
from services.trainer.learning.augment import make_augmentation
from services.trainer.learning.measuring import Exported, Measured
from services.trainer.learning.pixels import Pixels
from services.trainer.recipe import Recipe
from services.trainer.report import contents

WORST = 20
FOUND = 3
EXAMPLES, VARIANTS = 8, 7


def compatibility(after: Exported, older: str) -> list[contents.Compatibility]:
    """Args:
    older: the version that it is to be compatible with, for people.
    """

    def named(recall: Mapping[int, float]) -> dict[str, float]:
        return {f"recall@{k}": value for k, value in recall.items()}

    return [
        contents.Compatibility(
            _title(result.protocol), older, named(one.old_old), named(one.new_old), named(one.new_new)
        )
        for result, one in zip(after.served.results, after.compatibilities, strict=False)
    ]


def protocols(before: Measured | None, after: Exported) -> list[contents.Protocol]:
    found = []
    for place, result in enumerate(after.fp32.results):
        protocol = result.protocol
        earlier = before.results[place] if before else None
        served = after.served.results[place]
        gained, lost = _changed(earlier, served) if earlier else (None, None)
        in_catalogue = protocol.name == CATALOGUE
        found.append(
            contents.Protocol(
                _title(protocol),
                len(protocol.queries),
                len(protocol.gallery) - protocol.leave_one_out,
                earlier.overall if earlier else {},
                result.overall,
                after.int8.results[place].overall,
                gained,
                lost,
                _explained(protocol.leave_one_out, in_catalogue),
            )
        )
    return found


def _title(protocol: Protocol) -> str:
    return f"Photographs in {'catalogue images' if protocol.name == CATALOGUE else 'photographs'}"


def _explained(leave_one_out: bool, in_catalogue: bool) -> str:
    if in_catalogue:
        return "Each photograph among one catalogue picture of each product: a shop's first day."
    if leave_one_out:
        return "Each photograph among all the others."
    return "Each photograph among the photographs that were trained on."


def _changed(before: Result, after: Result) -> tuple[int, int]:
    """Queries that are found now and were not, and the reverse."""
    pairs = [(b.rank == 1, a.rank == 1) for b, a in zip(before.answers, after.answers, strict=True)]
    return pairs.count((False, True)), pairs.count((True, False))


def groups(before: Mapping[str, Metrics] | None, after: Mapping[str, Metrics]) -> list[contents.GroupRecall]:
    """Recall@1 of each category or product."""
    return [
        contents.GroupRecall(
            name, int(now["queries"]), now["recall@1"], before[name]["recall@1"] if before and name in before else None
        )
        for name, now in after.items()
    ]


def worst(result: Result) -> list[contents.WorstQuery]:
    queries, gallery = result.protocol.queries, result.protocol.gallery

    def match(place: int, similarity: float) -> contents.Match:
        return contents.Match(gallery[place].product, similarity, gallery[place])

    return [
        contents.WorstQuery(
            queries[answer.query].product,
            queries[answer.query],
            [match(*found) for found in zip(answer.found[:FOUND], answer.similarities[:FOUND], strict=True)],
            match(answer.best, answer.best_similarity),
            answer.rank,
        )
        for answer in result.worst(WORST)
    ]


def confusions(result: Result) -> list[contents.Confusion]:
    asked: dict[str, list[Photograph]] = {}
    for query in result.protocol.queries:
        asked.setdefault(query.product, []).append(query)
    shown = {photograph.product: photograph for photograph in reversed(result.protocol.gallery)}
    return [
        contents.Confusion(
            pair.product,
            pair.taken_for,
            pair.count,
            len(asked[pair.product]),
            asked[pair.product][0],
            shown[pair.taken_for],
        )
        for pair in result.confusions[:WORST]
    ]


def robustness(before: Robustness | None, after: Robustness) -> contents.Robustness:
    def by_severity(found: Robustness | None, name: str) -> list[float]:
        return [value for _, value in sorted(found.recall[name].items())] if found else []

    return contents.Robustness(
        after.clean,
        [contents.Corruption(n.replace("_", " "), by_severity(after, n), by_severity(before, n)) for n in after.recall],
        before.clean if before else None,
        f"{after.queries} of the photographs, each corrupted in the ways of ImageNet-C, among clean photographs.",
    )


def sizes(found: Sequence[Size]) -> list[contents.EmbeddingSize]:
    # shorter vectors are points of one curve with the whole ones
    return [
        contents.EmbeddingSize(size.name.split(", first")[0], size.dimension, size.bytes, size.recall) for size in found
    ]


def precisions(after: Exported, before: contents.Precision | None) -> list[contents.Precision]:
    rows = [before] if before else []
    for candidate in (after.comparison.fp32, after.comparison.int8):
        metrics = candidate.metrics
        rows.append(
            contents.Precision(
                candidate.precision.upper(),
                round(metrics["size_mb"] * 1e6),
                metrics["ms_per_image"],
                metrics["recall@1"],
                metrics["cosine_to_fp32"],
                candidate.precision == after.comparison.served,
            )
        )
    return rows


def split_counts(data: DataSet) -> list[contents.SplitCount]:
    named = (("train", data.splits.train), ("validation", data.splits.validation), ("test", data.splits.test))
    return [
        contents.SplitCount(
            name,
            len({p.product for p in photographs}),
            sum(not p.catalogue for p in photographs),
            sum(p.catalogue for p in photographs),
        )
        for name, photographs in named
    ]


def epochs(stage: str, history: Sequence[Mapping[str, Any]]) -> list[contents.Epoch]:
    best, found = -1.0, []
    for row in history:
        recall = row.get("recall@1")
        is_best = recall is not None and recall > best
        best = max(best, recall or -1.0)
        found.append(
            contents.Epoch(
                int(row["epoch"]),
                row["loss"],
                recall,
                None,
                {"backbone": row["rate"]},
                row["images_per_s"],
                row["seconds"],
                stage,
                is_best,
            )
        )
    return found


def augmented(photographs: Sequence[Photograph], pixels: Pixels, recipe: Recipe) -> list[contents.Augmented]:
    """Some training pictures, and what training makes of them."""
    augment = make_augmentation(recipe.augment, recipe.model.side)
    torch.manual_seed(recipe.seed)
    shown = []
    for place in np.linspace(0, len(photographs) - 1, min(EXAMPLES, len(photographs))).round().astype(int):
        picture = torch.from_numpy(pixels[place].copy()).permute(2, 0, 1)
        variants = [augment(picture).permute(1, 2, 0).numpy() for _ in range(VARIANTS)]
        shown.append(contents.Augmented(photographs[place], variants, photographs[place].product))
    return shown


def broken(data: DataSet) -> list[contents.BrokenFile]:
    return [contents.BrokenFile(str(file.path), file.reason) for file in data.broken]
