"""How well an encoder finds: retrieval metrics as pure functions over vectors and ids, and what yields the vectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from services.common.manifest import INPUT_NAME, OUTPUT_NAME

BATCH = 8

Vectors = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Progress = Callable[[int], None]  # pictures done since the last call


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Pictures to calibrate and to measure with; a query's right answer is any gallery picture of the same id.

    Args:
        name: what it is, for the manifest.
        calibration: uint8 [n, S, S, 3]; none of them is a query.
        query_pixels, gallery_pixels: uint8 [n, S, S, 3].
        query_ids, gallery_ids: product of each.
    """

    name: str
    calibration: Pixels
    query_pixels: Pixels
    query_ids: tuple[str, ...]
    gallery_pixels: Pixels
    gallery_ids: tuple[str, ...]

    def __len__(self) -> int:
        """Pictures to embed for one evaluation."""
        return len(self.query_ids) + len(self.gallery_ids)


def recall_at_k(
    query_vectors: Vectors,
    query_ids: Sequence[str],
    gallery_vectors: Vectors,
    gallery_ids: Sequence[str],
    ks: Sequence[int] = (1, 5),
) -> dict[int, float]:
    """The share of queries that have a picture of their own id among their k nearest.

    As in Jégou et al. (2011) and in metric learning since. Of equally near pictures, the earlier in the gallery counts.

    Args:
        query_vectors, gallery_vectors: float32 [n, D], unit length.
        query_ids, gallery_ids: n ids.

    Returns:
        A value in [0, 1] for each of `ks`. Raises ValueError when there are no queries, or fewer pictures than k.
    """
    if not len(query_ids) or len(gallery_ids) < max(ks):
        raise ValueError(f"recall@{max(ks)} of {len(query_ids)} queries in {len(gallery_ids)} pictures is not defined")
    right = np.asarray(gallery_ids)[nearest(query_vectors, gallery_vectors, max(ks))] == np.asarray(query_ids)[:, None]
    return {k: float(right[:, :k].any(axis=1).mean()) for k in ks}


def nearest(query_vectors: Vectors, gallery_vectors: Vectors, k: int) -> npt.NDArray[np.int64]:
    """int64 [n, k]: places in the gallery of each query's k nearest by inner product, the nearest first."""
    rows = [
        # a block at a time: the whole product of two large sets does not fit into memory
        np.argsort(-(query_vectors[i : i + 256] @ gallery_vectors.T), axis=1, kind="stable")[:, :k]
        for i in range(0, len(query_vectors), 256)
    ]
    return np.concatenate(rows)


def mean_cosine(vectors: Vectors, others: Vectors) -> float:
    """Of unit vectors float32 [n, D], row by row."""
    return float(np.einsum("nd,nd->n", vectors, others).mean())


def open_session(model: Path | bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU.

    Args:
        threads: 0: one for each core.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # threads that wait by spinning take the cores from whoever else has work
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def embed(
    session: onnxruntime.InferenceSession, pixels: Pixels, batch: int = BATCH, progress: Progress = lambda done: None
) -> Vectors:
    """float32 [n, D] of uint8 [n, S, S, 3]."""
    parts = []
    for start in range(0, len(pixels), batch):
        part = pixels[start : start + batch]
        parts.append(session.run([OUTPUT_NAME], {INPUT_NAME: part})[0])
        progress(len(part))
    return np.concatenate(parts)


def milliseconds_per_image(
    sessions: Sequence[onnxruntime.InferenceSession], pixels: Pixels, rounds: int = 7
) -> list[float]:
    """Median time of one picture for each session, in batches of 8.

    They take turns, so that whatever else the machine does slows all of them alike.
    """
    times: list[list[float]] = [[] for _ in sessions]
    for turn in range(rounds + 1):
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            embed(session, pixels[:BATCH])
            if turn:  # the first makes buffers
                taken.append((time.perf_counter() - start) * 1000 / len(pixels[:BATCH]))
    return [float(np.median(taken)) for taken in times]
