"""Whether a new encoder's queries find in an old one's gallery, and what is refused before training for it begins."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import InvalidArgument
from services.common.images import PREPROCESSING
from services.common.manifest import MODEL_NAME, Manifest
from services.evaluation.compatibility import compatibility
from services.export.publish import Candidate, Origin, publish
from services.trainer.launcher import Launcher
from services.trainer.recipe import Recipe, parse_recipe
from tests.unit.test_evaluation import at
from tests.unit.test_export import tiny
from tests.unit.training import STAND_IN, recipe_text

QUERY_IDS, GALLERY_IDS = ["apple", "pear", "fig", "fig"], ["apple", "pear", "fig"]


class TestCompatibility:
    def test_by_hand(self) -> None:
        gallery = at(0, 40, 80)
        # the old one takes the pear and a fig for an apple; the new one is right, in a space turned by 40 degrees
        old, new = (at(5, 10, 75, 15), gallery), (at(45, 80, 120, 118), at(40, 80, 120))
        found = compatibility(old, new, QUERY_IDS, GALLERY_IDS)
        assert (found.old_old[1], found.new_new[1]) == (0.5, 1.0)
        # apple and pear are one place too far, the figs are at the end
        assert found.new_old[1] == 0.5
        assert found.gain == 0
        assert found.metrics == {"old/old recall@1": 0.5, "new/old recall@1": 0.5, "new/new recall@1": 1.0}

    def test_a_compatible_one_gains(self) -> None:
        old, new = (at(5, 10, 75, 15), at(0, 40, 80)), (at(2, 42, 78, 82), at(-9, 33, 90))
        assert compatibility(old, new, QUERY_IDS, GALLERY_IDS).gain == 0.5

    def test_a_photograph_is_not_found_as_itself(self) -> None:
        ids = ["apple", "apple", "pear", "pear", "fig", "fig"]
        vectors = at(0, 50, 51, 100, 101, 150)
        own = np.arange(6)
        found = compatibility((vectors, vectors), (at(0, 1, 99, 100, 149, 150), vectors), ids, ids, own)
        assert found.old_old == {1: pytest.approx(2 / 6), 5: 1.0}
        # the fourth would be right if it found what the old one made of the same photograph
        assert found.new_old[1] == pytest.approx(5 / 6)

    def test_other_dimensions_are_refused(self) -> None:
        old, new = np.eye(3, 4, dtype=np.float32), np.eye(3, 5, dtype=np.float32)
        with pytest.raises(InvalidArgument, match=r"queries of 5 dimensions.* have 4") as caught:
            compatibility((old, old), (new, new), GALLERY_IDS, GALLERY_IDS)
        assert caught.value.reason == "DIMENSION_MISMATCH"


class TestRecipe:
    """Before a process is started, and before a picture is read."""

    @pytest.fixture
    def launcher(self, tmp_path: Path) -> Launcher:
        """Version 1 has D = 8."""
        origin = Origin(PREPROCESSING, "tiny", training_run="", evaluated_on="")
        publish(tmp_path / "models" / MODEL_NAME, 1, (Candidate("fp32", tiny()),), "fp32", origin)
        return Launcher(tmp_path / "runs", tmp_path / "models", Path(sys.executable), worker=(str(STAND_IN),))

    @staticmethod
    def recipe(dimension: int, version: int = 1, head: str = "linear") -> Recipe:
        more = f"[compatible]\nversion = {version}\n[model]\ndimension = {dimension}\nhead = '{head}'\n"
        return parse_recipe(recipe_text("good") + more, Path("/data"))

    async def refused(self, launcher: Launcher, recipe: Recipe) -> InvalidArgument:
        with pytest.raises(InvalidArgument) as caught:
            await launcher.start(recipe, lambda event: None)
        with pytest.raises(InvalidArgument) as checked:
            launcher.check(recipe)
        assert str(checked.value) == str(caught.value)
        assert not launcher.run_of(recipe).exists
        return caught.value

    async def test_one_that_fits_is_started(self, launcher: Launcher) -> None:
        launcher.check(self.recipe(8))
        training = await launcher.start(self.recipe(8), lambda event: None)
        assert training is not None
        async with training:
            await training.outcome()

    async def test_another_dimension(self, launcher: Launcher) -> None:
        error = await self.refused(launcher, self.recipe(512))
        assert error.reason == "DIMENSION_MISMATCH"
        assert "512 dimensions can't be looked for among vectors of version 1, which have 8" in error.message

    def test_without_a_head_it_is_known_later(self, launcher: Launcher) -> None:
        launcher.check(self.recipe(512, head="none"))

    async def test_a_version_that_is_not_there(self, launcher: Launcher) -> None:
        error = await self.refused(launcher, self.recipe(512, version=7))
        assert error.reason == "COMPATIBLE_VERSION_MISSING"
        assert "has no version 7; there are: 1" in error.message

    async def test_another_preprocessing(self, launcher: Launcher) -> None:
        folder = launcher.repository / MODEL_NAME / "1"
        dataclasses.replace(Manifest.read(folder), preprocessing="crop-9").write(folder)
        error = await self.refused(launcher, self.recipe(8))
        assert (error.reason, "crop-9" in error.message) == ("PREPROCESSING_MISMATCH", True)
