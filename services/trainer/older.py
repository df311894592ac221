"""The older version that a recipe's queries are to work with: what can be said of it before anything is trained."""

from __future__ import annotations

from pathlib import Path

from services.common.errors import InvalidArgument
from services.common.images import PREPROCESSING
from services.common.manifest import Manifest
from services.evaluation.compatibility import check_dimensions
from services.trainer.recipe import Recipe


def check_older(models: Path, recipe: Recipe) -> None:
    """Does nothing when the recipe names no older version.

    Args:
        models: the model's folder, where the versions are.

    Raises:
        InvalidArgument: COMPATIBLE_VERSION_MISSING, DIMENSION_MISMATCH, PREPROCESSING_MISMATCH.
        FailedPrecondition: MODEL_MANIFEST_INVALID.
    """
    version = recipe.compatible.version
    if not version:
        return
    folder = models / str(version)
    if not folder.is_dir():
        there = sorted(int(path.name) for path in models.glob("[0-9]*") if path.name.isdigit())
        raise InvalidArgument(
            f"compatible.version: {models} has no version {version}; there are: {', '.join(map(str, there)) or 'none'}",
            reason="COMPATIBLE_VERSION_MISSING",
        )
    manifest = Manifest.read(folder)
    if manifest.preprocessing != PREPROCESSING:
        raise InvalidArgument(
            f"compatible.version: version {version} was made for preprocessing {manifest.preprocessing!r}; this system "
            f"does {PREPROCESSING!r}",
            reason="PREPROCESSING_MISMATCH",
        )
    # without a head it is the backbone's, which is known when that is loaded
    if recipe.model.head != "none":
        check_dimensions(manifest.dimension, recipe.model.dimension, f"version {version}")
