"""How a rollout looks on the screen."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from services.backends.live_samples import Sample
from services.cli.rollout_view import RolloutView
from services.cli.rollout_watch import told
from services.rollout.controller import Standing
from services.rollout.convert import to_rollout
from services.rollout.record import Gate, GateRow, Options, Progress, Rollout, Stage, Status

ALL = GateRow("", 1200, (0.72, 0.868), (0.8, 0.9), (0.7, 0.8))
TIMES = {"verify": 0.42, "load": 2.1, "gate": 31.2}


def rollout(**changes: object) -> Rollout:
    return Rollout("r1", 2, 1, Options(shadow=0.05, canary=0.1)).but(**changes)


def lines(record: Rollout, width: int = 120, **standing: object) -> list[str]:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(RolloutView(to_rollout(Standing(record, **standing))))  # type: ignore[arg-type]
    assert isinstance(console.file, StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def stages(record: Rollout, **standing: object) -> list[str]:
    """The first two words of each stage's line."""
    shown = lines(record, **standing)[2:]
    return [" ".join(line.split()[:2]) for line in shown[: shown.index("")]]


def test_a_bar_says_how_far_it_is() -> None:
    shown = lines(
        rollout(stage=Stage.BACKFILL, stage_s=TIMES, gate=Gate(True, "set", (ALL,), (10, 12), 250)),
        width=80,
        progress=Progress(12_400, 20_000, 412.3, 18.4, 3),
    )
    assert shown[0] == "models/1 > models/2 running rollouts/r1"
    assert shown[2:6] == [
        "✓ verify 0.42 s",
        "✓ load 2.10 s",
        "✓ gate 31 s recall@1 72.0% > 86.8%",
        "● backfill ━━━━━━━━━╸ 12,400/20,000 412 rows/s ETA 18 s",
    ]
    assert shown[6:12] == [
        "· drain backlog 3",
        "· shadow 5% of searches",
        "· canary 10% of callers",
        "· check",
        "· switch",
        "· retention for 24 h",
    ]
    assert shown[12:14] == ["", "lookalike rollout cancel ends it; the serving version is not touched"]


def test_only_what_was_asked_for_is_shown() -> None:
    plain = ["verify", "load", "gate", "backfill", "drain", "check", "switch", "retention"]
    assert [line.split()[1] for line in stages(rollout(options=Options()))] == plain
    assert [line.split()[1] for line in stages(rollout(options=Options(validate_only=True)))] == plain[:3]
    assert [line.split()[1] for line in stages(rollout(rollback=True, stage=Stage.CHECK))] == plain[5:]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"status": Status.FAILED}, ["✓ verify", "✗ load", "· gate"]),
        ({"status": Status.CANCELLED}, ["✓ verify", "✗ load", "· gate"]),
        ({"status": Status.PAUSED}, ["✓ verify", "● load", "· gate"]),
        ({"status": Status.SUCCEEDED, "stage": Stage.GATE}, ["✓ verify", "✓ load", "✓ gate"]),
    ],
)
def test_each_stage_has_its_sign(changes: dict[str, object], expected: list[str]) -> None:
    record = rollout(stage=Stage.LOAD, options=Options(validate_only=True)).but(**changes)
    assert stages(record) == expected


def test_after_the_switch_the_retention_is_at_work_until_it_is_over() -> None:
    kept = rollout(stage=Stage.RETENTION, status=Status.SUCCEEDED, freeze_s=0.312, options=Options())
    shown = lines(kept, retention_end=1.8e9)
    assert "✓ switch writes waited 0.31 s" in shown
    assert "● retention until 2027-01-15 08:00 UTC" in shown
    assert shown[-1].startswith("models/2 serves; back: lookalike rollback")
    assert stages(kept.but(stage=Stage.RETIRED))[-1] == "✓ retention"


def test_it_says_what_it_waits_for_and_what_comes_next() -> None:
    shown = lines(rollout(stage=Stage.CANARY, status=Status.WAITING, message="canary at 10%: `lookalike x` goes on"))
    assert shown[-2:] == ["canary at 10%", "next: lookalike rollout promote goes on, lookalike rollout cancel ends it"]


def test_it_says_why_it_failed_and_that_nothing_happened() -> None:
    shown = lines(rollout(stage=Stage.LOAD, status=Status.FAILED, reason="GOLDEN_MISMATCH", message="cosine 0.2"))
    assert shown[-2:] == [
        "cosine 0.2 (reason GOLDEN_MISMATCH)",
        "models/1 serves as before; lookalike rollout start 2 begins again",
    ]


def test_a_rollback_is_repeated_as_one() -> None:
    shown = lines(rollout(rollback=True, stage=Stage.CHECK, status=Status.FAILED, message="m", version=1, previous=2))
    assert shown[0].startswith("rollback models/2 > models/1 failed")
    assert shown[-1] == "models/2 serves as before; lookalike rollback begins again"


def test_products_without_originals_are_named_some_of_them() -> None:
    shown = lines(rollout(stage=Stage.BACKFILL, missing=tuple("abcdefg")))
    assert "originals are missing of a, b, c, d, e and 2 more" in shown


def test_the_gate_shows_what_failed_and_what_lost_most() -> None:
    fine = [GateRow(f"fine {n}", 20, (0.5, 0.5 + n / 100), (0.8, 0.9), (0.7, 0.8)) for n in range(9)]
    poor = GateRow("shoes", 120, (0.9, 0.7), (0.95, 0.9), (0.9, 0.8), failed=True)
    gate = Gate(False, "a set", (ALL, *fine, poor), (10.4, 12), 250)
    shown = lines(rollout(stage=Stage.GATE, status=Status.FAILED, gate=gate))
    at = shown.index("gate failed; a picture takes 10 > 12 ms, 250 allowed; searches: a set")
    assert shown[at + 1 : at + 5] == [
        "category queries recall@1 recall@5 nDCG@10",
        "all 1,200 72.0% > 86.8% 80.0% > 90.0% 70.0% > 80.0%",
        "shoes 120 90.0% > 70.0% 95.0% > 90.0% 90.0% > 80.0% fell too far",
        "fine 0 20 50.0% > 50.0% 80.0% > 90.0% 70.0% > 80.0%",
    ]
    assert "4 more categories passed; --json has them" in shown


def test_all_that_failed_is_shown_however_much() -> None:
    poor = [GateRow(f"poor {n}", 20, (0.9, 0.1), (0.9, 0.1), (0.9, 0.1), failed=True) for n in range(30)]
    shown = lines(rollout(gate=Gate(False, "", (ALL, *poor), (1, 1), 1)))
    assert sum(line.endswith("fell too far") for line in shown) == 30


def test_a_compatible_gate_has_one_column_more() -> None:
    gate = Gate(True, "", (GateRow("", 9, (0.5, 0.6), (0.5, 0.6), (0.5, 0.6), compatible=0.55),), (1, 1), 1, True)
    shown = lines(rollout(gate=gate))
    assert "category queries recall@1 recall@5 nDCG@10 new on old" in shown
    assert any(line.startswith("all 9") and line.endswith("55.0%") for line in shown)


def test_shadow_and_canary_are_set_against_the_version_before() -> None:
    samples = (
        Sample("shadow", 20, 0.9, 0.8, 0.6),
        Sample("canary", 30),
        Sample("canary", 0, failed=True),
        Sample("serving", 10),
    )
    shown = lines(rollout(stage=Stage.CANARY), samples=samples)
    assert "shadow 1 searches, none failed; of ten products both find 60%; 20 ms p50, 20 ms p95" in shown
    assert "models/1 0.80 0.80 0.80 0.80 0.80" in shown
    assert "models/2 0.90 0.90 0.90 0.90 0.90" in shown
    at = shown.index("canary 2 searches, 1 failed")
    assert shown[at + 1 : at + 4] == ["answers by p50 p95", "models/1 10 ms 10 ms", "models/2 30 ms 30 ms"]


def test_names_of_others_are_no_markup() -> None:
    gate = Gate(True, "[bold]set", (ALL, GateRow("[red]x", 1, (0, 0), (0, 0), (0, 0))), (1, 1), 1)
    shown = "\n".join(lines(rollout(gate=gate, message="[/] m", missing=("[b]",))))
    assert all(part in shown for part in ("[bold]set", "[red]x", "[/] m", "[b]"))


@pytest.mark.parametrize(
    ("record", "progress", "line"),
    [
        (rollout(stage=Stage.LOAD), Progress(), "load"),
        (rollout(stage=Stage.BACKFILL), Progress(39, 100), "backfill 30%"),
        (rollout(stage=Stage.BACKFILL), Progress(100, 100), "backfill 100%"),
        (rollout(stage=Stage.CHECK), Progress(100, 100), "check"),
        (rollout(stage=Stage.DRAIN, status=Status.PAUSED, message="no Redis"), Progress(), "drain: paused: no Redis"),
        (rollout(stage=Stage.RETENTION, status=Status.SUCCEEDED), Progress(), "retention: succeeded"),
    ],
)
def test_without_a_terminal_a_change_is_a_line(record: Rollout, progress: Progress, line: str) -> None:
    assert told(to_rollout(Standing(record, progress))) == line
