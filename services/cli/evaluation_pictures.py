"""Pictures at hand to calibrate and measure an encoder with: the Grocery Store Dataset, or else the demo's drawings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.cli.demo_catalogue import demo_evaluation
from services.common.images import DEFAULT_FIT, Fit, decode_image
from services.evaluation.inference import Progress
from services.export.evaluate import EvaluationSet
from services.photographs.grocery import TRAIN, VALIDATION, read_photographs

SEED = 1
CALIBRATION = 96
# enough to tell the precisions apart, few enough to embed twice while someone waits
SAMPLE = 600
DEMO_QUERIES = 300


def find_grocery(repository: Path, data: Path | None) -> Path | None:
    """The Grocery Store Dataset: the folder that was named, or one in `$LOOKALIKE_SHARED` or `../shared`.

    Args:
        repository: the model repository; the project is above it.
        data: None when none was named.
    """
    if data is not None:
        return data
    shared = Path(os.environ.get("LOOKALIKE_SHARED", repository.resolve().parents[1] / "shared"))
    found = shared / "data" / "grocery"
    return found if (found / VALIDATION).is_file() else None


def grocery_pictures(
    folder: Path, side: int, *, full: bool = False, fit: Fit = DEFAULT_FIT, progress: Progress = lambda done: None
) -> EvaluationSet:
    """Validation photographs are the queries, training photographs the gallery; calibrated on training photographs.

    Args:
        side: S, in pixels.
        full: the whole gallery, not `SAMPLE` of it.
    """
    train, queries = read_photographs(folder, TRAIN), read_photographs(folder, VALIDATION)
    order = np.random.default_rng(SEED).permutation(len(train))
    gallery = [train[i] for i in (np.sort(order) if full else np.sort(order[:SAMPLE]))]
    calibration = [train[i] for i in order[-CALIBRATION:]]
    return EvaluationSet(
        name=f"Grocery Store Dataset, {len(queries)} validation photographs in {len(gallery)} training photographs",
        calibration=_decoded([p.path for p in calibration], side, fit),
        query_pixels=_decoded([p.path for p in queries], side, fit, progress),
        query_ids=tuple(p.product for p in queries),
        gallery_pixels=_decoded([p.path for p in gallery], side, fit, progress),
        gallery_ids=tuple(p.product for p in gallery),
    )


def demo_pictures(side: int, *, full: bool = False, progress: Progress = lambda done: None) -> EvaluationSet:
    """Altered drawings are the queries, the demo's catalogue the gallery; calibrated on others of both.

    Args:
        side: S, in pixels.
        full: the whole catalogue, not `SAMPLE` of it.
    """
    altered, catalogue = demo_evaluation(DEMO_QUERIES + CALIBRATION // 2, SEED, None if full else SAMPLE)
    queries, others = altered[:DEMO_QUERIES], altered[DEMO_QUERIES:]
    # the catalogue begins with the originals of the altered pictures
    others += catalogue[DEMO_QUERIES : DEMO_QUERIES + CALIBRATION // 2]
    return EvaluationSet(
        name=f"OpenMoji, {len(queries)} altered drawings in {len(catalogue)}",
        calibration=_decoded([file for _, file in others], side),
        query_pixels=_decoded([file for _, file in queries], side, progress=progress),
        query_ids=tuple(product for product, _ in queries),
        gallery_pixels=_decoded([file for _, file in catalogue], side, progress=progress),
        gallery_ids=tuple(product for product, _ in catalogue),
    )


def _decoded(
    files: Sequence[Path | bytes], side: int, fit: Fit = DEFAULT_FIT, progress: Progress = lambda done: None
) -> npt.NDArray[np.uint8]:
    """uint8 [n, side, side, 3]."""

    def decode(file: Path | bytes) -> npt.NDArray[np.uint8]:
        return decode_image(file if isinstance(file, bytes) else file.read_bytes(), side, fit=fit)

    pixels = np.empty((len(files), side, side, 3), np.uint8)
    with ThreadPoolExecutor() as pool:
        for number, picture in enumerate(pool.map(decode, files)):
            pixels[number] = picture
            progress(1)
    return pixels
