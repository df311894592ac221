"""What a version must show before anything depends on it: its files, and then what Triton makes of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from services.backends.encoder import Encoder
from services.backends.golden import check_golden
from services.common.errors import FailedPrecondition, LookalikeError, Unavailable
from services.common.images import PREPROCESSING
from services.common.manifest import GOLDEN_COSINE, MODEL_FILE, Manifest, golden_pixels
from services.export import contract
from services.export.answers import answers, parse
from services.export.publish import verify

READY_S = 60.0
_POLL_S = 0.1
_GOLDEN_SEEDS = (1, 2, 3, 4)
# the same picture alone and among others
_ALONE_COSINE = 0.999


async def verify_files(models: Path, version: int) -> Manifest:
    """The manifest of a version whose files are what it says and keep the encoder contract, run here, without Triton.

    Args:
        models: the model's folder, where config.pbtxt and the versions are.

    Raises:
        FailedPrecondition: MODEL_MISSING; MODEL_MANIFEST_INVALID; MODEL_DAMAGED (a checksum, or no ONNX);
            PREPROCESSING_MISMATCH; MODEL_CONTRACT_BROKEN (names, types, shapes, or answers that are not finite, not
            of unit length, or depend on what else is in the batch); DIMENSION_MISMATCH; GOLDEN_MISMATCH.
    """
    return await asyncio.to_thread(_verify_files, models / str(version), version)


def _verify_files(folder: Path, version: int) -> Manifest:
    if not folder.is_dir():
        raise FailedPrecondition(f"there is no encoder version {version} in {folder.parent}", reason="MODEL_MISSING")
    manifest = verify(folder)
    if manifest.version != version or manifest.served not in GOLDEN_COSINE or not manifest.golden:
        raise _invalid(
            folder, f"speaks of version {manifest.version}, {manifest.served!r}, {len(manifest.golden)} vectors"
        )
    if manifest.preprocessing != PREPROCESSING:
        raise FailedPrecondition(
            f"encoder version {version} was made for preprocessing {manifest.preprocessing!r}; this system does "
            f"{PREPROCESSING!r}",
            reason="PREPROCESSING_MISMATCH",
        )
    file = folder / MODEL_FILE
    shape = contract.check(parse(file.read_bytes(), file))
    if (shape.side, shape.dimension) != (manifest.side, manifest.dimension):
        raise FailedPrecondition(
            f"encoder version {version} has S {shape.side} and D {shape.dimension}, its manifest says "
            f"S {manifest.side} and D {manifest.dimension}",
            reason="DIMENSION_MISMATCH",
        )
    _check_answers(manifest, file)
    return manifest


def _check_answers(manifest: Manifest, file: Path) -> None:
    version = manifest.version
    try:
        golden = manifest.golden_embeddings()
        pixels = np.stack([golden_pixels(each.seed, manifest.side) for each in manifest.golden])
    except (ValueError, TypeError) as error:
        raise _invalid(file.parent, f"has golden vectors that can't be read: {error}") from None
    if golden.shape[1] != manifest.dimension:
        raise _invalid(file.parent, f"has golden vectors of {golden.shape[1]} numbers, not of {manifest.dimension}")
    vectors = answers(file, pixels)
    if vectors.shape != golden.shape:
        raise FailedPrecondition(
            f"encoder version {version} answers {vectors.shape}, not {golden.shape}", reason="MODEL_CONTRACT_BROKEN"
        )
    cosine = float(np.min(np.sum(vectors * golden, axis=1)))
    if not cosine >= GOLDEN_COSINE[manifest.served]:
        raise FailedPrecondition(
            f"the file of encoder version {version} does not reproduce its golden vectors: cosine {cosine:.4f}",
            reason="GOLDEN_MISMATCH",
        )
    alone = float(answers(file, pixels[-1:])[0] @ vectors[-1])
    if not alone >= _ALONE_COSINE:
        raise FailedPrecondition(
            f"encoder version {version} answers otherwise for a picture alone than in a batch: cosine {alone:.4f}",
            reason="MODEL_CONTRACT_BROKEN",
        )


def check_compatible(manifest: Manifest, serving: Manifest) -> None:
    """Raises FailedPrecondition (NOT_COMPATIBLE) unless a version was trained to be compatible with the serving one.

    With its file, that is: elsewhere, or after a version was replaced, the same number may mean another one.
    """
    if (manifest.compatible_with, manifest.compatible_sha256) != (serving.version, serving.served_variant.sha256):
        named = f"version {manifest.compatible_with}" if manifest.compatible_with else "none"
        other = ", of another file" if manifest.compatible_with == serving.version else ""
        raise FailedPrecondition(
            f"encoder version {manifest.version} was not trained to be compatible with version {serving.version}: its "
            f"manifest names {named}{other}",
            reason="NOT_COMPATIBLE",
        )


async def load_version(encoder: Encoder, models: Path, manifest: Manifest, ready_s: float = READY_S) -> float:
    """Triton serves the version beside those that it serves, and it answers its golden vectors; the cosine of that.

    Versions that serve answer on, whatever happens. A version that is refused here is let go of again.

    Args:
        models: as `verify_files`.
        ready_s: how long it may take to answer after it was loaded.

    Raises:
        FailedPrecondition: MODEL_MISSING, MODEL_LOAD_FAILED with Triton's words; what `check_golden` raises.
        Unavailable: Triton does not answer.
    """
    before = await encoder.loaded_versions()
    try:
        await encoder.load(models, {manifest.version})
        deadline = time.monotonic() + ready_s
        while True:
            try:
                return await check_golden(encoder, manifest)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_POLL_S)
    except FailedPrecondition:
        if before and manifest.version not in before:
            with contextlib.suppress(LookalikeError):
                await encoder.keep_only(models, before)
        raise


async def latencies_ms(encoder: Encoder, versions: Sequence[tuple[int, int]], rounds: int = 40) -> list[float]:
    """p95 of the time in which Triton answers one picture, in milliseconds, for each (version, S).

    They take turns, so that whatever else the machine does slows all of them alike; asked at the priority of queries.
    """
    taken: list[list[float]] = [[] for _ in versions]
    for turn in range(rounds + 2):
        for times, (version, side) in zip(taken, versions, strict=True):
            pixels = golden_pixels(_GOLDEN_SEEDS[turn % len(_GOLDEN_SEEDS)], side)[None]
            start = time.perf_counter()
            await encoder.embed(pixels, version)
            if turn > 1:  # each instance makes its buffers first
                times.append((time.perf_counter() - start) * 1000)
    return [float(np.percentile(times, 95)) for times in taken]


def _invalid(folder: Path, what: str) -> FailedPrecondition:
    return FailedPrecondition(f"the manifest in {folder} {what}", reason="MODEL_MANIFEST_INVALID")
