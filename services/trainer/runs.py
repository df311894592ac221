"""Training runs as folders: `<runs>/<name>-<fingerprint>/`, readable by anyone at any time.

    recipe.json     the recipe, paths absolute
    run.json        RunState: how it stands; replaced whole
    events.jsonl    what happened, a line each (see `events`)
    checkpoint/     see `checkpoint`: what the next start goes on from
    tensorboard/    curves
    log.txt         what the training process printed
    report.html     at the end

One process writes run.json at a time: before and after a training process its parent, in between the training process.
Beside the folders: `.device-<name>.lock` (see `device`), `.earlier/` with what a start from the beginning put aside.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from services.common.errors import FailedPrecondition, NotFound
from services.trainer.device import active_runs
from services.trainer.recipe import Recipe


class State(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RunState:
    """Args:
    state: CANCELLED was asked for by an operator for good, STOPPED is an interruption; both resume with the same
        recipe, and so does FAILED. In the file RUNNING also describes a run whose process was killed: `standing`
        tells them apart.
    epoch, epochs: finished and planned.
    version: the model version it was exported as; 0 before that.
    before, after: metrics, for example {"recall@1": 0.52, "coarse recall@1": 0.6}.
    error: one line, when it failed; the log's last lines may follow.
    reason: UPPER_SNAKE, when it failed.
    """

    id: str
    state: State
    created: str
    updated: str
    epoch: int = 0
    epochs: int = 0
    version: int = 0
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    reason: str = ""


class Run:
    """One run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, runs: Path, recipe: Recipe) -> Run:
        """The run of a recipe, made when there is none yet."""
        run = cls.named(runs, recipe)
        if not run.exists:
            run.folder.mkdir(parents=True, exist_ok=True)
            write_whole(run.folder / "recipe.json", recipe.model_dump_json(indent=1))
            now = _now()
            run.write(RunState(run.id, State.RUNNING, now, now, epochs=recipe.optimiser.epochs))
        return run

    @classmethod
    def named(cls, runs: Path, recipe: Recipe) -> Run:
        """The same, which may not be there."""
        return cls(runs / f"{recipe.name}-{recipe.fingerprint}")

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def exists(self) -> bool:
        return self._state_file.exists()

    @property
    def _state_file(self) -> Path:
        return self.folder / "run.json"

    @property
    def events(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def recipe(self) -> Recipe:
        return Recipe.model_validate_json((self.folder / "recipe.json").read_text())

    def state(self) -> RunState:
        """Raises NotFound (RUN_NOT_FOUND), FailedPrecondition (RUN_DAMAGED)."""
        try:
            raw: dict[str, Any] = json.loads(self._state_file.read_text())
            return RunState(**(raw | {"state": State(raw["state"])}))
        except FileNotFoundError:
            raise NotFound(f"there is no run {self.id}", reason="RUN_NOT_FOUND") from None
        except (ValueError, TypeError, KeyError) as error:
            raise FailedPrecondition(f"{self._state_file} can't be read: {error}", reason="RUN_DAMAGED") from None

    def write(self, state: RunState) -> None:
        write_whole(self._state_file, json.dumps(asdict(state), indent=1))

    def update(self, **changes: Any) -> RunState:
        state = replace(self.state(), updated=_now(), **changes)
        self.write(state)
        return state


def list_runs(runs: Path) -> list[Run]:
    """The newest first."""
    found = [Run(path.parent) for path in runs.glob("*/run.json")]
    return sorted(found, key=lambda run: (standing(run).created, run.id), reverse=True)


def standing(run: Run) -> RunState:
    """How a run stands now: STOPPED when it says RUNNING and no process holds a device for it.

    One whose run.json is damaged counts as failed, so that it does not hide the others. Raises NotFound
    (RUN_NOT_FOUND).
    """
    try:
        state = run.state()
        if state.state is State.RUNNING and run.id not in active_runs(run.folder.parent):
            # it may have ended between the two looks; how it ended is written before the device is free
            state = run.state()
            return replace(state, state=State.STOPPED) if state.state is State.RUNNING else state
        return state
    except FailedPrecondition as error:
        return RunState(run.id, State.FAILED, "", "", error=error.message, reason=error.reason)


def write_whole(path: Path, text: str) -> None:
    """So that a reader sees the old or the new text, also after a crash."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
