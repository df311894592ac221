"""What was measured of a new version, as tables: the gate, shadow answers, the canary."""

from __future__ import annotations

from collections.abc import Sequence

from lookalike.v1 import model_pb2
from rich.console import Group, RenderableType
from rich.text import Text

from services.cli.console import table

# categories shown beside those that failed: the ones that lost most
CATEGORIES = 6
QUANTILES = ("5%", "25%", "50%", "75%", "95%")


def gate_summary(rollout: model_pb2.Rollout) -> str:
    """`recall@1 72.1% > 86.8%`."""
    if not rollout.gate.rows:
        return ""
    overall = rollout.gate.rows[0]
    return f"recall@1 {_change(overall.recall_1_before, overall.recall_1_after)}"


def gate_table(rollout: model_pb2.Rollout) -> RenderableType | None:
    """None before the gate has measured."""
    gate = rollout.gate
    if not gate.rows:
        return None
    latency = f"{gate.latency_before_ms:.0f} > {gate.latency_after_ms:.0f} ms, {gate.latency_budget_ms:.0f} allowed"
    verdict = "passed" if gate.passed else "failed"
    categories = shown_categories(gate.rows)
    left_out = len(gate.rows) - 1 - len(categories)
    title = Text.assemble(
        ("gate    ", "bold"),
        (verdict, "green" if gate.passed else "red"),
        f"; a picture takes {latency}; searches: {gate.golden_set}",
    )
    compatible = any(row.HasField("recall_1_compatible") for row in gate.rows)
    columns = [
        "category",
        "queries>",
        "recall@1>",
        "recall@5>",
        "nDCG@10>",
        *(["new on old>"] if compatible else []),
        "",
    ]
    shown = table(*columns)
    for row in (gate.rows[0], *categories):
        cells: list[Text | str] = [
            Text(row.category or "all"),
            f"{row.queries:,}",
            _change(row.recall_1_before, row.recall_1_after),
            _change(row.recall_5_before, row.recall_5_after),
            _change(row.ndcg_10_before, row.ndcg_10_after),
        ]
        if compatible:
            cells.append(f"{row.recall_1_compatible:.1%}" if row.HasField("recall_1_compatible") else "")
        cells.append("fell too far" if row.failed else "")
        shown.add_row(*cells, style="red" if row.failed else None)
    rest = [Text(f"{left_out} more categories passed; --json has them", style="dim")] if left_out else []
    return Group(title, shown, *rest)


def shown_categories(rows: Sequence[model_pb2.GateRow]) -> list[model_pb2.GateRow]:
    """Those that failed, and some of the others; the greatest loss of recall@1 first."""
    by_loss = sorted(rows[1:], key=lambda row: (not row.failed, row.recall_1_after - row.recall_1_before))
    failed = sum(row.failed for row in by_loss)
    return by_loss[: max(failed, CATEGORIES)]


def shadow_table(rollout: model_pb2.Rollout) -> RenderableType | None:
    """None before a search was asked of both versions."""
    if not rollout.HasField("shadow"):
        return None
    shadow = rollout.shadow
    facts = (
        f"{_counted(shadow.queries, shadow.failed)}; of ten products both find {shadow.overlap_10:.0%}; "
        f"{shadow.latency_p50_ms:.0f} ms p50, {shadow.latency_p95_ms:.0f} ms p95"
    )
    shown = table("similarity of the first", *(f"{quantile}>" for quantile in QUANTILES))
    for name, values in (
        (rollout.previous_model, shadow.similarity_before),
        (rollout.model, shadow.similarity_after),
    ):
        shown.add_row(name, *(f"{value:.2f}" for value in values))
    return Group(Text.assemble(("shadow  ", "bold"), facts), shown)


def canary_table(rollout: model_pb2.Rollout) -> RenderableType | None:
    """None before the new version has answered anybody."""
    if not rollout.HasField("canary"):
        return None
    canary = rollout.canary
    shown = table("answers by", "p50>", "p95>")
    for name, p50_ms, p95_ms in (
        (rollout.previous_model, canary.serving_latency_p50_ms, canary.serving_latency_p95_ms),
        (rollout.model, canary.latency_p50_ms, canary.latency_p95_ms),
    ):
        # without a search that was computed there is no latency
        shown.add_row(name, *(f"{value:.0f} ms" if value else "" for value in (p50_ms, p95_ms)))
    return Group(Text.assemble(("canary  ", "bold"), _counted(canary.queries, canary.failed)), shown)


def _counted(queries: int, failed: int) -> str:
    return f"{queries:,} searches, {failed:,} failed" if failed else f"{queries:,} searches, none failed"


def _change(before: float, after: float) -> str:
    return f"{before:.1%} > {after:.1%}"
