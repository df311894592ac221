"""Puts an encoder version into the model repository: all of it or nothing, and never over one that is there."""

from __future__ import annotations

import base64
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx

from services.common.errors import FailedPrecondition
from services.common.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    Extra,
    Golden,
    Manifest,
    Variant,
    golden_pixels,
    sha256_file,
)
from services.evaluation.inference import embed, open_session
from services.export import contract

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
    recipe: str = ""
    recipe_fingerprint: str = ""
    parent: int = 0
    teacher: str = ""
    compatible_with: int = 0
    compatible_sha256: str = ""


def publish(
    models: Path,
    version: int,
    candidates: tuple[Candidate, ...],
    served: str,
    origin: Origin,
    *,
    replace: bool = False,
    write_extras: Callable[[Path], None] = lambda folder: None,
) -> Manifest:
    """Writes `models/{version}/`: a file for each precision, `model.onnx` for the served one, and `manifest.json`.

    Everything is written and flushed to disk beside its place and then renamed to it, so whoever looks sees a whole
    version or none, also after a crash. What a killed run left behind is removed by the next.

    Args:
        models: the model's folder, where config.pbtxt is.
        served: precision of one of the candidates.
        replace: put it in the place of a version of that number. Only for development: a version that has served
            has a catalogue embedded with it.
        write_extras: writes further files of the version into the folder that it is given, for example
            `weights.safetensors`; the manifest lists them, `verify` checks them.

    Raises:
        FailedPrecondition: MODEL_VERSION_EXISTS, MODEL_CONTRACT_BROKEN.
        ValueError: a further file is a folder or has the name of one of ours.
    """
    with staging(models) as folder:
        target = models / str(version)
        if not replace:
            refuse_existing(target)
        write_extras(folder)
        extras = _extras(folder, candidates)
        shapes = {candidate.precision: contract.check(candidate.model) for candidate in candidates}
        variants = {candidate.precision: _write(folder, candidate) for candidate in candidates}
        link(folder / variants[served].file, folder / MODEL_FILE)
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
            golden=golden_of(folder / MODEL_FILE, shapes[served].side),
            extras=extras,
            recipe=origin.recipe,
            recipe_fingerprint=origin.recipe_fingerprint,
            parent=origin.parent,
            teacher=origin.teacher,
            compatible_with=origin.compatible_with,
            compatible_sha256=origin.compatible_sha256,
        )
        manifest.write(folder)
        move_in(folder, target)
    return manifest


def verify(folder: Path) -> Manifest:
    """The manifest of a published version whose files are what it says.

    Raises FailedPrecondition: MODEL_MANIFEST_INVALID, or MODEL_DAMAGED naming the file.
    """
    manifest = Manifest.read(folder)
    wanted = {variant.file: variant.sha256 for variant in manifest.variants}
    wanted |= {extra.file: extra.sha256 for extra in manifest.extras}
    for file, sha256 in {**wanted, MODEL_FILE: manifest.served_variant.sha256}.items():
        path = folder / file
        if not path.is_file() or sha256_file(path) != sha256:
            raise FailedPrecondition(f"{path} is missing or not what the manifest says", reason="MODEL_DAMAGED")
    return manifest


def versions_in(models: Path) -> list[int]:
    """Numbers of the version folders there are, ascending; whether their files are intact is not looked at."""
    return sorted(int(folder.name) for folder in models.glob("[0-9]*") if folder.name.isdigit())


def refuse_existing(target: Path) -> None:
    if target.exists():
        raise FailedPrecondition(f"{target} exists; a version is never changed", reason="MODEL_VERSION_EXISTS")


@contextmanager
def staging(models: Path) -> Iterator[Path]:
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


def move_in(folder: Path, target: Path) -> None:
    """Makes a staged folder the version `target`: on disk first, then under its name; one that is there goes."""
    for path in (*folder.iterdir(), folder):
        _flush(path)
    if target.exists():
        target.rename(folder.with_name(f"{folder.name}-replaced"))
    folder.rename(target)
    _flush(target.parent)


def _remove_staged(models: Path) -> None:
    for left in models.glob(".staging-*"):
        shutil.rmtree(left)


def _write(folder: Path, candidate: Candidate) -> Variant:
    path = folder / file_name(candidate.precision)
    onnx.save(candidate.model, path)
    return Variant(candidate.precision, path.name, sha256_file(path), candidate.metrics)


def _extras(folder: Path, candidates: tuple[Candidate, ...]) -> tuple[Extra, ...]:
    """Of what is in the folder before anything of ours is."""
    ours = {MANIFEST_FILE, MODEL_FILE, *(file_name(candidate.precision) for candidate in candidates)}
    for path in folder.iterdir():
        if path.name in ours or not path.is_file():
            raise ValueError(f"{path.name} can't be a further file of a version")
    return tuple(Extra(path.name, sha256_file(path)) for path in sorted(folder.iterdir()))


def file_name(precision: str) -> str:
    return f"model_{precision}.onnx"


def link(path: Path, name: Path) -> None:
    """The same file under a second name; a copy where the file system has no hard links."""
    try:
        name.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, name)


def golden_of(model: Path, side: int) -> tuple[Golden, ...]:
    """What an encoder answers for the golden pictures, for its manifest."""
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
