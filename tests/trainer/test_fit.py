"""The training loop: what is averaged, cut together, clipped, stopped early, and gone on from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from services.trainer.learning import checkpoint
from services.trainer.learning.encoder import Encoder
from services.trainer.learning.fit import TrainingSet
from services.trainer.learning.validation import Validation
from tests.trainer import tiny

# rates with which nothing changes that could be measured
STILL = {"backbone_rate": 1e-12, "head_rate": 1e-12, "loss_rate": 1e-12}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def figures(learnt: tiny.Learnt) -> list[dict[str, float]]:
    """But for those of the clock."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in learnt.progress.history]


# --- going on ---------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize(
    "tables",
    [
        {"optimiser": {"epochs": 4, "ema": 0.9}},
        {"optimiser": {"epochs": 4, "pretrained_pull": 0.1}, "augment": {"mixup": 0.5, "policy": "trivial"}},
        {"optimiser": {"epochs": 4, "regime": "adapters", "batch_norm": "train"}, "sampler": {"images_per_product": 4}},
        {"optimiser": {"epochs": 4, "sides": (24, 32)}, "loss": {"name": "arcface", "centres": 2}},
    ],
    ids=str,
)
def test_a_run_that_was_killed_in_an_epoch_ends_as_one_that_was_not(
    tmp_path: Path, tables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = tiny.learn(tmp_path / "whole", **tables)
    steps: list[int] = []

    def die_in_the_third_epoch(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        steps.append(1)
        if len(steps) == 2 * 8 + 3:
            raise Killed

    hook = register_optimizer_step_pre_hook(die_in_the_third_epoch)
    with pytest.raises(Killed):
        tiny.learn(tmp_path / "killed", **tables)
    hook.remove()
    saved = checkpoint.load(tmp_path / "killed" / "checkpoint")
    assert saved is not None
    assert saved[0].epoch == 2
    resumed = tiny.learn(tmp_path / "killed", **tables)
    assert [event["epoch"] for event in resumed.log.of("epoch")] == [3, 4]
    assert figures(resumed) == figures(whole)
    assert same(resumed.encoder.state_dict(), whole.encoder.state_dict())


def test_a_run_that_is_finished_trains_no_more(tmp_path: Path) -> None:
    first = tiny.learn(tmp_path, optimiser={"epochs": 2})
    again = tiny.learn(tmp_path, optimiser={"epochs": 2})
    assert again.log.events == []
    assert again.progress.history == list(first.progress.history)
    assert same(first.encoder.state_dict(), again.encoder.state_dict())


# --- which weights are kept -------------------------------------------------------------------------------------------


class Scripted(Validation):
    """Says that it has measured this, to make a best epoch that is not the last."""

    said: Iterator[float]

    def recall(self, encoder: nn.Module) -> float:
        super().recall(encoder)
        return next(self.said)


def scripted(*values: float) -> Scripted:
    real = tiny.validation()
    made = Scripted(real.queries, real.query_ids, real.gallery, real.gallery_ids)
    # frozen, as what it derives from
    object.__setattr__(made, "said", iter([0.0, *values]))
    return made


def test_the_best_weights_are_left_not_the_last(tmp_path: Path) -> None:
    learnt = tiny.learn(tmp_path, watch=scripted(0.3, 0.5, 0.4), optimiser={"epochs": 3})
    assert (learnt.progress.best, learnt.progress.best_epoch) == (0.5, 1)
    assert [event["best"] for event in learnt.log.of("epoch")] == [True, True, False]
    saved = checkpoint.load(tmp_path / "checkpoint")
    assert saved is not None
    last = {k.removeprefix("encoder."): v for k, v in saved[1]["objective"].items() if k.startswith("encoder.")}
    left = learnt.encoder.state_dict()
    assert same(left, saved[1]["best"])
    assert not same(left, last)


def test_it_stops_when_patience_is_over(tmp_path: Path) -> None:
    learnt = tiny.learn(tmp_path, watch=scripted(0.3, 0.5, 0.4, 0.5, 0.9), optimiser={"epochs": 5, "patience": 2})
    assert [event["epoch"] for event in learnt.log.of("epoch")] == [1, 2, 3, 4]
    assert learnt.progress.best == 0.5


def test_without_progress_patience_is_over_at_once(tmp_path: Path) -> None:
    bare = {"head": "none", "batch_norm": False}
    still = tiny.learn(tmp_path, model=bare, optimiser={"epochs": 6, "patience": 1} | STILL)
    assert len(still.log.of("epoch")) == 2


def test_patience_is_kept_when_a_run_goes_on(tmp_path: Path) -> None:
    told = {"epochs": 6, "patience": 2} | STILL
    tiny.learn(tmp_path, optimiser=told)
    assert tiny.learn(tmp_path, optimiser=told).log.events == []


def test_the_average_follows_the_weights_and_is_what_is_kept(tmp_path: Path) -> None:
    steps: list[torch.Tensor] = []
    averages: list[torch.Tensor] = []
    name = "conv1.weight"

    class Watching(Validation):
        def recall(self, encoder: nn.Module) -> float:
            averages.append(encoder.backbone.state_dict()[name].clone())
            return float(len(averages))

    real = tiny.validation()

    def remember(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        kernel = next(p for group in optimiser.param_groups for p in group["params"] if p.shape == (24, 16, 3, 3))
        steps.append(kernel.detach().clone())

    hook = register_optimizer_step_pre_hook(remember)
    learnt = tiny.learn(
        tmp_path,
        watch=Watching(real.queries, real.query_ids, None, ()),
        optimiser={"epochs": 1, "ema": 0.75},
    )
    hook.remove()
    saved = checkpoint.load(tmp_path / "checkpoint")
    assert saved is not None
    # after each step; before the first one there was nothing to average with
    after = [*steps[1:], saved[1]["objective"][f"encoder.backbone.{name}"]]
    wanted = after[0]
    for kernel in after[1:]:
        wanted = 0.75 * wanted + 0.25 * kernel
    torch.testing.assert_close(averages[-1], wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(learnt.encoder.backbone.state_dict()[name], averages[-1])
    assert not torch.equal(averages[-1], after[-1])


# --- an epoch ---------------------------------------------------------------------------------------------------------


def test_pictures_grow_as_the_recipe_says(tmp_path: Path) -> None:
    seen: list[int] = []

    def look(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, Encoder) and torch.is_grad_enabled() and module.training:
            seen.append(arguments[0].shape[-1])

    handle = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        learnt = tiny.learn(tmp_path, optimiser={"epochs": 3, "sides": (16, 24, 32)})
    finally:
        handle.remove()
    assert seen == [16] * 8 + [24] * 8 + [32] * 8
    assert [row["side"] for row in learnt.progress.history] == [16, 24, 32]


@pytest.mark.parametrize("clip", [0.5, 0.0])
def test_gradients_are_clipped(tmp_path: Path, clip: float) -> None:
    norms: list[float] = []

    def measure(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        parts = [p.grad.norm() for g in optimiser.param_groups for p in g["params"] if p.grad is not None]
        norms.append(float(torch.stack(parts).norm()))

    hook = register_optimizer_step_pre_hook(measure)
    tiny.learn(tmp_path, optimiser={"epochs": 1, "clip_norm": clip})
    hook.remove()
    assert len(norms) == 8
    # the loss of softmax at a temperature of 0.07 is steep
    assert (max(norms) <= 0.5001) if clip else (min(norms) > 0.5)


def test_rates_warm_up_and_fall_for_every_group(tmp_path: Path) -> None:
    rates: list[list[float]] = []

    def look(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        rates.append([group["lr"] / group["full_rate"] for group in optimiser.param_groups])

    hook = register_optimizer_step_pre_hook(look)
    tiny.learn(tmp_path, optimiser={"epochs": 2, "warmup_share": 0.25})
    hook.remove()
    assert all(len({round(rate, 9) for rate in step}) == 1 for step in rates)
    shares = [step[0] for step in rates]
    assert shares.index(max(shares)) == 4
    assert shares[:5] == sorted(shares[:5])
    assert shares[4:] == sorted(shares[4:], reverse=True)


@pytest.mark.parametrize("mode", ["frozen", "train"])
def test_statistics_of_the_backbone_move_only_when_asked(tmp_path: Path, mode: str) -> None:
    learnt = tiny.learn(tmp_path, optimiser={"epochs": 1, "batch_norm": mode})
    name = "normal.running_mean"
    assert torch.equal(learnt.encoder.backbone.state_dict()[name], learnt.start[name]) is (mode == "frozen")


def test_the_pull_keeps_the_backbone_near_where_it_was(tmp_path: Path) -> None:
    def moved(pull: float) -> float:
        folder = tmp_path / str(pull)
        folder.mkdir()
        learnt = tiny.learn(folder, optimiser={"epochs": 2, "pretrained_pull": pull})
        after = learnt.encoder.backbone.state_dict()
        return sum(float((after[name] - tensor).float().norm()) for name, tensor in learnt.start.items())

    assert moved(50.0) < 0.5 * moved(0.0)


def test_more_pictures_are_trained_on(tmp_path: Path) -> None:
    """The twelfth product comes only with what is added before the second epoch."""
    everything = tiny.training_set()
    eleven = 11 * 16
    data = TrainingSet(everything.pixels[:eleven], everything.labels[:eleven])
    extra = TrainingSet(everything.pixels[eleven:], everything.labels[eleven:])
    calls: list[int] = []

    def more(epoch: int, encoder: nn.Module, notes: dict[str, Any]) -> TrainingSet | None:
        calls.append(epoch)
        notes["calls"] = len(calls)
        return extra if epoch else None

    learnt = tiny.learn(tmp_path, data=data, more=more, optimiser={"epochs": 6})
    assert calls == list(range(6))
    assert [row["pseudo_labelled"] for row in learnt.progress.history] == [0] + [16] * 5
    (weights,) = learnt.objective.loss.parameters()
    with torch.no_grad():
        pixels = torch.tensor(extra.pixels).permute(0, 3, 1, 2)
        logits = learnt.encoder.eval()(pixels) @ nn.functional.normalize(weights, dim=0)
    assert (logits.argmax(dim=1) == 11).float().mean() > 0.8
    saved = checkpoint.load(tmp_path / "checkpoint")
    assert saved is not None
    assert saved[0].notes["calls"] == 6
