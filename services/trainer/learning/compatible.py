"""Backward-compatible training: the new encoder's vectors are also classified by what the old one says of the products.

Shen, Xiong, Xia, Soatto, "Towards Backward-Compatible Representation Learning" (CVPR 2020). The old classifier is gone
with its training run, so its class weights are synthesised as there (section 3.4): the mean old vector of each
product's pictures. Pulling towards the old vector of each picture as well cost recall of the products that were
trained on, hardly helped the others, and is not done: docs/results.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from services.common.manifest import MODEL_FILE
from services.evaluation.inference import Encoder, open_encoder
from services.evaluation.metrics import Vectors
from services.export.publish import verify
from services.trainer.older import check_older
from services.trainer.recipe import CompatibleRecipe, Recipe


@dataclass(frozen=True, slots=True)
class Older:
    """The version whose collection new queries are to find in.

    Args:
        sha256: of the file that serves.
    """

    version: int
    sha256: str
    encoder: Encoder


def open_older(models: Path, recipe: Recipe) -> Older | None:
    """None when the recipe names none. Raises as `check_older`, and FailedPrecondition (MODEL_DAMAGED,
    MODEL_CONTRACT_BROKEN).

    Args:
        models: the model's folder, where the versions are.
    """
    check_older(models, recipe)
    if not recipe.compatible.version:
        return None
    folder = models / str(recipe.compatible.version)
    manifest = verify(folder)
    return Older(manifest.version, manifest.served_variant.sha256, open_encoder(folder / MODEL_FILE))


class Influence(nn.Module):
    """The influence loss: a normalised softmax over fixed prototypes.

    Embeddings float32 [n, D] of unit length and labels int64 [n] -> a scalar, the weighted mean cross-entropy.

    Args:
        prototypes: float32 [products, D], unit length, in the order of the labels.
        recipe: weight and temperature. Cosines are divided by the temperature, a lower one than that of the metric
            loss: vectors that nobody has trained apart lie within a narrow cone.
    """

    prototypes: torch.Tensor

    def __init__(self, prototypes: Vectors, recipe: CompatibleRecipe) -> None:
        super().__init__()
        # it is made again from the older version, so it is no part of a checkpoint
        self.register_buffer("prototypes", torch.tensor(prototypes), persistent=False)
        self._recipe = recipe

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = embeddings @ self.prototypes.T / self._recipe.temperature
        return self._recipe.weight * functional.cross_entropy(logits, labels)


def prototypes_of(vectors: Vectors, labels: Sequence[int]) -> Vectors:
    """The mean vector of each product, at unit length: float32 [products, D].

    Args:
        vectors: float32 [n, D], unit length. labels: n of them, 0..products-1, each at least once.
    """
    sums = np.zeros((max(labels) + 1, vectors.shape[1]), np.float32)
    np.add.at(sums, np.asarray(labels), vectors)
    made: Vectors = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return made
