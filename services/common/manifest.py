"""`manifest.json` beside an encoder file: what the version is, and how to recognise that it still is.

The encoder contract: input `image` uint8 [N, S, S, 3], RGB, 0..255; output `embedding` float32 [N, D], unit length;
normalisation is inside the graph. A second output `features` float32 [N, C, H, W], the last feature map, is allowed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.errors import FailedPrecondition

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
MODEL_NAME = "image_encoder"
INPUT_NAME = "image"
OUTPUT_NAME = "embedding"
# optional: what an explanation of a result is made of
FEATURES_NAME = "features"

# The least cosine between a version's golden vectors and what it answers now.
GOLDEN_COSINE = {"fp32": 0.9999, "int8": 0.99}


@dataclass(frozen=True, slots=True)
class Variant:
    """One file of a version: `precision` "fp32" or "int8", its sha256 and what was measured on it."""

    precision: str
    file: str
    sha256: str
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Golden:
    """What the served file answered for `golden_pixels(seed, S)`; embedding: base64 of float32 little-endian [D]."""

    seed: int
    embedding: str


@dataclass(frozen=True, slots=True)
class Extra:
    """A file of a version that is not served, for example its weights as `weights.safetensors`, and its sha256."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What follows `golden` came later: a manifest without it is read as one that has the defaults.

    Args:
        version: number of the folder.
        served: precision of the file that is served as `model.onnx`.
        side: S, in pixels. dimension: D.
        preprocessing: `services.common.images.PREPROCESSING` when it was made.
        training_run: id of the run that it comes from; "": of none.
        metrics: of the served file, for example {"recall@1": 0.56}.
        evaluated_on: what the metrics of all variants were measured on.
        extras: further files of the version.
        recipe: name of the training recipe. recipe_fingerprint: 8 hexadecimal digits of all that it says.
        parent: version whose weights the training began with; 0: none in this repository.
        teacher: encoder it was distilled from; "": none.
        compatible_with: version whose collection its query vectors also work against; 0: none. How well, its metrics
            say: "new/old recall@1" is of its own queries in what that version embedded, "old/old recall@1" of that
            version's queries there, "recall@1" of its own queries in what it embedded itself.
        compatible_sha256: of the file that served as that version, which may have another number elsewhere.
    """

    version: int
    served: str
    variants: tuple[Variant, ...]
    side: int
    dimension: int
    preprocessing: str
    backbone: str
    training_run: str
    created: str
    metrics: dict[str, float]
    evaluated_on: str
    golden: tuple[Golden, ...]
    extras: tuple[Extra, ...] = ()
    recipe: str = ""
    recipe_fingerprint: str = ""
    parent: int = 0
    teacher: str = ""
    compatible_with: int = 0
    compatible_sha256: str = ""

    @property
    def served_variant(self) -> Variant:
        return next(v for v in self.variants if v.precision == self.served)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    def write(self, folder: Path) -> None:
        (folder / MANIFEST_FILE).write_text(self.to_json())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Of a version's folder: see `read_file`."""
        return cls.read_file(folder / MANIFEST_FILE)

    @classmethod
    def read_file(cls, path: Path) -> Manifest:
        """Raises FailedPrecondition (MODEL_MANIFEST_INVALID) when there is none or it is not well formed."""
        try:
            raw: dict[str, Any] = json.loads(path.read_text())
            raw["variants"] = tuple(Variant(**v) for v in raw["variants"])
            raw["golden"] = tuple(Golden(**g) for g in raw["golden"])
            raw["extras"] = tuple(Extra(**e) for e in raw.get("extras", ()))
            manifest = cls(**raw)
            _check_types(manifest, *manifest.variants, *manifest.golden, *manifest.extras)
            manifest.served_variant  # noqa: B018 - raises StopIteration when it names none
        except FileNotFoundError:
            raise FailedPrecondition(f"{path} is missing", reason="MODEL_MANIFEST_INVALID") from None
        except (ValueError, TypeError, KeyError, StopIteration) as error:
            raise FailedPrecondition(f"{path} is not a manifest: {error!r}", reason="MODEL_MANIFEST_INVALID") from None
        return manifest

    def golden_embeddings(self) -> npt.NDArray[np.float32]:
        """float32 [n, D]."""
        rows = [np.frombuffer(base64.b64decode(g.embedding), "<f4") for g in self.golden]
        return np.stack(rows) if rows else np.zeros((0, self.dimension), np.float32)


def _check_types(*parts: Manifest | Variant | Golden | Extra) -> None:
    """Raises TypeError when what was read is of another type than the class says."""
    kinds: dict[str, type] = {"int": int, "str": str, "dict[str, float]": dict}
    for part in parts:
        for each in fields(part):
            if not isinstance(getattr(part, each.name), kinds.get(str(each.type), object)):
                raise TypeError(f"{each.name} is not {each.type}")


def golden_pixels(seed: int, side: int) -> npt.NDArray[np.uint8]:
    """A made picture, uint8 [side, side, 3], the same on every machine: integer arithmetic alone.

    Crossing triangle waves of several periods, so that every channel has edges, gradients and areas.
    """
    y, x = np.mgrid[0:side, 0:side].astype(np.int64)
    channels = []
    for channel in range(3):
        a, b, c = ((seed * 7919 + channel * 104729) >> shift & 15 for shift in (0, 4, 8))
        wave = ((a + 3) * x + (b + 2) * y) * 512 // side + (x * y * (c + 1)) // side
        channels.append(np.abs(wave % 511 - 255))
    return np.stack(channels, axis=-1).astype(np.uint8)


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
