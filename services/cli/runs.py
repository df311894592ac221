"""`lookalike runs`: the training runs there are."""

from __future__ import annotations

from dataclasses import asdict

from rich.text import Text

from services.cli.console import AsJson, errors_as_lines, print_json, stdout, table
from services.cli.train import RUNS, Runs
from services.trainer.runs import RunState, State, list_runs, standing

METRIC = "recall@1"
STYLES = {State.SUCCEEDED: "green", State.FAILED: "red", State.RUNNING: "bold"}


def runs(runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """List training runs, the newest first: how each stands and what it gained.

    Example: lookalike runs
    """
    with errors_as_lines():
        found = [(run, standing(run)) for run in list_runs(runs)]
    if as_json:
        print_json([asdict(state) | {"folder": str(run.folder)} for run, state in found])
        return
    if not found:
        stdout().print(f"no runs in {runs}", highlight=False)
        return
    shown = table("run", "state", "epochs>", f"{METRIC}>", "version>", "started (UTC)")
    for _, state in found:
        shown.add_row(
            state.id,
            Text(state.state.value, style=STYLES.get(state.state, "")),
            f"{state.epoch}/{state.epochs}",
            _change(state),
            str(state.version or ""),
            state.created[:16].replace("T", " "),
        )
    stdout().print(shown)
    for _, state in found:
        if state.error:
            # in a column of its own it would leave no room for the others
            line = state.error.splitlines()[0]
            stdout().print(f"{state.id}: {line}", style="red", markup=False, highlight=False, soft_wrap=True)


def _change(state: RunState) -> str:
    return " > ".join(f"{metrics[METRIC]:.1%}" for metrics in (state.before, state.after) if METRIC in metrics)
