"""The training process is killed at random: it ends as if it had not been, and nobody ever sees half of a thing."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from services.common.errors import NotFound
from services.common.manifest import MODEL_NAME
from services.export.publish import verify, versions_in
from services.trainer.launcher import Launcher
from services.trainer.learning import checkpoint
from services.trainer.learning.pipeline import WEIGHTS_FILE
from services.trainer.recipe import Recipe
from services.trainer.runs import Run, RunState, State, standing
from tests.trainer import tiny

EPOCHS = 6
KILLS = 3
# in the order in which they come, the ends of epochs between "train" and "export"
STAGES = ("starting", "data", "train", *(f"epoch {number}" for number in range(1, EPOCHS + 1)), "export", "evaluate")


def place_of(event: Mapping[str, Any]) -> int:
    """How far the process is that tells this, as a place in STAGES; -1 when that is not known."""
    name = f"epoch {event['epoch']}" if event["event"] == "epoch" else event.get("stage")
    if event["event"] == "stage" and event["message"] == "starting":
        name = "starting"
    return STAGES.index(name) if name in STAGES else len(STAGES) if name == "report" else -1


@pytest.fixture
def recipe(backbone: Path, tmp_path: Path) -> Recipe:
    """With epochs that are long enough to be killed in."""
    return tiny.recipe(
        tiny.write_shop(tmp_path / "shop", taken=24),
        backbone,
        optimiser={"epochs": EPOCHS, "ema": 0.8},
        augment={"policy": "trivial", "mixup": 0.3, "blur": 0.5},
        report={"robustness_queries": 2},
    )


@pytest.mark.parametrize("seed", [3])
async def test_killed_three_times_it_ends_as_if_it_had_not_been(recipe: Recipe, tmp_path: Path, seed: int) -> None:
    launcher = Launcher(tmp_path / "runs", tmp_path / "models", Path(sys.executable))
    run, dice, moments = launcher.run_of(recipe), random.Random(seed), []
    with watched(run, tmp_path / "models") as problems:
        for number in range(KILLS):
            told = _epochs(run)
            wanted, wait_s = dice.randrange(len(STAGES)), dice.uniform(0, 0.3)
            moments.append((STAGES[wanted], round(wait_s, 3)))
            state = await killed(launcher, recipe, wanted, wait_s)
            assert state.state is State.FAILED, (moments, "it was not killed")
            assert "SIGKILL" in state.error
            assert standing(run).state is State.FAILED
            _whole(run, tmp_path / f"copy {number}")
            _loses_at_most_one(told, _epochs(run))
        told = _epochs(run)
        state = await finished(launcher, recipe)
        _loses_at_most_one(told, _epochs(run))
    assert problems == [], moments
    assert state.state is State.SUCCEEDED
    # one version, and nothing left of those that were not finished
    assert versions_in(tmp_path / "models" / MODEL_NAME) == [1]
    assert not list((tmp_path / "models" / MODEL_NAME).glob(".staging-*"))
    assert tiny.workers_of(run) == []
    _same_as_an_uninterrupted_one(run, state, tmp_path, recipe, moments)


async def killed(launcher: Launcher, recipe: Recipe, wanted: int, wait_s: float) -> RunState:
    """Starts it, and kills it so long after it has come to that place."""
    there = asyncio.Event()

    def listen(event: Mapping[str, Any]) -> None:
        if place_of(event) >= wanted:
            there.set()

    training = await launcher.start(recipe, listen)
    assert training is not None
    async with training:
        async with asyncio.timeout(120):
            await there.wait()
        await asyncio.sleep(wait_s)
        training.kill()
        return await training.outcome()


async def finished(launcher: Launcher, recipe: Recipe) -> RunState:
    training = await launcher.start(recipe, lambda event: None)
    assert training is not None
    async with training:
        return await training.outcome()


@contextmanager
def watched(run: Run, models: Path) -> Iterator[list[str]]:
    """Looks all the time; what it saw that must not be."""
    problems: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.0002):
            try:
                for version in versions_in(models / MODEL_NAME):
                    verify(models / MODEL_NAME / str(version))
                run.state()
                progress = run.checkpoint / "train" / checkpoint.PROGRESS
                json.loads(progress.read_text())
            except (NotFound, FileNotFoundError):
                pass  # not yet
            except Exception as error:
                problems.append(repr(error))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield problems
    finally:
        over.set()
        thread.join()


def _epochs(run: Run) -> list[int]:
    """Those that were told, in order."""
    if not run.events.exists():
        return []
    events = [json.loads(line) for line in run.events.read_text().splitlines()]
    return [event["epoch"] for event in events if event["event"] == "epoch"]


def _loses_at_most_one(before: list[int], after: list[int]) -> None:
    new = after[len(before) :]
    assert after[: len(before)] == before
    # killed between the checkpoint and its event, an epoch is kept but was not told
    if new:
        assert new[0] - max(before, default=0) in (1, 2)
    assert new == list(range(new[0], new[0] + len(new))) if new else True


def _whole(run: Run, copy: Path) -> None:
    """What the next process goes on from can be read; as a copy, because reading puts it right."""
    if not run.checkpoint.exists():
        return
    shutil.copytree(run.checkpoint, copy)
    if saved := checkpoint.load(copy / "train"):
        progress, states = saved
        assert len(progress.history) == progress.epoch >= max(_epochs(run), default=0)
        assert {"objective", "optimiser", "best", "average"} == set(states)


def _same_as_an_uninterrupted_one(run: Run, state: RunState, folder: Path, recipe: Recipe, moments: Any) -> None:
    whole, log = tiny.pipeline(folder / "whole runs", folder / "whole models", recipe)
    assert state.after == log.of("finished")[0]["after"], moments
    weights, wanted = (
        load_file(folder / name / MODEL_NAME / "1" / WEIGHTS_FILE) for name in ("models", "whole models")
    )
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in weights.items()), moments
    assert _figures(run) == _figures(whole)


def _figures(run: Run) -> list[dict[str, float]]:
    """Of each epoch, but for those of the clock."""
    saved = checkpoint.load(run.checkpoint / "train")
    assert saved is not None
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in saved[0].history]
