"""A training run on the screen: a bar for the epoch at work, and a line for each that is finished."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

from services.trainer import progress
from services.trainer.recipe import Recipe


class TrainingView:
    """Use as `with`, and call it with each event. Where there is no terminal it prints lines only."""

    def __init__(self, console: Console, recipe: Recipe) -> None:
        self._console = console
        self._now = progress.Progress(epochs=recipe.optimiser.epochs)
        self._task: TaskID | None = None
        self._bar = (
            Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                console=console,
                transient=True,
            )
            if console.is_terminal
            else None
        )

    def __enter__(self) -> TrainingView:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        self._now = now = self._now.after(event)
        match event["event"]:
            case "stage":
                self._line(f"{now.stage}: {now.message}" if now.message else now.stage)
                self._show(now.message or now.stage)
            case "progress":
                self._show(_counted(now), _facts(now))
            case "epoch":
                self._line(f"{_counted(now)}  {_facts(now)}{'  best' if event.get('best') else ''}")
                self._show(_counted(now))
            case "warning":
                self._line(f"warning: {event.get('message', '')}", style="yellow")

    def _line(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def _show(self, description: str, facts: str = "") -> None:
        if self._bar is None:
            return
        total = self._now.total or None
        if self._task is None:
            self._task = self._bar.add_task(description, total=total, facts=facts)
        self._bar.update(self._task, description=description, completed=self._now.done, total=total, facts=facts)


def _counted(now: progress.Progress) -> str:
    """`epoch  3/20`; epochs of other stages carry the stage's name."""
    if not now.epochs:
        return now.stage
    name = "epoch" if now.stage in ("", "train") else f"{now.stage} epoch"
    return f"{name} {now.epoch:{len(str(now.epochs))}}/{now.epochs}"


def _facts(now: progress.Progress) -> str:
    facts = []
    if now.loss is not None:
        facts.append(f"loss {now.loss:.4f}")
    if now.recall is not None:
        facts.append(f"recall@1 {now.recall:.1%}")
    if now.images_per_s is not None:
        facts.append(f"{now.images_per_s:,.0f} images/s")
    if now.eta_s is not None:
        facts.append(f"ETA {timedelta(seconds=round(now.eta_s))}")
    return "  ".join(facts)
