"""What a run goes on from, also after it was killed in the middle of writing it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from services.trainer.learning import checkpoint
from services.trainer.learning.checkpoint import Progress, load, save

PROGRESS = Progress("train", 3, 0.5, 1, ({"epoch": 1, "loss": 0.1 + 0.2},), {"pseudo_labels": [[0, 4], [2, 1]]})


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and nothing is tidied up."""


def states(value: float) -> dict[str, dict[str, Any]]:
    return {"objective": {"weight": torch.full((2, 3), value), "count": torch.tensor(7)}, "best": {}}


def test_nested_states_come_back_as_they_were(tmp_path: Path) -> None:
    odd: dict[str, Any] = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 2)}, 1: {}},
        "param_groups": [{"lr": 1e-3 / 3, "betas": (0.9, 0.999), "params": [0, 1], "foreach": None, "amsgrad": False}],
        "name/with": {"a/slash": torch.arange(4, dtype=torch.int64)},
        "empty": torch.zeros(0, 5),
        "half": torch.randn(3).to(torch.bfloat16),
    }
    save(tmp_path / "train", PROGRESS, {"optimiser": odd})
    found = load(tmp_path / "train")
    assert found is not None
    progress, read = found
    # JSON has no tuples
    assert Progress(**(vars_of(progress) | {"history": tuple(progress.history)})) == PROGRESS
    again = read["optimiser"]
    assert list(again["state"]) == [0, 1]
    for one, other in ((odd["state"][0]["exp_avg"], again["state"][0]["exp_avg"]), (odd["half"], again["half"])):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert torch.equal(again["name/with"]["a/slash"], torch.arange(4))
    assert again["empty"].shape == (0, 5)
    assert again["state"][1] == {}
    assert again["param_groups"] == [odd["param_groups"][0] | {"betas": [0.9, 0.999]}]


def vars_of(progress: Progress) -> dict[str, Any]:
    return {name: getattr(progress, name) for name in Progress.__slots__}


def test_an_optimiser_goes_on_exactly_where_it_was(tmp_path: Path) -> None:
    def steps(model: nn.Module, optimiser: torch.optim.Optimizer, count: int) -> None:
        for number in range(count):
            model(torch.full((2, 4), 0.1 * number + 0.3)).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        return model, torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)

    whole, optimiser = made()
    steps(whole, optimiser, 2)
    save(tmp_path / "train", PROGRESS, {"model": whole.state_dict(), "optimiser": optimiser.state_dict()})
    steps(whole, optimiser, 3)
    resumed, optimiser = made()
    found = load(tmp_path / "train")
    assert found is not None
    resumed.load_state_dict(found[1]["model"])
    optimiser.load_state_dict(found[1]["optimiser"])
    steps(resumed, optimiser, 3)
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    weight = torch.randn(3, 3)
    save(tmp_path / "train", PROGRESS, {"one": {"weight": weight, "view": weight[:2]}, "best": {"weight": weight.T}})
    found = load(tmp_path / "train")
    assert found is not None
    assert torch.equal(found[1]["one"]["view"], weight[:2])
    assert torch.equal(found[1]["best"]["weight"], weight.T)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    save(tmp_path / "train", PROGRESS, states(1.0))
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == [checkpoint.PROGRESS, checkpoint.TENSORS]
    assert json.loads((tmp_path / "train" / checkpoint.PROGRESS).read_text())["progress"]["epoch"] == 3


def test_without_a_checkpoint_there_is_nothing(tmp_path: Path) -> None:
    assert load(tmp_path / "train") is None


@pytest.mark.parametrize("at", ["tensors", "progress", "first rename", "second rename", "removal"])
def test_killed_at_any_moment_of_saving_there_is_a_whole_one(
    tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "train"
    save(folder, Progress("train", 1), states(1.0))

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    renames = []

    def rename(self: Path, target: Path) -> Path:
        renames.append(target)
        if len(renames) == (1 if at == "first rename" else 2):
            raise Killed
        self.replace(target)
        return target

    with monkeypatch.context() as patch:
        if at == "tensors":
            patch.setattr(checkpoint, "save_file", die)
        elif at == "progress":
            patch.setattr(checkpoint.json, "dumps", die)
        elif at == "removal":
            real = checkpoint.shutil.rmtree
            # what is left of an earlier one is removed first
            patch.setattr(
                checkpoint.shutil, "rmtree", lambda path, **k: die() if folder_has_new(folder) else real(path, **k)
            )
        else:
            patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            save(folder, Progress("train", 2), states(2.0))
    found = load(folder)
    assert found is not None
    progress, read = found
    assert progress.epoch == (2 if at == "removal" else 1)
    assert torch.equal(read["objective"]["weight"], torch.full((2, 3), float(progress.epoch)))
    # and it can be saved over
    save(folder, Progress("train", 3), states(3.0))
    found = load(folder)
    assert found is not None
    assert found[0].epoch == 3
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def folder_has_new(folder: Path) -> bool:
    """Whether both renames have happened."""
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    return old.exists() and not new.exists()
