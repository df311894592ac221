"""What stages make of each other, what is published when, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from services.common.errors import InvalidArgument
from services.common.manifest import MANIFEST_FILE, MODEL_NAME, Manifest
from services.export.publish import verify, versions_in
from services.trainer import worker
from services.trainer.learning.backbones import make_backbone
from services.trainer.learning.pipeline import WEIGHTS_FILE
from services.trainer.recipe import Recipe
from services.trainer.runs import Run
from tests.trainer import tiny
from tests.trainer.trained import Trained


@pytest.fixture
def models(trained: Trained, tmp_path: Path) -> Path:
    """A model repository with version 1 in it."""
    folder = tmp_path / "models" / MODEL_NAME
    folder.mkdir(parents=True)
    (folder / "1").symlink_to(trained.version)
    return tmp_path / "models"


def quick(trained: Trained, **tables: Any) -> Recipe:
    return tiny.recipe(trained.recipe.data.path, trained.recipe.model.backbone, **tables)


def named(models: Path, version: int) -> Manifest:
    return verify(models / MODEL_NAME / str(version))


def test_the_newest_version_is_measured_before(trained: Trained, models: Path, tmp_path: Path) -> None:
    run, log = tiny.pipeline(tmp_path / "runs", models, quick(trained, seed=5, optimiser={"epochs": 2}))
    (finished,) = log.of("finished")
    assert finished["version"] == 2
    before = named(models, 1).metrics
    # the same photographs, so the same figures that its manifest has
    assert finished["before"] == {name: pytest.approx(before[name]) for name in finished["before"]}
    assert set(finished["before"]) == set(finished["after"])
    assert named(models, 2).parent == 1
    assert "version 1" in run.report.read_text()


def test_a_version_is_published_once_and_not_compared_with_itself(
    trained: Trained, models: Path, tmp_path: Path
) -> None:
    """Killed after it was published, before that was noted."""
    what = quick(trained, seed=6, optimiser={"epochs": 1})
    run, first = tiny.pipeline(tmp_path / "runs", models, what)
    manifest = (models / MODEL_NAME / "2" / MANIFEST_FILE).read_text()
    run.report.unlink()
    _, again = tiny.pipeline(tmp_path / "runs", models, what)
    assert versions_in(models / MODEL_NAME) == [1, 2]
    assert (models / MODEL_NAME / "2" / MANIFEST_FILE).read_text() == manifest
    assert again.of("epoch") == []
    (one,), (other,) = first.of("finished"), again.of("finished")
    assert (other["version"], other["before"], other["after"]) == (2, one["before"], one["after"])
    assert run.report.exists()


def test_trained_once_more_it_is_a_version_of_its_own(trained: Trained, models: Path, tmp_path: Path) -> None:
    what = quick(trained, seed=7, optimiser={"epochs": 1})
    run, _ = tiny.pipeline(tmp_path / "runs", models, what)
    # what --again does, a while later
    old = models / MODEL_NAME / "2" / MANIFEST_FILE
    old.write_text(old.read_text().replace(named(models, 2).created, "2020-01-01T00:00:00+00:00"))
    run.folder.rename(tmp_path / "aside")
    _, log = tiny.pipeline(tmp_path / "runs", models, what)
    assert versions_in(models / MODEL_NAME) == [1, 2, 3]
    assert log.of("finished")[0]["version"] == 3
    assert named(models, 3).parent == 2


def test_folders_that_are_no_versions_do_not_keep_one_from_being_published(
    trained: Trained, models: Path, tmp_path: Path
) -> None:
    (models / MODEL_NAME / "0").mkdir()
    run, _ = tiny.pipeline(tmp_path / "runs", models, quick(trained, seed=8, optimiser={"epochs": 1}))
    assert named(models, 2).training_run == run.id


def test_by_products_each_photograph_is_looked_for_among_the_others(backbone: Path, tmp_path: Path) -> None:
    """Adapters, then half of what they learnt, then fewer channels: each stage takes what the one before made."""
    folder = tiny.write_folder(tmp_path / "shop", range(12), range(10))
    broken = folder / "product-3" / "3.jpg"
    broken.write_bytes(b"junk")
    what = tiny.recipe(
        folder,
        backbone,
        data={"split": "products", "validation_share": 0.34},
        model={"pooling": "gem"},
        optimiser={"regime": "adapters", "interpolation": 0.5, "epochs": 3},
        prune={"share": 0.5, "epochs": 2},
        export={"calibration": 8, "served": "fp32"},
        report={"robustness_queries": 2},
    )
    run, log = tiny.pipeline(tmp_path / "runs", tmp_path / "models", what)
    assert [event["stage"] for event in log.of("epoch")] == ["train"] * 3 + ["prune"] * 2
    (warning,) = log.of("warning")
    assert str(broken) in warning["message"]
    manifest = named(tmp_path / "models", 1)
    assert manifest.served == "fp32"
    assert manifest.evaluated_on == "40 photographs in 40, folder"
    assert log.of("finished")[0]["before"] == {}
    # no adapter is left in the weights, and there are fewer
    weights = load_file(tmp_path / "models" / MODEL_NAME / "1" / WEIGHTS_FILE)
    assert not any("parametrizations" in name for name in weights)
    assert weights["backbone.conv2.weight"].shape[0] < tiny.CHANNELS[-1]
    page = run.report.read_text()
    assert str(broken) in page
    assert "gaussian noise" in page.lower()


@pytest.mark.parametrize("regime", ["full", "adapters"])
def test_interpolation_lies_between_before_and_after(trained: Trained, tmp_path: Path, regime: str) -> None:
    def made(share: float) -> dict[str, torch.Tensor]:
        folder = tmp_path / str(share)
        told = {"regime": regime, "interpolation": share, "epochs": 2}
        tiny.pipeline(folder / "runs", folder / "models", quick(trained, optimiser=told))
        return load_file(folder / "models" / MODEL_NAME / "1" / WEIGHTS_FILE)

    whole, part = made(1.0), made(0.25)
    start = make_backbone(trained.recipe.model.backbone).network.state_dict()
    assert set(whole) == set(part)
    for name, before in start.items():
        after = whole[f"backbone.{name}"]
        if before.is_floating_point():
            torch.testing.assert_close(part[f"backbone.{name}"], before + 0.25 * (after - before))
    assert not torch.equal(whole["backbone.conv1.weight"], start["conv1.weight"])


def test_pictures_without_labels_come_first_and_then_help(trained: Trained, tmp_path: Path) -> None:
    """Killed between pre-training and training, it ends as if it had not been."""
    unlabelled = tiny.write_folder(tmp_path / "unlabelled", range(12), range(40, 44))
    tables: dict[str, Any] = {
        "data": {"unlabelled": str(unlabelled)},
        "optimiser": {"epochs": 3, "regime": "adapters"},
        "pretrain": {"epochs": 1},
        "pseudo_labels": {"every": 1, "similarity": 0.5, "agreement": 0.6},
    }
    what = quick(trained, **tables)
    run, log = tiny.pipeline(tmp_path / "runs", tmp_path / "models", what)
    assert [event["stage"] for event in log.of("epoch")] == ["pretrain", "train", "train", "train"]
    assert [event["pseudo_labelled"] > 0 for event in log.of("epoch")[1:]] == [False, True, True]
    other = Run.of(tmp_path / "other", what)
    checkpoints = run.checkpoint / "pretrain", other.checkpoint / "pretrain"
    checkpoints[1].parent.mkdir()
    checkpoints[0].rename(checkpoints[1])
    _, resumed = tiny.pipeline(tmp_path / "other", tmp_path / "others", what)
    assert [event["stage"] for event in resumed.of("epoch")] == ["train"] * 3
    whole, gone_on = (load_file(tmp_path / name / MODEL_NAME / "1" / WEIGHTS_FILE) for name in ("models", "others"))
    assert all(torch.equal(tensor, gone_on[name]) for name, tensor in whole.items())


def test_killed_after_training_the_pruned_one_is_the_same(trained: Trained, tmp_path: Path) -> None:
    what = quick(trained, optimiser={"epochs": 2}, prune={"share": 0.4, "epochs": 2})
    run, _ = tiny.pipeline(tmp_path / "runs", tmp_path / "models", what)
    other = Run.of(tmp_path / "other", what)
    other.checkpoint.mkdir()
    (run.checkpoint / "train").rename(other.checkpoint / "train")
    _, resumed = tiny.pipeline(tmp_path / "other", tmp_path / "others", what)
    assert [event["stage"] for event in resumed.of("epoch")] == ["prune"] * 2
    whole, gone_on = (load_file(tmp_path / name / MODEL_NAME / "1" / WEIGHTS_FILE) for name in ("models", "others"))
    assert all(torch.equal(tensor, gone_on[name]) for name, tensor in whole.items())


# --- what is refused --------------------------------------------------------------------------------------------------


def failed(monkeypatch: pytest.MonkeyPatch, run: Run, models: Path) -> Sequence[dict[str, Any]]:
    """The events of a training process that fails."""
    monkeypatch.setattr(sys, "argv", ["worker", str(run.folder), "--models", str(models)])
    assert worker.main() == 1
    return [json.loads(line) for line in run.events.read_text().splitlines()]


def test_more_than_one_percent_broken_is_refused_with_its_reason(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.write_shop(tmp_path / "shop", products=4)
    for number in range(2):
        (folder / "train" / "kind-0" / "product-1" / f"{number}.jpg").write_bytes(b"junk")
    events = failed(monkeypatch, Run.of(tmp_path / "runs", tiny.recipe(folder, backbone)), tmp_path / "models")
    last = events[-1]
    assert (last["event"], last["reason"]) == ("failed", "DATA_BROKEN")
    assert "product-1/0.jpg" in last["message"]
    assert not (tmp_path / "models").exists()


def test_the_same_picture_in_two_splits_is_refused(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.write_shop(tmp_path / "shop", products=4)
    learnt = folder / "train" / "kind-0" / "product-1" / "0.jpg"
    (folder / "validation" / "kind-0" / "product-1" / "0.jpg").write_bytes(learnt.read_bytes())
    events = failed(monkeypatch, Run.of(tmp_path / "runs", tiny.recipe(folder, backbone)), tmp_path / "models")
    assert (events[-1]["event"], events[-1]["reason"]) == ("failed", "SPLITS_OVERLAP")


def test_what_nobody_has_thought_of_is_told_too(
    shop: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr("services.trainer.learning.pipeline.Pipeline._train", fail)
    events = failed(monkeypatch, Run.of(tmp_path / "runs", tiny.recipe(shop, backbone)), tmp_path / "models")
    assert events[-1]["reason"] == "TRAINING_FAILED"
    assert events[-1]["message"] == "ZeroDivisionError: by chance"
    assert "Traceback" in capsys.readouterr().err


def test_a_head_that_prune_needs_is_asked_for(trained: Trained, tmp_path: Path) -> None:
    what = quick(trained, model={"head": "none"}, optimiser={"epochs": 1}, prune={"share": 0.5})
    with pytest.raises(InvalidArgument) as caught:
        tiny.pipeline(tmp_path / "runs", tmp_path / "models", what)
    assert caught.value.reason == "PRUNE_UNSUITABLE"
