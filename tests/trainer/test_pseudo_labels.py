"""Neighbours name what pictures without labels show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.trainer.learning.fit import TrainingSet
from services.trainer.learning.pseudo_labels import NONE, PseudoLabels, vote
from services.trainer.recipe import PseudoLabelRecipe
from tests.trainer import tiny


def at(*degrees: float) -> np.ndarray:
    """float32 [n, 2]: unit vectors in these directions."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


# three of product 0 around 0 degrees, three of product 1 around 90
LABELLED, LABELS = at(-4, 0, 4, 86, 90, 94), [0, 0, 0, 1, 1, 1]


def named(*degrees: float, **options: Any) -> list[int]:
    recipe = PseudoLabelRecipe(**({"every": 1, "neighbours": 3, "agreement": 1.0, "similarity": 0.9} | options))
    return vote(at(*degrees), LABELLED, LABELS, recipe).tolist()


def test_near_neighbours_that_agree_name_the_product() -> None:
    assert named(1, 89, -10, 100) == [0, 1, 0, 1]


def test_who_is_not_near_stays_without_a_label() -> None:
    # 30 degrees from the nearest: cosine 0.87
    assert named(34, 120.5, 200) == [NONE, NONE, NONE]
    assert named(34, 120.5, similarity=0.8) == [0, 1]


@pytest.mark.parametrize(("agreement", "found"), [(1.0, NONE), (0.75, 0), (0.6, 0)])
def test_neighbours_must_agree(agreement: float, found: int) -> None:
    # of the four nearest to 40 degrees, three are of product 0
    assert named(40, neighbours=4, agreement=agreement, similarity=0.5) == [found]
    assert named(40, neighbours=6, agreement=0.6, similarity=0.5) == [NONE]


def test_more_neighbours_than_there_are_labels() -> None:
    assert named(0, neighbours=50, agreement=0.5, similarity=0.5) == [0]
    assert named(0, neighbours=50, agreement=0.6, similarity=0.5) == [NONE]


def test_pictures_without_labels_get_mostly_right_ones_and_are_used(tmp_path: Path) -> None:
    labelled, numbers = tiny.training_set(), range(40, 56)
    truth = [product for product in range(12) for _ in numbers]
    recipe = PseudoLabelRecipe(every=3, neighbours=5, agreement=0.8, similarity=0.6)
    at_side = TrainingSet(tiny.pixels_of(range(12), range(16)), labelled.labels)
    more = PseudoLabels(
        recipe, at_side, tiny.pixels_of(range(12), numbers, side=36), tiny.pixels_of(range(12), numbers)
    )
    learnt = tiny.learn(tmp_path, more=more, data=labelled)
    used = [int(row["pseudo_labelled"]) for row in learnt.progress.history]
    assert used[:3] == [0, 0, 0]
    # named anew each third epoch, and kept in between
    assert used[3] == used[4] == used[5] > 30
    assert used[6] == used[7] > used[3]
    pairs = learnt.progress.notes["pseudo_labels"]
    assert len(pairs) == used[-1]
    right = np.mean([truth[place] == label for place, label in pairs])
    assert right > 0.8
    assert learnt.gain > 0.2


def test_what_was_named_is_handed_out_with_its_pixels(tmp_path: Path) -> None:
    encoder = tiny.encoder(tmp_path / "tiny.onnx")
    pixels = tiny.pixels_of(range(3), range(4))
    same = TrainingSet(pixels, [0] * 4 + [1] * 4 + [2] * 4)
    more = PseudoLabels(PseudoLabelRecipe(every=2, neighbours=1, similarity=0.99), same, pixels, pixels)
    notes: dict[str, Any] = {}
    assert more(0, encoder, notes) is None
    assert more(1, encoder, notes) is None
    found = more(2, encoder, notes)
    assert found is not None
    assert list(found.labels) == same.labels
    np.testing.assert_array_equal(found.pixels, pixels)
    # a run that goes on has the notes alone
    again = more(3, encoder, {"pseudo_labels": [[5, 1], [9, 2]]})
    assert again is not None
    assert list(again.labels) == [1, 2]
    np.testing.assert_array_equal(again.pixels, pixels[[5, 9]])
