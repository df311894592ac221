"""A rollout on the screen: its stages, what was measured, what it waits for and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC

from lookalike.v1 import model_pb2
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.cli.quantities import share, span
from services.cli.rollout_measured import canary_table, gate_summary, gate_table, shadow_table

BAR_WIDTH = 16
# of products whose originals are missing
NAMED = 5
# stages that know how much there is to do
COUNTED = ("gate", "backfill")

STAGES = [
    name.removeprefix("ROLLOUT_STAGE_").lower()
    for name in model_pb2.RolloutStage.keys()  # noqa: SIM118 - an enum of protobuf
    if not name.endswith(("UNSPECIFIED", "RETIRED"))
]
ENDED = {
    model_pb2.ROLLOUT_STATUS_SUCCEEDED,
    model_pb2.ROLLOUT_STATUS_FAILED,
    model_pb2.ROLLOUT_STATUS_CANCELLED,
}
STYLES = {
    model_pb2.ROLLOUT_STATUS_RUNNING: "bold",
    model_pb2.ROLLOUT_STATUS_WAITING: "bold yellow",
    model_pb2.ROLLOUT_STATUS_PAUSED: "yellow",
    model_pb2.ROLLOUT_STATUS_SUCCEEDED: "green",
    model_pb2.ROLLOUT_STATUS_FAILED: "red",
    model_pb2.ROLLOUT_STATUS_CANCELLED: "yellow",
}
# what is over, at work, to come, broken; for terminals with and without more than ASCII
SIGNS, ASCII_SIGNS = ("✓", "●", "·", "✗"), ("+", ">", ".", "x")


class RolloutView:
    """Args:
    note: of whoever watches, for example that nobody answers.
    """

    def __init__(self, rollout: model_pb2.Rollout, note: str = "") -> None:
        self._rollout = rollout
        self._note = note

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        rollout = self._rollout
        yield headline(rollout)
        yield ""
        yield _stages(rollout, ASCII_SIGNS if options.ascii_only else SIGNS)
        # before the tables: a terminal that is too small cuts off the end
        yield ""
        yield from _lines(rollout)
        if self._note:
            yield Text(self._note, style="yellow")
        for measured in (gate_table(rollout), shadow_table(rollout), canary_table(rollout)):
            if measured:
                yield ""
                yield measured


def headline(rollout: model_pb2.Rollout) -> Text:
    """`models/1 > models/2  running  backfill  rollouts/2-...`."""
    line = Text()
    if rollout.rollback:
        line.append("rollback  ")
    line.append(f"{rollout.previous_model} > {rollout.model}", style="bold")
    line.append(f"  {status_of(rollout)}", style=STYLES.get(rollout.status, ""))
    line.append(f"  {rollout.name}", style="dim")
    return line


def status_of(rollout: model_pb2.Rollout) -> str:
    return model_pb2.RolloutStatus.Name(rollout.status).removeprefix("ROLLOUT_STATUS_").lower()


def stage_of(rollout: model_pb2.Rollout) -> str:
    return model_pb2.RolloutStage.Name(rollout.stage).removeprefix("ROLLOUT_STAGE_").lower()


def stages_of(rollout: model_pb2.Rollout) -> list[str]:
    """Those that this rollout goes through, in their order."""
    if rollout.rollback:
        return STAGES[STAGES.index("check") :]
    if rollout.request.validate_only:
        return STAGES[: STAGES.index("backfill")]
    skipped = {name for name in ("shadow", "canary") if not getattr(rollout.request, name)}
    return [name for name in STAGES if name not in skipped]


def _stages(rollout: model_pb2.Rollout, signs: tuple[str, str, str, str]) -> Table:
    shown = Table.grid(padding=(0, 2, 0, 0))
    shown.add_column()
    shown.add_column(min_width=9)
    shown.add_column(justify="right", min_width=7)
    shown.add_column()
    over, at_work, to_come, broken = signs
    at = STAGES.index(stage_of(rollout)) if stage_of(rollout) in STAGES else len(STAGES)
    kept = rollout.stage == model_pb2.ROLLOUT_STAGE_RETENTION
    for name in stages_of(rollout):
        place = STAGES.index(name)
        took = span(rollout.stage_seconds[name]) if name in rollout.stage_seconds else ""
        is_done = place < at or (place == at and rollout.status == model_pb2.ROLLOUT_STATUS_SUCCEEDED and not kept)
        if is_done:
            sign, style = Text(over, style="green"), ""
        elif place > at:
            sign, style, took = Text(to_come, style="dim"), "dim", ""
        elif rollout.status in (model_pb2.ROLLOUT_STATUS_FAILED, model_pb2.ROLLOUT_STATUS_CANCELLED):
            sign, style = Text(broken, style=STYLES[rollout.status]), STYLES[rollout.status]
        else:
            sign, style = Text(at_work, style=STYLES.get(rollout.status, "")), STYLES.get(rollout.status, "")
        shown.add_row(sign, Text(name, style=style), Text(took, style="dim"), _detail(rollout, name, place - at))
    return shown


def _detail(rollout: model_pb2.Rollout, name: str, after: int) -> RenderableType:
    """What there is to say of a stage.

    Args:
        after: 0 for the stage at work, less for those before, more for those to come.
    """
    if after == 0 and name in COUNTED and rollout.total and rollout.status not in ENDED:
        return _bar(rollout)
    facts = ""
    match name:
        case "gate" if rollout.gate.rows:
            facts = gate_summary(rollout)
        case "drain" if rollout.backlog and after >= 0:
            facts = f"backlog {rollout.backlog:,}"
        case "shadow" | "canary" if after >= 0:
            of = "searches" if name == "shadow" else "callers"
            facts = f"{share(getattr(rollout.request, name))} of {of}"
            if after == 0 and rollout.backlog:
                facts += f"  backlog {rollout.backlog:,}"
        case "switch" if rollout.HasField("freeze"):
            facts = f"writes waited {span(rollout.freeze.ToTimedelta().total_seconds())}"
        case "retention" if rollout.HasField("retention_end"):
            facts = f"until {rollout.retention_end.ToDatetime(UTC):%Y-%m-%d %H:%M} UTC"
        case "retention" if after > 0:
            facts = f"for {span(rollout.request.retention.ToTimedelta().total_seconds())}"
    return Text(facts, style="dim")


def _bar(rollout: model_pb2.Rollout) -> RenderableType:
    facts = [f"{rollout.done:,}/{rollout.total:,}", *facts_of(rollout)]
    shown = Table.grid(padding=(0, 2, 0, 0))
    bar = ProgressBar(total=rollout.total, completed=min(rollout.done, rollout.total), width=BAR_WIDTH)
    shown.add_row(bar, Text("  ".join(facts)))
    return shown


def facts_of(rollout: model_pb2.Rollout) -> list[str]:
    """How fast it is, and how long it takes still."""
    facts = []
    if rollout.rows_per_second:
        facts.append(f"{rollout.rows_per_second:,.0f} rows/s")
    if rollout.HasField("eta"):
        facts.append(f"ETA {span(rollout.eta.ToTimedelta().total_seconds())}")
    return facts


def _lines(rollout: model_pb2.Rollout) -> Iterator[Text]:
    if rollout.missing_originals:
        names = list(rollout.missing_originals)
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        skips = rollout.request.missing_originals == model_pb2.MISSING_ORIGINALS_SKIP
        told = "left out, because their originals are missing: images of" if skips else "originals are missing of"
        yield Text(f"{told} {', '.join(names[:NAMED])}{more}", style="yellow")
    if rollout.message:
        # the command to give next comes on a line of its own
        message = rollout.message.partition(": `lookalike")[0]
        reason = f" (reason {rollout.reason})" if rollout.status == model_pb2.ROLLOUT_STATUS_FAILED else ""
        yield Text(f"{message}{reason}", style=STYLES.get(rollout.status, ""))
    yield Text(next_step(rollout), style="dim")


def next_step(rollout: model_pb2.Rollout) -> str:
    """What an operator can do now."""
    version = rollout.model.removeprefix("models/")
    match rollout.status:
        case model_pb2.ROLLOUT_STATUS_WAITING:
            return "next: lookalike rollout promote goes on, lookalike rollout cancel ends it"
        case model_pb2.ROLLOUT_STATUS_PAUSED:
            return "it goes on by itself; lookalike status shows which part does not answer"
        case model_pb2.ROLLOUT_STATUS_FAILED | model_pb2.ROLLOUT_STATUS_CANCELLED:
            again = "lookalike rollback" if rollout.rollback else f"lookalike rollout start {version}"
            return f"{rollout.previous_model} serves as before; {again} begins again"
        case model_pb2.ROLLOUT_STATUS_SUCCEEDED if rollout.request.validate_only:
            return f"next: lookalike rollout start {version}"
        case model_pb2.ROLLOUT_STATUS_SUCCEEDED if rollout.HasField("retention_end"):
            before = rollout.previous_model.removeprefix("models/")
            return f"{rollout.model} serves; back: lookalike rollback, for good: lookalike models retire {before}"
        case model_pb2.ROLLOUT_STATUS_SUCCEEDED:
            return f"{rollout.model} was taken into service; lookalike models shows what serves now"
    if stage_of(rollout) == "switch":
        return "lookalike rollback undoes it afterwards"
    return "lookalike rollout cancel ends it; the serving version is not touched"
