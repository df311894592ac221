"""Encoders that travel as a single file: into the model repository as its next version, and out of it.

Beside `encoder.onnx` stands `encoder.json`: the manifest of a version with one variant. The number in it is the one
that it had where it comes from, and so is that of the version it is compatible with: the file of that one tells which
number it has here, if any.
"""

from __future__ import annotations

import base64
import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx

from services.common.errors import FailedPrecondition
from services.common.images import PREPROCESSING
from services.common.manifest import GOLDEN_COSINE, MODEL_FILE, Golden, Manifest, Variant, golden_pixels, sha256_file
from services.export import contract
from services.export.answers import answers, parse
from services.export.publish import (
    GOLDEN_SEEDS,
    file_name,
    link,
    move_in,
    refuse_existing,
    staging,
    verify,
    versions_in,
)


@dataclass(frozen=True, slots=True)
class Added:
    """added: False when a version with the same file was there; `manifest` is then that version's."""

    manifest: Manifest
    added: bool


def manifest_beside(file: Path) -> Path | None:
    """Where the manifest of an encoder file is by default; None when there is none."""
    path = file.with_suffix(".json")
    return path if path.exists() else None


def add(models: Path, file: Path, manifest_file: Path | None = None, version: int | None = None) -> Added:
    """Makes an encoder file the version `models/{version}/`, byte for byte; does nothing when one serves that file.

    Args:
        models: the model's folder, where config.pbtxt is.
        manifest_file: what is said about the file; None: nothing is known, so golden vectors are made here, no
            metrics are recorded, and it is taken for one of this preprocessing.
        version: its number; None: the one after the highest there.

    Raises:
        FailedPrecondition: MODEL_CONTRACT_BROKEN, MODEL_DAMAGED, MODEL_MANIFEST_INVALID, PREPROCESSING_MISMATCH,
            GOLDEN_MISMATCH, MODEL_VERSION_EXISTS.
        OSError: a file can't be read.
    """
    if version is not None and version < 1:
        raise FailedPrecondition(f"versions are counted from 1, not {version}", reason="MODEL_VERSION_INVALID")
    serialized = file.read_bytes()
    model = parse(serialized, file)
    shape = contract.check(model)
    with staging(models) as folder:
        copy = folder / "copy.onnx"
        copy.write_bytes(serialized)
        sha256 = sha256_file(copy)
        if manifest_file is None:
            manifest = _unknown(file, copy, model, shape, sha256)
        else:
            manifest = Manifest.read_file(manifest_file)
            _check(manifest, manifest_file, copy, shape, sha256)
        if (present := _with_file(models, sha256)) is not None:
            return Added(present, added=False)
        number = version or max([0, *versions_in(models)]) + 1
        refuse_existing(models / str(number))
        variant = dataclasses.replace(manifest.served_variant, file=file_name(manifest.served), sha256=sha256)
        copy.rename(folder / variant.file)
        link(folder / variant.file, folder / MODEL_FILE)
        older = _with_file(models, manifest.compatible_sha256) if manifest.compatible_with else None
        manifest = dataclasses.replace(
            manifest,
            version=number,
            variants=(variant,),
            extras=(),
            compatible_with=older.version if older else 0,
            compatible_sha256=manifest.compatible_sha256 if older else "",
        )
        manifest.write(folder)
        move_in(folder, models / str(number))
    return Added(manifest, added=True)


def write_standalone(version_folder: Path, out: Path) -> Manifest:
    """Copies the served file of a version to `out` and writes its manifest beside it, as `add` reads them.

    An `out` that is there is replaced. Raises FailedPrecondition (MODEL_MANIFEST_INVALID, MODEL_DAMAGED) when the
    version is not intact, OSError when a file can't be written.
    """
    manifest = verify(version_folder)
    variant = dataclasses.replace(manifest.served_variant, file=out.name)
    manifest = dataclasses.replace(manifest, variants=(variant,), extras=())
    _write_whole(out, (version_folder / MODEL_FILE).read_bytes())
    _write_whole(out.with_suffix(".json"), manifest.to_json().encode())
    return manifest


def _unknown(file: Path, copy: Path, model: onnx.ModelProto, shape: contract.Shape, sha256: str) -> Manifest:
    """What can be said of a file that nothing is said about."""
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    precision = "int8" if quantized else "fp32"
    vectors = answers(copy, np.stack([golden_pixels(seed, shape.side) for seed in GOLDEN_SEEDS]))
    return Manifest(
        version=0,
        served=precision,
        variants=(Variant(precision, file.name, sha256),),
        side=shape.side,
        dimension=shape.dimension,
        preprocessing=PREPROCESSING,
        backbone=f"{file.name}, no manifest",
        training_run="",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics={},
        evaluated_on="",
        golden=tuple(
            Golden(seed, base64.b64encode(vector.astype("<f4").tobytes()).decode())
            for seed, vector in zip(GOLDEN_SEEDS, vectors, strict=True)
        ),
    )


def _check(manifest: Manifest, path: Path, copy: Path, shape: contract.Shape, sha256: str) -> None:
    """That the file is the one the manifest speaks of, and still answers as it did."""
    if len(manifest.variants) != 1 or manifest.served not in GOLDEN_COSINE or not manifest.golden:
        raise _invalid(path, "needs one variant, fp32 or int8, and golden vectors")
    if manifest.served_variant.sha256 != sha256:
        raise FailedPrecondition(
            f"the encoder has the sha256 {sha256[:12]}..., {path} says {manifest.served_variant.sha256[:12]}...",
            reason="MODEL_DAMAGED",
        )
    if (manifest.side, manifest.dimension) != (shape.side, shape.dimension):
        said = f"S {manifest.side}, D {manifest.dimension}"
        raise _invalid(path, f"says {said}; the encoder has S {shape.side}, D {shape.dimension}")
    if manifest.preprocessing != PREPROCESSING:
        raise FailedPrecondition(
            f"the encoder was made for preprocessing {manifest.preprocessing!r}; this system does {PREPROCESSING!r}",
            reason="PREPROCESSING_MISMATCH",
        )
    try:
        golden = manifest.golden_embeddings()
        pixels = np.stack([golden_pixels(each.seed, shape.side) for each in manifest.golden])
    except (ValueError, TypeError) as error:
        raise _invalid(path, f"has golden vectors that can't be read: {error}") from None
    if golden.shape[1] != shape.dimension:
        raise _invalid(path, f"has golden vectors of {golden.shape[1]} numbers, not of {shape.dimension}")
    vectors = answers(copy, pixels)
    cosine = float(np.min(np.sum(vectors * golden, axis=1)))
    if not cosine >= GOLDEN_COSINE[manifest.served]:
        raise FailedPrecondition(
            f"the encoder does not reproduce the golden vectors in {path}: cosine {cosine:.4f}",
            reason="GOLDEN_MISMATCH",
        )


def _with_file(models: Path, sha256: str) -> Manifest | None:
    """The version that serves this file. Raises FailedPrecondition when that one is not intact."""
    for version in versions_in(models):
        folder = models / str(version)
        try:
            served = Manifest.read(folder).served_variant.sha256
        except FailedPrecondition:
            continue  # `models list` says so; it is nothing to this file
        if served == sha256:
            return verify(folder)
    return None


def _write_whole(path: Path, content: bytes) -> None:
    """Whoever looks sees the file as it was or as it is."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _invalid(path: Path, what: str) -> FailedPrecondition:
    return FailedPrecondition(f"{path} {what}", reason="MODEL_MANIFEST_INVALID")
