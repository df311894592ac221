"""Training processes: real children that work, fail, hang and die, and what is written down about them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.common.errors import FailedPrecondition
from services.trainer.device import active_runs
from services.trainer.errors import DeviceBusy
from services.trainer.launcher import EARLIER, Launcher
from services.trainer.process import Training
from services.trainer.recipe import Recipe
from services.trainer.runs import Run, RunState, State, list_runs, standing
from tests.unit.training import STAND_IN, gone, recipe, recipe_text, until, until_now


class Events(list[Mapping[str, Any]]):
    def __call__(self, event: Mapping[str, Any]) -> None:
        self.append(event)

    def kinds(self) -> list[str]:
        return [event["event"] for event in self]


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    return Launcher(tmp_path / "runs", tmp_path / "models", Path(sys.executable), worker=(str(STAND_IN),))


async def trained(launcher: Launcher, what: Recipe, events: Events | None = None, *, again: bool = False) -> RunState:
    training = await launcher.start(what, events if events is not None else Events(), again=again)
    assert training is not None
    async with training:
        return await training.outcome()


async def started(launcher: Launcher, what: Recipe) -> Training:
    """Returns when it hangs."""
    events = Events()
    training = await launcher.start(what, events)
    assert training is not None
    await until(lambda: "epoch" in events.kinds())
    return training


async def test_a_run_is_followed_and_its_end_written_down(launcher: Launcher) -> None:
    events = Events()
    state = await trained(launcher, recipe("good"), events)
    assert events.kinds() == ["stage", "warning", *(["progress"] * 2 + ["epoch"]) * 2, "finished"]
    assert (state.state, state.version, state.epoch, state.epochs) == (State.SUCCEEDED, 2, 2, 2)
    assert (state.before["recall@1"], state.after["recall@1"]) == (0.4, 0.6)
    assert launcher.run_of(recipe("good")).state() == state
    assert not active_runs(launcher.runs)


async def test_what_has_succeeded_is_not_repeated_unless_again(launcher: Launcher) -> None:
    first = await trained(launcher, recipe("good"))
    run = launcher.run_of(recipe("good"))
    assert await launcher.start(recipe("good"), Events()) is None
    assert run.state() == first
    second = await trained(launcher, recipe("good"), again=True)
    assert second.created > first.created
    (aside,) = (launcher.runs / EARLIER).iterdir()
    assert Run(aside).state() == first
    assert Run(aside).report.exists()
    assert not Run(aside).checkpoint.exists()
    assert [found.id for found in list_runs(launcher.runs)] == [run.id]


@pytest.mark.parametrize(
    ("kind", "reason", "line", "log"),
    [
        ("crash", "TRAINING_PROCESS_DIED", "ended with code 1: ValueError: no such layer", "  a library says hello"),
        ("killed", "TRAINING_PROCESS_DIED", "killed by SIGKILL, probably because memory ran out", ""),
        ("silent", "TRAINING_PROCESS_DIED", "ended without saying how training went", ""),
        ("told", "DATA_BROKEN", "3 % of the files are broken", ""),
    ],
)
async def test_a_failure_says_what_went_wrong(launcher: Launcher, kind: str, reason: str, line: str, log: str) -> None:
    state = await trained(launcher, recipe(kind))
    assert (state.state, state.reason, state.epoch) == (State.FAILED, reason, 1)
    first, *rest = state.error.splitlines()
    assert line in first
    assert log in "\n".join(rest)
    assert launcher.run_of(recipe(kind)).state() == state
    assert not active_runs(launcher.runs)


async def test_the_log_told_is_that_of_the_last_start(launcher: Launcher) -> None:
    run = Run.of(launcher.runs, recipe("silent"))
    run.log.write_text("an old story\n")
    state = await trained(launcher, recipe("silent"))
    assert "old story" not in state.error
    assert "old story" in run.log.read_text()


async def test_a_crash_after_the_last_word_is_no_failure(launcher: Launcher) -> None:
    assert (await trained(launcher, recipe("crash-at-exit"))).state is State.SUCCEEDED


async def test_a_python_that_cannot_run_it_is_told(launcher: Launcher) -> None:
    state = await trained(replace(launcher, worker=("-m", "services.no_such_module")), recipe("good"))
    assert "No module named services.no_such_module" in state.error.splitlines()[0]


async def test_what_a_process_started_ends_with_it(launcher: Launcher) -> None:
    state = await trained(launcher, recipe("children"))
    assert state.state is State.SUCCEEDED
    assert gone(int((launcher.run_of(recipe("children")).folder / "child").read_text()))


async def test_other_output_is_logged_and_harms_nothing(launcher: Launcher) -> None:
    events = Events()
    assert (await trained(launcher, recipe("noisy"), events)).state is State.SUCCEEDED
    assert "something new" in events.kinds()
    assert events.kinds()[-1] == "finished"
    assert '[1, 2]\n{"no": "event"}' in launcher.run_of(recipe("noisy")).log.read_text()


async def test_a_listener_that_fails_ends_nothing(launcher: Launcher, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Mapping[str, Any]) -> None:
        raise KeyError("not understood")

    training = await launcher.start(recipe("good"), fail)
    assert training is not None
    assert (await training.outcome()).state is State.SUCCEEDED
    assert "not understood" in caplog.text


@pytest.mark.parametrize("state", [State.STOPPED, State.CANCELLED])
@pytest.mark.parametrize("kind", ["hang", "deaf"])
async def test_it_is_stopped_and_resumes(launcher: Launcher, kind: str, state: State) -> None:
    launcher = replace(launcher, stop_grace_s=60 if kind == "hang" else 0.2)
    training = await started(launcher, recipe(kind))
    assert (await training.stop(state)).state is state
    assert gone(training.pid)
    events = Events()
    after = await trained(launcher, recipe(kind), events)
    assert after.state is State.SUCCEEDED
    # it did not begin at the first epoch
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [2]
    assert (training.run.id, training.run.state()) == (after.id, after)


async def test_leaving_stops_it(launcher: Launcher) -> None:
    with pytest.raises(ZeroDivisionError):
        async with await started(launcher, recipe("hang")) as training:
            raise ZeroDivisionError
    assert gone(training.pid)
    assert training.run.state().state is State.STOPPED


async def test_one_run_at_a_time_on_a_device(launcher: Launcher) -> None:
    async with await started(launcher, recipe("hang")) as training:
        for other in (recipe("good"), recipe("hang")):
            for again in (False, True):
                with pytest.raises(DeviceBusy, match=training.run.id) as caught:
                    await launcher.start(other, Events(), again=again)
                assert caught.value.metadata == {"device": "cpu", "run": training.run.id, "pid": str(os.getpid())}
                with pytest.raises(DeviceBusy, match=training.run.id):
                    launcher.check(other, again=again)
        assert not launcher.run_of(recipe("good")).exists
        assert standing(training.run).state is State.RUNNING
        # another device is another matter
        assert (await trained(replace(launcher, device="cuda-0"), recipe("good"))).state is State.SUCCEEDED
    assert (await trained(launcher, recipe("good", seed=2))).state is State.SUCCEEDED


async def test_a_damaged_run_is_told_and_can_be_begun_anew(launcher: Launcher) -> None:
    run = Run.of(launcher.runs, recipe("good"))
    (run.folder / "run.json").write_text("{")
    with pytest.raises(FailedPrecondition, match=r"run.json can't be read") as caught:
        await launcher.start(recipe("good"), Events())
    assert caught.value.reason == "RUN_DAMAGED"
    assert not active_runs(launcher.runs)
    assert (await trained(launcher, recipe("good"), again=True)).state is State.SUCCEEDED


async def test_a_run_whose_folder_is_taken_away_frees_the_device(launcher: Launcher) -> None:
    training = await started(launcher, recipe("hang"))
    (training.run.folder / "run.json").unlink()
    with pytest.raises(Exception, match="there is no run"):
        await training.stop()
    assert gone(training.pid)
    assert not active_runs(launcher.runs)


def test_it_ends_with_its_parent_and_shows_as_stopped(launcher: Launcher, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(recipe_text("hang"))
    parent = f"""
import asyncio, json, sys
from pathlib import Path
from services.trainer.launcher import Launcher
from services.trainer.recipe import read_recipe
async def main():
    launcher = Launcher(Path({str(launcher.runs)!r}), Path("models"), Path(sys.executable), worker=({str(STAND_IN)!r},))
    training = await launcher.start(read_recipe(Path({str(file)!r})), lambda event: None)
    print(json.dumps([training.pid, str(training.run.folder)]), flush=True)
    await training.outcome()
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid, folder = json.loads(process.stdout.readline())
    run = Run(Path(folder))
    until_now(lambda: run.state().epoch == 1)
    assert psutil.pid_exists(pid)
    assert active_runs(launcher.runs)[run.id].pid == process.pid
    assert standing(run).state is State.RUNNING

    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    process.wait()
    assert gone(pid)
    assert run.state().state is State.RUNNING
    assert standing(run).state is State.STOPPED
    assert not active_runs(launcher.runs)
