"""What an evaluation gave, as tables for people and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from services.cli.console import stdout, table
from services.evaluation.compatibility import Compatibility
from services.evaluation.protocols import CATALOGUE, Protocol
from services.evaluation.results import COARSE, Result
from services.evaluation.robustness import Robustness
from services.evaluation.sizes import Size

# rows of the overview, as far as they were measured
METRICS = ("recall@1", "recall@5", "recall@10", "map@r", "mrr")


def print_results(results: Sequence[Result]) -> None:
    """All protocols side by side, fine above coarse."""
    for number, result in enumerate(results, start=1):
        protocol = result.protocol
        left_out = f", {protocol.left_out} left out" if protocol.left_out else ""
        stdout().print(f"{number}: {_title(protocol)}{left_out}", highlight=False)
    shown = table("", *(f"{number}>" for number in range(1, len(results) + 1)))
    for prefix in ("", COARSE):
        for name in METRICS:
            values = [result.overall.get(prefix + name) for result in results]
            if any(value is not None for value in values):
                shown.add_row(prefix + name, *("" if value is None else f"{value:.1%}" for value in values))
    stdout().print(shown)


def print_categories(result: Result) -> None:
    """The worst first."""
    if not result.per_category:
        stdout().print("the photographs have no categories", highlight=False)
        return
    names = [name for name in METRICS if name in result.overall]
    shown = table("category", "queries>", *(f"{name}>" for name in names), title=_title(result.protocol))
    for category, metrics in sorted(result.per_category.items(), key=lambda item: (item[1]["recall@1"], item[0])):
        shown.add_row(category, f"{metrics['queries']:.0f}", *(f"{metrics[name]:.1%}" for name in names))
    stdout().print(shown)


def print_compatibilities(found: Sequence[Compatibility], older: str, newer: str) -> None:
    """All protocols side by side, numbered as in `print_results`."""
    stdout().print(f"who embeds the query / who the gallery; old: {older}, new: {newer}", highlight=False)
    shown = table("", *(f"{number}>" for number in range(1, len(found) + 1)))
    for name in dict.fromkeys(name for one in found for name in one.metrics):
        values = [one.metrics.get(name) for one in found]
        shown.add_row(name, *("" if value is None else f"{value:.1%}" for value in values))
    stdout().print(shown)


def print_sizes(sizes: Sequence[Size]) -> None:
    shown = table("vectors", "D>", "bytes each>", "recall@1>")
    for size in sizes:
        shown.add_row(size.name, str(size.dimension), str(size.bytes), f"{size.recall:.1%}")
    stdout().print(shown)


def print_robustness(robustness: Robustness) -> None:
    severities = list(next(iter(robustness.recall.values())))
    shown = table("recall@1 of corrupted photographs", *(f"{severity}>" for severity in severities), "drop, points>")
    drops = robustness.drops
    for name, by_severity in robustness.recall.items():
        recalls = (f"{by_severity[severity]:.1%}" for severity in severities)
        shown.add_row(name.replace("_", " "), *recalls, f"{drops[name] * 100:.1f}")
    stdout().print(shown)
    stdout().print(
        f"On average {robustness.drop * 100:.1f} points below {robustness.clean:.1%} of the {robustness.queries} "
        "photographs as they are.",
        highlight=False,
    )


def as_plain(
    results: Sequence[Result],
    sizes: Sequence[Size],
    robustness: Robustness | None,
    compatible: Sequence[Compatibility] = (),
) -> dict[str, Any]:
    """For JSON; what was not asked for is left out.

    Args:
        compatible: of each protocol, or empty.
    """
    plain: dict[str, Any] = {"protocols": [_plain_result(result) for result in results]}
    for protocol, one in zip(plain["protocols"], compatible, strict=False):
        protocol["compatibility"] = one.metrics
    if sizes:
        plain["sizes"] = [asdict(size) for size in sizes]
    if robustness:
        plain["robustness"] = asdict(robustness) | {"drops": robustness.drops, "drop": robustness.drop}
    return plain


def _plain_result(result: Result) -> dict[str, Any]:
    protocol = result.protocol
    return {
        "name": protocol.name,
        "leave_one_out": protocol.leave_one_out,
        "queries": len(protocol.queries),
        "gallery": len(protocol.gallery),
        "left_out": protocol.left_out,
        "metrics": dict(result.overall),
        "per_category": {name: dict(metrics) for name, metrics in result.per_category.items()},
        "per_product": {name: dict(metrics) for name, metrics in result.per_product.items()},
        "confusions": [asdict(confusion) for confusion in result.confusions],
    }


def _title(protocol: Protocol) -> str:
    asked = f"{len(protocol.queries)} photographs"
    if protocol.leave_one_out:
        return f"{asked}, each among the others"
    if protocol.name == CATALOGUE:
        return f"{asked} among {len(protocol.gallery)} catalogue pictures, one a product"
    return f"{asked} among {len(protocol.gallery)} photographs"
