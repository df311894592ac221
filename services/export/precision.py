"""FP32 or INT8: both are measured on the same pictures, and INT8 serves if it finds as well."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from services.evaluation.inference import Progress, embed, milliseconds_per_image, open_session
from services.evaluation.metrics import Vectors, mean_cosine, recall_at_k
from services.export.evaluate import EvaluationSet
from services.export.publish import Candidate
from services.export.quantize import quantize

# how much recall@1 INT8 may cost, in [0, 1]
MAX_RECALL_DROP = 0.005
KS = (1, 5)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both precisions with their metrics, and which is to be served.

    Metrics: recall@1 and recall@5 in [0, 1]; size_mb; ms_per_image in batches of 8, on all cores; cosine_to_fp32, the
    mean over the queries.
    """

    fp32: Candidate
    int8: Candidate

    @property
    def recall_drop(self) -> float:
        """Of recall@1 from FP32 to INT8; negative when INT8 finds more."""
        return self.fp32.metrics["recall@1"] - self.int8.metrics["recall@1"]

    @property
    def served(self) -> str:
        # a hair more than the limit: a drop of exactly that much must not fail by rounding
        return "int8" if self.recall_drop <= MAX_RECALL_DROP + 1e-9 else "fp32"


def compare(model: onnx.ModelProto, pictures: EvaluationSet, progress: Progress = lambda done: None) -> Comparison:
    """Quantises an encoder and measures it before and after; each precision is searched with by itself.

    Args:
        model: keeps the encoder contract, float32.
        progress: called with pictures embedded since the last call, 2 * len(pictures) in all.
    """
    quantized = quantize(model, pictures.calibration)
    serialized = [made.SerializeToString() for made in (model, quantized)]
    sessions = [open_session(made) for made in serialized]
    metrics: list[dict[str, float]] = []
    queries: list[Vectors] = []
    for session, made in zip(sessions, serialized, strict=True):
        query = embed(session, pictures.query_pixels, progress=progress)
        gallery = embed(session, pictures.gallery_pixels, progress=progress)
        recall = recall_at_k(query, pictures.query_ids, gallery, pictures.gallery_ids, KS)
        queries.append(query)
        metrics.append({f"recall@{k}": value for k, value in recall.items()} | {"size_mb": len(made) / 1e6})
    times = milliseconds_per_image(sessions, pictures.query_pixels)
    for measured, query, ms in zip(metrics, queries, times, strict=True):
        measured |= {"ms_per_image": ms, "cosine_to_fp32": mean_cosine(query, queries[0])}
    return Comparison(Candidate("fp32", model, metrics[0]), Candidate("int8", quantized, metrics[1]))
