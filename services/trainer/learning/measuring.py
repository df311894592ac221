"""What an encoder is worth: both protocols, robustness, sizes, and the time that an image takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from services.evaluation.compatibility import NEW_OLD, OLD_OLD, Compatibility, compatibility
from services.evaluation.inference import (
    Embed,
    Encoder,
    decode_photographs,
    embed_protocols,
    milliseconds_per_image,
    open_encoder,
)
from services.evaluation.metrics import Vectors, mean_cosine
from services.evaluation.protocols import Protocol, protocols
from services.evaluation.results import Result, measure
from services.evaluation.robustness import Robustness, robustness
from services.evaluation.sizes import Size, sizes
from services.export.precision import Comparison
from services.export.publish import Candidate
from services.photographs.photograph import Splits

# how a protocol other than the first is told apart in a flat list of metrics
CATALOGUE_PREFIX = "catalogue "


@dataclass(frozen=True, slots=True)
class Measured:
    """Args:
    results: of each protocol, the main one first.
    vectors: query and gallery vectors of each, float32 [n, D].
    """

    results: Sequence[Result]
    vectors: Sequence[tuple[Vectors, Vectors]]

    @property
    def metrics(self) -> dict[str, float]:
        """All protocols in one: "recall@1", "coarse recall@1", "catalogue recall@1", ..."""
        found: dict[str, float] = {}
        for place, result in enumerate(self.results):
            prefix = CATALOGUE_PREFIX if place else ""
            found |= {prefix + name: value for name, value in result.overall.items()}
        return found


@dataclass(frozen=True, slots=True)
class Exported:
    """Both precisions, measured, and what torch makes of the same pictures.

    Args:
        older: the version that they are to be compatible with, on the same pictures; None: with none.
    """

    comparison: Comparison
    torch: Measured
    fp32: Measured
    int8: Measured
    older: Measured | None = None

    @property
    def served(self) -> Measured:
        return self.int8 if self.comparison.served == "int8" else self.fp32

    @property
    def compatibilities(self) -> Sequence[Compatibility]:
        """Of what is served, for each protocol; empty when it is to be compatible with none."""
        return compatibilities(self.older, self.served) if self.older else ()

    @property
    def metrics(self) -> dict[str, float]:
        """Of what is served, as they are in the manifest."""
        return self.served.metrics | compatible_metrics(self.compatibilities)


def asked_protocols(splits: Splits) -> list[Protocol]:
    """With the test photographs where there are any, otherwise with those of validation.

    Raises InvalidArgument as `services.evaluation.protocols.protocols`.
    """
    everything = [*splits.train, *splits.validation, *splits.test]
    return protocols(everything, "test" if splits.test else "validation")


def measured(asked: Sequence[Protocol], side: int, embed: Embed) -> Measured:
    """Args:
    side: S that `embed` wants.
    """
    vectors = embed_protocols(asked, side, embed)
    return Measured([measure(one, *both) for one, both in zip(asked, vectors, strict=True)], vectors)


def compatibilities(older: Measured, newer: Measured) -> list[Compatibility]:
    """For each protocol: the newer one's queries in what the older one embedded. Raises InvalidArgument
    (DIMENSION_MISMATCH)."""
    return [
        compatibility(old, new, one.protocol.query_ids, one.protocol.gallery_ids, one.protocol.own)
        for one, old, new in zip(newer.results, older.vectors, newer.vectors, strict=True)
    ]


def compatible_metrics(found: Sequence[Compatibility]) -> dict[str, float]:
    """All protocols in one, without what the newer one finds in its own gallery, which is there already: "old/old
    recall@1", "new/old recall@1", "catalogue new/old recall@1", ..."""
    return {
        (CATALOGUE_PREFIX if place else "") + name: value
        for place, one in enumerate(found)
        for name, value in one.metrics.items()
        if name.startswith((OLD_OLD, NEW_OLD))
    }


def compared(
    asked: Sequence[Protocol],
    torch_embed: Embed,
    fp32: onnx.ModelProto,
    int8: onnx.ModelProto,
    older: Measured | None = None,
) -> Exported:
    """Torch, FP32 and INT8 on the same pictures; times are taken by turns.

    Args:
        older: the version that they are to be compatible with.
    """
    files = [model.SerializeToString() for model in (fp32, int8)]
    first, second = (open_encoder(file) for file in files)
    by_torch = measured(asked, first.side, torch_embed)
    found = [measured(asked, encoder.side, encoder) for encoder in (first, second)]
    pixels = decode_photographs(asked[0].queries[:8], first.side)
    times = milliseconds_per_image([first.session, second.session], pixels)
    candidates = []
    for name, model, file, one, ms in zip(("fp32", "int8"), (fp32, int8), files, found, times, strict=True):
        cosine = mean_cosine(one.vectors[0][0], found[0].vectors[0][0])
        facts = {"size_mb": len(file) / 1e6, "ms_per_image": ms, "cosine_to_fp32": cosine}
        if name == "fp32":
            facts["cosine_to_torch"] = mean_cosine(one.vectors[0][0], by_torch.vectors[0][0])
        facts |= compatible_metrics(compatibilities(older, one)) if older else {}
        candidates.append(Candidate(name, model, one.metrics | facts))
    return Exported(Comparison(*candidates), by_torch, found[0], found[1], older)


def robust(found: Measured, encoder: Encoder, queries: int) -> Robustness | None:
    """On the main protocol; None when nothing is to be asked.

    Args:
        queries: how many of them are corrupted.
    """
    if not queries:
        return None
    protocol, (_, gallery) = found.results[0].protocol, found.vectors[0]
    pixels = decode_photographs(protocol.queries, encoder.side)
    ids = protocol.query_ids
    return robustness(encoder, pixels, ids, gallery, protocol.gallery_ids, own=protocol.own, queries=queries)


def sized(found: Measured) -> list[Size]:
    """On the main protocol."""
    protocol, (queries, gallery) = found.results[0].protocol, found.vectors[0]
    return sizes(queries, protocol.query_ids, gallery, protocol.gallery_ids, protocol.own)
