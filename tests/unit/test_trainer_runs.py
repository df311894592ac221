"""What is around a run: its state, its device, the environment it needs, and what a caller may write in a recipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.common.errors import InvalidArgument, NotFound
from services.common.pages import page_of
from services.trainer import environment
from services.trainer.device import DeviceLock, Holder, active_runs, check_free, lock_file
from services.trainer.environment import training_python
from services.trainer.errors import DeviceBusy, NoTrainingEnvironment
from services.trainer.events import parse_event
from services.trainer.operations import place
from services.trainer.progress import Progress
from services.trainer.recipe import parse_recipe
from services.trainer.runs import Run, RunState, State, list_runs, standing
from tests.unit.training import recipe, recipe_text


def test_a_device_is_held_by_one_run(tmp_path: Path) -> None:
    with DeviceLock(tmp_path, "cpu") as lock:
        lock.acquire("one")
        # looking does not take it, and does not let go of it either
        for _ in range(2):
            assert active_runs(tmp_path) == {"one": Holder("one", os.getpid())}
            with pytest.raises(DeviceBusy, match="the run one"):
                check_free(tmp_path, "cpu")
            with pytest.raises(DeviceBusy, match="the run one"):
                DeviceLock(tmp_path, "cpu").acquire("two")
    check_free(tmp_path, "cpu")
    with DeviceLock(tmp_path, "cpu") as lock:
        lock.acquire("two")
        assert list(active_runs(tmp_path)) == ["two"]
    assert active_runs(tmp_path) == {}


def test_another_process_sees_who_holds_it(tmp_path: Path) -> None:
    code = f"from services.trainer.device import *\nprint(list(active_runs(Path({str(tmp_path)!r}))))"
    with DeviceLock(tmp_path, "cpu") as lock:
        lock.acquire("one")
        for lock_is_read in (True, False):
            if not lock_is_read:
                lock_file(tmp_path, "cpu").write_text("")
            ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
            assert ran.stdout.strip() == ("['one']" if lock_is_read else "['']")


def test_a_run_that_says_running_is_stopped_when_nobody_works_on_it(tmp_path: Path) -> None:
    run = Run.of(tmp_path, recipe("one"))
    assert standing(run).state is State.STOPPED
    with DeviceLock(tmp_path, "cpu") as lock:
        lock.acquire("another")
        assert standing(run).state is State.STOPPED
    with DeviceLock(tmp_path, "cpu") as lock:
        lock.acquire(run.id)
        assert standing(run).state is State.RUNNING
    run.update(state=State.FAILED)
    assert standing(run).state is State.FAILED


def test_a_damaged_run_hides_no_other(tmp_path: Path) -> None:
    runs = [Run.of(tmp_path, recipe("one", seed)) for seed in (1, 2)]
    for run, created in zip(runs, ("2026-01-01T00:00:00.000+00:00", "2026-01-02T00:00:00.000+00:00"), strict=True):
        run.update(created=created)
    assert [run.id for run in list_runs(tmp_path)] == [runs[1].id, runs[0].id]
    (runs[1].folder / "run.json").write_text("[]")
    assert [run.id for run in list_runs(tmp_path)] == [runs[0].id, runs[1].id]
    assert (standing(runs[1]).state, standing(runs[1]).reason) == (State.FAILED, "RUN_DAMAGED")
    with pytest.raises(NotFound):
        standing(Run(tmp_path / "none"))


def test_pages_go_on_where_the_last_one_ended() -> None:
    def state(number: int) -> RunState:
        return RunState(f"r{number}", State.SUCCEEDED, f"2026-01-0{number}", "")

    states = [state(number) for number in (5, 4, 3, 2)]
    first, token = page_of(states, place, 2, "")
    # one that is newer and one that is gone move nothing
    second, end = page_of([state(6), *states[1:]], place, 2, token)
    assert [s.id for s in (*first, *second)] == ["r5", "r4", "r3", "r2"]
    assert end == ""
    assert page_of(states, place, 0, "") == (states, "")


@pytest.mark.parametrize("token", ["x", "é", "W10=", "WzEsMl0=", "bnVsbA=="])
def test_foreign_page_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        page_of([], place, 1, token)
    assert (caught.value.reason, caught.value.field) == ("PAGE_TOKEN_INVALID", "page_token")


@pytest.mark.parametrize("size", [-1, 1001])
def test_page_sizes_have_limits(size: int) -> None:
    with pytest.raises(InvalidArgument, match="page_size"):
        page_of([], place, size, "")


def test_the_training_environment_is_found_or_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    with pytest.raises(NoTrainingEnvironment, match="make install-train"):
        training_python()
    monkeypatch.setattr(environment, "find_spec", lambda name: object() if name == "torch" else None)
    assert training_python() == Path(sys.executable)
    beside = tmp_path / ".venv-train" / "bin" / "python"
    beside.parent.mkdir(parents=True)
    beside.symlink_to(sys.executable)
    # the link itself: behind it is a Python without the environment's packages
    assert training_python() == beside
    assert training_python(Path(sys.executable)) == Path(sys.executable)
    for bad in (tmp_path / "none", tmp_path):
        with pytest.raises(NoTrainingEnvironment, match="no Python"):
            training_python(bad)


def test_nothing_here_imports_torch() -> None:
    code = (
        "import sys, services.trainer.__main__, services.cli.train, services.cli.runs\n"
        "print([name for name in ('torch', 'torchvision', 'lightning') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout.strip(), ran.returncode) == ("[]", 0), ran.stderr


@pytest.mark.parametrize(
    "more",
    [
        '[data]\npath = "/etc"',
        '[data]\npath = "a/../../b"',
        '[data]\npath = "a"\nunlabelled = "../b"',
        '[data]\npath = "a"\n[model]\nweights = "/w.safetensors"',
        '[data]\npath = "a"\n[model]\nbackbone = "../b.onnx"',
        '[data]\npath = "a"\n[distil]\nteacher = "../t.onnx"',
        '[data]\npath = "a\\u0000b"',
        "data = 3",
        "model = []",
        "[data]\npath = 3",
        "a = " + "[" * 100_000,
        "a = ",
    ],
)
def test_recipes_from_elsewhere_stay_in_their_folder_and_break_nothing(tmp_path: Path, more: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_recipe(f'name = "x"\n{more}\n', tmp_path, confined=True)
    assert caught.value.reason == "RECIPE_INVALID"


def test_recipes_from_elsewhere_may_use_what_is_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "pictures").symlink_to(tmp_path / "elsewhere")
    found = parse_recipe(recipe_text("x"), tmp_path / "folder", confined=True)
    assert found.data.path == str(tmp_path / "elsewhere")


@pytest.mark.parametrize("line", ["", "text", "3", "[]", "{}", '{"event": 1}', "[" * 100_000])
def test_what_is_no_event(line: str) -> None:
    assert parse_event(line) is None


def test_progress_is_what_events_add_up_to() -> None:
    progress = Progress()
    facts = {"stage": "train", "epochs": 9, "images_per_s": 8.0, "eta_s": 7.0, "time": 6.0}
    for event in (
        {"event": "stage", "stage": "train", "message": "m"},
        {"event": "epoch", **facts, "epoch": 1, "loss": 2.0, "recall@1": 0.5, "best": True},
        {"event": "progress", **facts, "epoch": 2, "loss": 1.0, "done": 3, "total": 4},
        {"event": "warning", "message": "w"},
        {"event": "of a later version"},
    ):
        progress = progress.after(event)
    assert progress == Progress("train", "m", 3, 4, 2, 9, 1, 1.0, 0.5, 8.0, 7.0, 6.0)
    assert progress.after({"event": "stage", "stage": "export"}) == Progress(
        "export", "", 0, 0, 2, 9, 1, 1.0, 0.5, 8.0, None, 6.0
    )
