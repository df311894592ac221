"""Semi-supervised learning: labelled neighbours name the product of a picture that has no label (Lee 2013)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from services.evaluation.metrics import Vectors, nearest
from services.trainer.learning.encoder import embed
from services.trainer.learning.fit import TrainingSet
from services.trainer.learning.pixels import Pixels
from services.trainer.recipe import PseudoLabelRecipe

NONE = -1


def vote(
    unlabelled: Vectors, labelled: Vectors, labels: Sequence[int], recipe: PseudoLabelRecipe
) -> npt.NDArray[np.int64]:
    """int64 [n]: a label for each unlabelled picture, NONE where its neighbours are not near or do not agree.

    Args:
        unlabelled: float32 [n, D]; labelled: float32 [m, D]; unit length.
        labels: m of them, not negative.
    """
    neighbours = min(recipe.neighbours, len(labels))
    places = nearest(unlabelled, labelled, neighbours)
    near = np.einsum("nd,nd->n", unlabelled, labelled[places[:, 0]]) >= recipe.similarity
    found = np.full(len(unlabelled), NONE, np.int64)
    known = np.asarray(labels)
    for row, around in enumerate(known[places]):
        values, counts = np.unique(around, return_counts=True)
        if near[row] and counts.max() >= recipe.agreement * neighbours:
            found[row] = values[counts.argmax()]
    return found


class PseudoLabels:
    """Gives `Fit` more photographs from the epoch `every` on, and names them anew each so many epochs.

    Args:
        data: the labelled photographs, at S. unlabelled: pixels to train on. seen: the same pictures at S.
    """

    def __init__(self, recipe: PseudoLabelRecipe, data: TrainingSet, unlabelled: Pixels, seen: Pixels) -> None:
        self._recipe, self._data, self._unlabelled, self._seen = recipe, data, unlabelled, seen

    def __call__(self, epoch: int, encoder: nn.Module, notes: dict[str, Any]) -> TrainingSet | None:
        if epoch and epoch % self._recipe.every == 0:
            labelled = embed(encoder, self._data.pixels).numpy()
            found = vote(embed(encoder, self._seen).numpy(), labelled, self._data.labels, self._recipe)
            # kept in the checkpoint: a run that goes on trains on the same ones
            notes["pseudo_labels"] = [[int(place), int(found[place])] for place in np.flatnonzero(found != NONE)]
        named = notes.get("pseudo_labels") or []
        if not named:
            return None
        places = [place for place, _ in named]
        return TrainingSet(self._unlabelled[places], [label for _, label in named])
