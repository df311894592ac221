"""`lookalike train` and `lookalike runs`: what is shown, how they end, and what Ctrl-C does."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from services.cli.training_view import TrainingView
from services.trainer.runs import Run, State, list_runs, standing
from tests.unit.training import PATIENCE_S, STAND_IN, gone, recipe, recipe_text, until_now

# the command with the stand-in for the training process
COMMAND = f"""
import sys
from services.cli import main, train
main.COMMANDS |= {{"train": main.Source("train", "train", ""), "runs": main.Source("runs", "runs", "")}}
real = train.Launcher
train.Launcher = lambda *arguments: real(*arguments, worker=({str(STAND_IN)!r},))
main._app()(sys.argv[1:])
"""

Lookalike = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def lookalike(tmp_path: Path) -> Lookalike:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), capture_output=True, text=True, cwd=tmp_path, timeout=PATIENCE_S, check=False
        )

    return call


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", COMMAND, *arguments]


def training(tmp_path: Path, kind: str) -> tuple[str, ...]:
    """Arguments that train a recipe of this kind."""
    (tmp_path / "recipe.toml").write_text(recipe_text(kind))
    return "train", "recipe.toml", "--python", sys.executable


def only_run(tmp_path: Path) -> Run:
    (run,) = list_runs(tmp_path / ".lookalike" / "runs")
    return run


def test_without_a_terminal_it_prints_a_line_an_epoch_and_what_was_gained(tmp_path: Path, lookalike: Lookalike) -> None:
    ran = lookalike(*training(tmp_path, "good"))
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in ran.stdout.splitlines()]
    assert lines[:4] == [
        "data: 12 photographs of 3 products",
        "warning: 1 file is broken",
        "epoch 1/2 loss 1.5000 recall@1 30.0% 20 images/s ETA 0:00:01 best",
        "epoch 2/2 loss 0.7500 recall@1 60.0% 20 images/s ETA 0:00:01 best",
    ]
    assert lines[4:7] == ["metric before after change", "recall@1 40.0% 60.0% +20.0", "ms 24.50 12.25 -12.25"]
    assert "version 2: model_repository/image_encoder/2" in lines
    assert f"report: {only_run(tmp_path).report}" in lines
    assert "lookalike evaluate --model 2" in lines[-1]


def test_what_has_succeeded_is_shown_again(tmp_path: Path, lookalike: Lookalike) -> None:
    arguments = training(tmp_path, "good")
    lookalike(*arguments)
    repeated = lookalike(*arguments)
    assert repeated.returncode == 0
    assert "--again" in repeated.stdout
    assert "+20.0" in repeated.stdout
    assert "epoch" not in repeated.stdout
    assert "epoch 1/2" in lookalike(*arguments, "--again").stdout


def test_json_is_all_that_is_on_stdout(tmp_path: Path, lookalike: Lookalike) -> None:
    ran = lookalike(*training(tmp_path, "good"), "--json")
    found = json.loads(ran.stdout)
    assert (ran.returncode, found["state"], found["version"], found["trained"]) == (0, "succeeded", 2, True)
    assert found["after"]["recall@1"] == 0.6
    assert Path(found["report"]).exists()
    assert "epoch 2/2" in ran.stderr


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("crash", "error: the training process ended with code 1: ValueError: no such layer (log: "),
        ("killed", "error: the training process was killed by SIGKILL, probably because memory ran out (log: "),
        ("told", "error: 3 % of the files are broken (log: "),
    ],
)
def test_a_failure_is_one_line(tmp_path: Path, lookalike: Lookalike, kind: str, said: str) -> None:
    ran = lookalike(*training(tmp_path, kind))
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith(said)
    assert Path(line.removesuffix(")").rsplit(": ", 1)[1]).exists()
    assert only_run(tmp_path).state().state is State.FAILED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "recipe.toml is not TOML"),
        ('name = "x"\n[data]\npath = "p"\n[los]\n', "los: Extra inputs"),
        (None, "recipe.toml can't be read"),
    ],
)
def test_a_wrong_recipe_is_one_line(tmp_path: Path, lookalike: Lookalike, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "recipe.toml").write_text(text)
    ran = lookalike("train", "recipe.toml")
    assert ran.returncode == 1
    assert said in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_missing_environment_is_one_line(tmp_path: Path, lookalike: Lookalike) -> None:
    ran = lookalike(*training(tmp_path, "good")[:-1], "none/bin/python")
    assert ran.returncode == 1
    assert "none/bin/python is no Python" in ran.stderr
    assert not (tmp_path / ".lookalike").exists()


@pytest.mark.parametrize(("kind", "signals"), [("hang", 1), ("deaf", 2)])
def test_ctrl_c_stops_the_child_and_the_same_command_resumes(
    tmp_path: Path, lookalike: Lookalike, kind: str, signals: int
) -> None:
    arguments = training(tmp_path, kind)
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout is not None
    while "epoch 1/2" not in process.stdout.readline():
        assert process.poll() is None
    run = only_run(tmp_path)
    child = int((run.folder / "pid").read_text())

    busy = lookalike(*arguments)
    assert busy.returncode == 1
    assert f"cpu is in use by the run {run.id} (process {process.pid})" in busy.stderr
    assert "running" in lookalike("runs").stdout

    process.send_signal(signal.SIGINT)
    if signals == 2:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (130, "stopped after epoch 1 of 2; resume with the same command\n")
    assert gone(child)
    assert run.state().state is State.STOPPED
    resumed = lookalike(*arguments)
    assert resumed.returncode == 0
    assert "epoch 1/2" not in resumed.stdout
    assert "epoch 2/2" in resumed.stdout


def test_a_killed_command_takes_the_child_along(tmp_path: Path, lookalike: Lookalike) -> None:
    process = subprocess.Popen(command(*training(tmp_path, "hang")), stdout=subprocess.DEVNULL, cwd=tmp_path)
    runs = tmp_path / ".lookalike" / "runs"
    until_now(lambda: [run for run in list_runs(runs) if run.state().epoch == 1])
    child = int((only_run(tmp_path).folder / "pid").read_text())
    process.kill()
    process.wait()
    assert gone(child)
    assert standing(only_run(tmp_path)).state is State.STOPPED
    assert json.loads(lookalike("runs", "--json").stdout)[0]["state"] == "stopped"


def test_runs_are_listed(tmp_path: Path, lookalike: Lookalike) -> None:
    assert lookalike("runs").stdout.strip() == "no runs in .lookalike/runs"
    lookalike(*training(tmp_path, "good"))
    lookalike(*training(tmp_path, "crash"))
    ran = lookalike("runs", "--json")
    crash, good = json.loads(ran.stdout)
    assert (crash["state"], good["state"], good["version"]) == ("failed", "succeeded", 2)
    assert (tmp_path / good["folder"]).is_dir()
    shown = lookalike("runs").stdout
    assert re.search(rf"{good['id']}\s+succeeded\s+2/2\s+40.0% > 60.0%\s+2\s", shown)
    assert f"{crash['id']}: the training process ended with code 1: ValueError: no such layer" in shown


@pytest.mark.parametrize("name", ["train", "runs"])
def test_help_shows_an_example(lookalike: Lookalike, name: str) -> None:
    assert f"Example: lookalike {name}" in " ".join(lookalike(name, "--help").stdout.split())


def test_on_a_terminal_a_bar_lives_and_a_finished_epoch_leaves_one_line(tmp_path: Path) -> None:
    """In a real pseudo terminal, to which Ctrl-C is typed."""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        command(*training(tmp_path, "hang")),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=tmp_path,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
        # makes it the terminal's own process group, as a shell does
        preexec_fn=_own_terminal,
    )
    os.close(terminal)
    shown = ""
    while not re.search(r"epoch 1/2.*best(?s:.*)epoch 1/2", shown):
        shown += os.read(main, 4096).decode(errors="replace")
    assert "━" in shown
    os.write(main, b"\x03")
    try:
        while read := os.read(main, 4096):
            shown += read.decode(errors="replace")
    except OSError:  # how a terminal tells that nobody is left on the other side
        pass
    os.close(main)
    assert process.wait(PATIENCE_S) == 130
    assert "resume with the same command" in shown


def _own_terminal() -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_the_bar_shows_the_epoch_at_work() -> None:
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    facts = {"stage": "train", "epoch": 2, "epochs": 20, "done": 3, "total": 10}
    with TrainingView(console, recipe("good")) as view:
        view({"event": "stage", "stage": "data", "message": "reading"})
        view({"event": "progress", **facts, "loss": 0.5, "images_per_s": 20.4, "eta_s": 3723.2})
        view({"event": "progress", **facts, "stage": "pretrain", "loss": None})
    shown = " ".join(screen.getvalue().split())
    assert "pretrain epoch 2/20" in shown
    screen.truncate(0)
    with TrainingView(console, recipe("good")) as view:
        view({"event": "progress", **facts, "loss": 0.5, "images_per_s": 20.4, "eta_s": 3723.2})
    shown = " ".join(screen.getvalue().split())
    assert "epoch 2/20" in shown
    assert "3/10 loss 0.5000 20 images/s ETA 1:02:03" in shown
