"""Puts an encoder version into the model repository: all of it or nothing, and never over one that is there."""

from __future__ import annotations

import base64
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx

from services.common.errors import FailedPrecondition
from services.common.manifest import MODEL_FILE, Golden, Manifest, Variant, golden_pixels, sha256_file
from services.export import contract
from services.export.evaluate import embed, open_session

GOLDEN_SEEDS = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One precision of an encoder, "fp32" or "int8", and what was measured on it."""

    precision: str
    model: onnx.ModelProto
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a version comes from, for its manifest: see `Manifest`."""

    preprocessing: str
    backbone: str
    training_run: str
    evaluated_on: str


def publish(
    models: Path,
    version: int,
    candidates: tuple[Candidate, ...],
    served: str,
    origin: Origin,
    *,
    replace: bool = False,
) -> Manifest:
    """Writes `models/{version}/`: a file for each precision, `model.onnx` for the served one, and `manifest.json`.

    Everything is written and flushed to disk beside its place and then renamed to it, so whoever looks sees a whole
    version or none, also after a crash. What a killed run left behind is removed by the next.

    Args:
        models: the model's folder, where config.pbtxt is.
        served: precision of one of the candidates.
        replace: put it in the place of a version of that number. Only for development: a version that has served
            has a catalogue embedded with it.

    Raises:
        FailedPrecondition: MODEL_VERSION_EXISTS, MODEL_CONTRACT_BROKEN.
    """
    with _staging(models) as folder:
        target = models / str(version)
        if target.exists() and not replace:
            raise FailedPrecondition(f"{target} exists; a version is never changed", reason="MODEL_VERSION_EXISTS")
        shapes = {candidate.precision: contract.check(candidate.model) for candidate in candidates}
        variants = {candidate.precision: _write(folder, candidate) for candidate in candidates}
        _link(folder / variants[served].file, folder / MODEL_FILE)
        manifest = Manifest(
            version=version,
            served=served,
            variants=tuple(variants.values()),
            side=shapes[served].side,
            dimension=shapes[served].dimension,
            preprocessing=origin.preprocessing,
            backbone=origin.backbone,
            training_run=origin.training_run,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            metrics=variants[served].metrics,
            evaluated_on=origin.evaluated_on,
            golden=_golden(folder / MODEL_FILE, shapes[served].side),
        )
        manifest.write(folder)
        for path in (*folder.iterdir(), folder):
            _flush(path)
        if target.exists():
            target.rename(folder.with_name(f"{folder.name}-replaced"))
        folder.rename(target)
        _flush(models)
    return manifest


def verify(folder: Path) -> Manifest:
    """The manifest of a published version whose files are what it says.

    Raises FailedPrecondition: MODEL_MANIFEST_INVALID, or MODEL_DAMAGED naming the file.
    """
    manifest = Manifest.read(folder)
    wanted = {variant.file: variant.sha256 for variant in manifest.variants}
    for file, sha256 in {**wanted, MODEL_FILE: manifest.served_variant.sha256}.items():
        path = folder / file
        if not path.is_file() or sha256_file(path) != sha256:
            raise FailedPrecondition(f"{path} is missing or not what the manifest says", reason="MODEL_DAMAGED")
    return manifest


@contextmanager
def _staging(models: Path) -> Iterator[Path]:
    """A new folder beside the versions, removed at the end unless it was renamed.

    One publisher at a time holds the lock, so every other such folder is what a killed one left.
    """
    models.mkdir(parents=True, exist_ok=True)
    with (models / ".staging.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _remove_staged(models)
        folder = Path(tempfile.mkdtemp(prefix=".staging-", dir=models))
        folder.chmod(0o755)  # Triton may run as another user
        try:
            yield folder
        finally:
            _remove_staged(models)


def _remove_staged(models: Path) -> None:
    for left in models.glob(".staging-*"):
        shutil.rmtree(left)


def _write(folder: Path, candidate: Candidate) -> Variant:
    path = folder / f"model_{candidate.precision}.onnx"
    onnx.save(candidate.model, path)
    return Variant(candidate.precision, path.name, sha256_file(path), candidate.metrics)


def _link(path: Path, name: Path) -> None:
    """The same file under a second name; a copy where the file system has no hard links."""
    try:
        name.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, name)


def _golden(model: Path, side: int) -> tuple[Golden, ...]:
    vectors = embed(open_session(model), np.stack([golden_pixels(seed, side) for seed in GOLDEN_SEEDS]))
    return tuple(
        Golden(seed, base64.b64encode(vector.astype("<f4").tobytes()).decode())
        for seed, vector in zip(GOLDEN_SEEDS, vectors, strict=True)
    )


def _flush(path: Path) -> None:
    """Of a file or a folder: on disk, not only in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
