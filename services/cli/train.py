"""`lookalike train`: fine-tunes the encoder by a recipe, live, and says what it was good for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services.cli.console import INTERRUPTED, AsJson, errors_as_lines, fail, print_json, stderr, stdout, table
from services.cli.training_view import TrainingView
from services.common.manifest import MODEL_NAME
from services.trainer.launcher import Launcher
from services.trainer.process import Training
from services.trainer.recipe import Recipe, read_recipe
from services.trainer.runs import Run, RunState, State

RUNS = Path(".lookalike/runs")
Runs = Annotated[Path, typer.Option("--runs", help="Folder of all training runs.")]


def train(
    recipe: Annotated[Path, typer.Argument(help="TOML file that says what is trained on what, and how.")],
    runs: Runs = RUNS,
    repository: Annotated[
        Path, typer.Option("--repository", help="Triton's model repository; gets the new version.")
    ] = Path("model_repository"),
    python: Annotated[
        Path | None,
        typer.Option(
            envvar="LOOKALIKE_TRAINER__PYTHON",
            help="Python of the environment with torch. Default: .venv-train beside this one, or this one.",
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Train from the beginning, also when this recipe has succeeded.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train an encoder, export it as the next version, and show what it gained.

    The same recipe is the same run: what was interrupted goes on, and what has succeeded is shown. Exit code 1 when
    training fails, 130 after Ctrl-C.

    Example: lookalike train recipes/grocery.toml
    """
    with errors_as_lines():
        read = read_recipe(recipe)
        launcher = Launcher(runs, repository, python)
        with TrainingView(stderr() if as_json else stdout(), read) as view:
            trained, state = asyncio.run(_train(launcher, read, view, again))
    run = launcher.run_of(read)
    if as_json:
        report = str(run.report) if run.report.exists() else None
        print_json(asdict(state) | {"trained": trained, "folder": str(run.folder), "report": report})
    match state.state:
        case State.SUCCEEDED if not as_json:
            _print_success(run, state, repository, trained)
        case State.FAILED:
            # the rest of the error is in the log
            fail(f"{state.error.splitlines()[0] if state.error else 'training failed'} (log: {run.log})")
        case State.STOPPED:
            stderr().print(
                f"stopped after epoch {state.epoch} of {state.epochs}; resume with the same command", highlight=False
            )
            raise typer.Exit(INTERRUPTED)


async def _train(launcher: Launcher, recipe: Recipe, view: TrainingView, again: bool) -> tuple[bool, RunState]:
    """Whether something was trained now, and how the run stands."""
    training = await launcher.start(recipe, view, again=again)
    if training is None:
        return False, launcher.run_of(recipe).state()
    async with training:
        with _stopped_by_signals(training):
            return True, await training.outcome()


@contextmanager
def _stopped_by_signals(training: Training) -> Iterator[None]:
    """The first signal stops it politely, the second one at once."""
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[RunState]] = []

    def stop() -> None:
        if stopping:
            training.kill()
        else:
            stopping.append(asyncio.create_task(training.stop()))

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _print_success(run: Run, state: RunState, repository: Path, trained: bool) -> None:
    console = stdout()
    if not trained:
        console.print(
            "this recipe has been trained; --again trains it from the beginning", highlight=False, soft_wrap=True
        )
    if state.after:
        console.print(_comparison(state.before, state.after))
    facts = [f"version {state.version}: {repository / MODEL_NAME / str(state.version)}"] if state.version else []
    if run.report.exists():
        facts.append(f"report: {run.report}")
    if state.version:
        facts.append(f"go on with: lookalike evaluate --model {state.version} --data FOLDER, lookalike models list")
    for fact in facts:
        console.print(fact, highlight=False, markup=False, soft_wrap=True)


def _comparison(before: Mapping[str, float], after: Mapping[str, float]) -> object:
    shown = table("metric", "before>", "after>", "change>")
    for metric in dict.fromkeys([*before, *after]):
        old, new = before.get(metric), after.get(metric)
        # shares of queries, as all retrieval metrics are, against latencies and sizes
        share = all(value is None or 0 <= value <= 1 for value in (old, new))
        change = "" if old is None or new is None else f"{(new - old) * 100:+.1f}" if share else f"{new - old:+,.2f}"
        shown.add_row(metric, _value(old, share), _value(new, share), change)
    return shown


def _value(value: float | None, share: bool) -> str:
    return "" if value is None else f"{value:.1%}" if share else f"{value:,.2f}"
