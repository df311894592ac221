"""What goes into a training report, as plain values.

Everything but the name may be left out: a section without its values is not on the page, and the page says so. Shares
(recall, mAP and so on) are in [0, 1]; the page shows them as per cent, and differences of them as points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from services.photographs.photograph import Photograph
from services.trainer.recipe import Recipe

# a file, a photograph (its region is shown), or uint8 [H, W, 3], RGB
Picture = Path | Photograph | npt.NDArray[np.uint8]
# for example {"recall@1": 0.86, "map@r": 0.61, "mrr": 0.9, "coarse recall@1": 0.92}; coarse: by category
Metrics = Mapping[str, float]
Served = Literal["fp32", "int8"]


@dataclass(frozen=True, slots=True)
class SplitCount:
    """Args:
    photographs, catalogue_images: how many of the one and of the other.
    """

    name: str
    products: int
    photographs: int
    catalogue_images: int = 0


@dataclass(frozen=True, slots=True)
class BrokenFile:
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Epoch:
    """Args:
    number: from 1, in its stage.
    loss: mean over the training pictures.
    recall: recall@1 on the validation photographs; None when the stage has none.
    rates: learning rate of each group of weights at the end, for example {"backbone": 1e-4, "head": 1e-3}.
    stage: pretrain, train or prune.
    best: whether the weights of this epoch were kept; the last such epoch is marked.
    """

    number: int
    loss: float
    recall: float | None = None
    validation_loss: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    images_per_s: float | None = None
    seconds: float | None = None
    stage: str = "train"
    best: bool = False


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way to measure. The first in a report is the one that its verdict is about.

    Args:
        name: for example "Photographs in photographs".
        queries, gallery: how many pictures of each.
        before: of the version before; empty when there is none.
        fp32, int8: of the trained encoder; empty when not measured.
        gained, lost: queries that the served precision finds first and the version before did not, and the reverse.
            With them the verdict tells a difference from chance much better.
        explanation: a sentence about what is searched in what.
    """

    name: str
    queries: int
    gallery: int
    before: Metrics = field(default_factory=dict)
    fp32: Metrics = field(default_factory=dict)
    int8: Metrics = field(default_factory=dict)
    gained: int | None = None
    lost: int | None = None
    explanation: str = ""

    def after(self, served: Served) -> Metrics:
        """Of the precision that is served, or of the one that was measured."""
        return (self.int8 or self.fp32) if served == "int8" else (self.fp32 or self.int8)


@dataclass(frozen=True, slots=True)
class Compatibility:
    """Recall in what an older version has embedded, for example {"recall@1": 0.52, "recall@5": 0.77}.

    Args:
        name: of the protocol.
        older: who embedded the gallery, for example "version 1".
        old_old: of the older version's queries there. new_old: of the trained encoder's queries there.
        new_new: of the trained encoder's queries in what it embedded itself.
    """

    name: str
    older: str
    old_old: Metrics
    new_old: Metrics
    new_new: Metrics


@dataclass(frozen=True, slots=True)
class GroupRecall:
    """Recall@1 of the queries of one category or product; before: None when there is no version before."""

    name: str
    queries: int
    after: float
    before: float | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A picture in the gallery, and its similarity (cosine) to the query."""

    product: str
    similarity: float
    picture: Picture


@dataclass(frozen=True, slots=True)
class WorstQuery:
    """Args:
    product: the right one.
    found: the nearest pictures, the nearest first.
    right: the nearest picture of the right product; None when the gallery has none.
    rank: its place among all pictures (or products), from 1.
    """

    product: str
    picture: Picture
    found: Sequence[Match]
    right: Match | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Confusion:
    """Args:
    count: queries of `product` for which `taken_for` was found first.
    queries: all queries of `product`.
    """

    product: str
    taken_for: str
    count: int
    queries: int
    picture: Picture
    taken_for_picture: Picture


@dataclass(frozen=True, slots=True)
class Corruption:
    """Recall@1 at severity 1, 2, ... (five of them as a rule), after and, if measured, before."""

    name: str
    after: Sequence[float]
    before: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Robustness:
    """Args:
    clean_after, clean_before: recall@1 of the same queries as they are.
    explanation: for example which pictures were corrupted, and how many of them were taken.
    """

    clean_after: float
    corruptions: Sequence[Corruption]
    clean_before: float | None = None
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class EmbeddingSize:
    """Args:
    storage: how a vector is kept, for example "float32", "int8" or "binary, re-ranked".
    vector_bytes: of one vector as it is kept.
    """

    storage: str
    dimension: int
    vector_bytes: int
    recall: float


@dataclass(frozen=True, slots=True)
class Precision:
    """One encoder file.

    Args:
        name: for example "INT8", or "version 1, INT8".
        milliseconds: median time of one image.
        cosine: mean similarity of its embeddings to those of FP32.
    """

    name: str
    file_bytes: int
    milliseconds: float | None = None
    recall: float | None = None
    cosine: float | None = None
    served: bool = False


@dataclass(frozen=True, slots=True)
class Augmented:
    """A training picture, and what training makes of it."""

    original: Picture
    variants: Sequence[Picture]
    product: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Args:
    name: of the recipe.
    version: exported as; 0: not exported.
    previous: what "before" is, for example "version 1".
    served: the precision that is compared with before.
    created: when, as it shall be shown.
    facts: of the run, for example {"Run": "grocery-1f2e3d4c", "Device": "CPU, 2 threads", "Duration": "1 h 52 min"}.
    recipe_text: the recipe as it was written.
    latency_note: how milliseconds were measured.
    """

    name: str
    version: int = 0
    previous: str = "the version before"
    served: Served = "fp32"
    created: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    recipe: Recipe | None = None
    recipe_text: str = ""
    splits: Sequence[SplitCount] = ()
    broken: Sequence[BrokenFile] = ()
    epochs: Sequence[Epoch] = ()
    protocols: Sequence[Protocol] = ()
    categories: Sequence[GroupRecall] = ()
    products: Sequence[GroupRecall] = ()
    worst: Sequence[WorstQuery] = ()
    confusions: Sequence[Confusion] = ()
    robustness: Robustness | None = None
    sizes: Sequence[EmbeddingSize] = ()
    precisions: Sequence[Precision] = ()
    latency_note: str = ""
    augmented: Sequence[Augmented] = ()
    warnings: Sequence[str] = ()
    compatibility: Sequence[Compatibility] = ()
