"""Two processes on one machine, by gloo."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file

from services.common.manifest import MODEL_NAME
from services.export.publish import verify, versions_in
from services.trainer.launcher import Launcher
from services.trainer.learning.backbones import make_backbone
from services.trainer.learning.encoder import Encoder
from services.trainer.learning.pipeline import WEIGHTS_FILE
from services.trainer.runs import State
from tests.trainer import tiny

EPOCHS = 5


async def test_two_processes_learn_as_one(backbone: Path, shop: Path, tmp_path: Path) -> None:
    """Every stage that there is, killed in the middle."""
    unlabelled = tiny.write_folder(tmp_path / "unlabelled", range(12), range(40, 46))
    recipe = tiny.recipe(
        shop,
        backbone,
        data={"unlabelled": str(unlabelled)},
        compute={"processes": 2},
        optimiser={"epochs": EPOCHS, "ema": 0.6},
        pretrain={"epochs": 2, "rate": 1e-3},
        pseudo_labels={"every": 2, "similarity": 0.5, "agreement": 0.6},
        prune={"share": 0.3, "epochs": 2},
    )
    launcher = Launcher(tmp_path / "runs", tmp_path / "models", Path(sys.executable))
    run, epoch, seen = launcher.run_of(recipe), asyncio.Event(), []

    def listen(event: Mapping[str, Any]) -> None:
        seen.append(event)
        if event["event"] == "epoch" and event["stage"] == "train":
            epoch.set()

    training = await launcher.start(recipe, listen)
    assert training is not None
    async with training, asyncio.timeout(200):
        await asyncio.wait(
            (asyncio.create_task(epoch.wait()), asyncio.create_task(training.outcome())),
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert epoch.is_set(), run.log.read_text()
        processes = tiny.workers_of(run)
        assert len(processes) == 2
        training.kill()
        killed = await training.outcome()
    assert killed.state is State.FAILED
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []

    resumed = await launcher.start(recipe, listen)
    assert resumed is not None
    async with resumed, asyncio.timeout(200):
        state = await resumed.outcome()
    assert state.state is State.SUCCEEDED, run.log.read_text()
    assert tiny.workers_of(run) == []

    # the first process alone speaks and writes
    starts = [event for event in seen if event.get("message") == "starting"]
    assert len(starts) == 2
    told = [(event["stage"], event["epoch"]) for event in seen if event["event"] == "epoch"]
    every = [("pretrain", 1), ("pretrain", 2), *(("train", n + 1) for n in range(EPOCHS)), ("prune", 1), ("prune", 2)]
    assert list(dict.fromkeys(told)) == every
    assert len(told) - len(every) <= 1
    written = [json.loads(line) for line in run.events.read_text().splitlines()]
    assert [event for event in written if event["event"] == "epoch"] == [e for e in seen if e["event"] == "epoch"]
    curves = list((run.folder / "tensorboard").iterdir())
    assert len(curves) == 2  # of each start

    # and what they have learnt together is published once
    assert versions_in(tmp_path / "models" / MODEL_NAME) == [1]
    version = tmp_path / "models" / MODEL_NAME / "1"
    verify(version)
    torch.manual_seed(0)
    untrained = Encoder(make_backbone(str(backbone)), recipe.model)
    before = tiny.validation(numbers=range(100, 104)).recall(untrained)
    assert state.after["recall@1"] > before + 0.2
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(version / WEIGHTS_FILE).values())
    assert "2 processes" in run.report.read_text()
