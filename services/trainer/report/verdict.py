"""One sentence: is the trained encoder better than the one before, by how much, and is that more than chance?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from services.trainer.report import formats
from services.trainer.report.contents import Protocol, Report

METRIC = "recall@1"
# of a normal distribution, two-sided: differences by chance are larger once in twenty
_Z = 1.96


class Kind(StrEnum):
    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "unclear"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    kind: Kind
    headline: str
    detail: str


def verdict(report: Report) -> Verdict:
    """By recall@1 of the first protocol, in the precision that is served."""
    protocol = next(iter(report.protocols), None)
    after = protocol.after(report.served).get(METRIC) if protocol else None
    if protocol is None or after is None or not math.isfinite(after) or protocol.queries < 1:
        return Verdict(Kind.UNKNOWN, "Not measured", "This run has no recall@1 to judge it by.")
    precision = "INT8" if protocol.after(report.served) is protocol.int8 else "FP32"
    found = (
        f"The right product is found first for {formats.percent(after)} of {formats.plural(protocol.queries, 'query')}"
    )
    basis = f"{protocol.name}, {precision}."
    before = protocol.before.get(METRIC)
    change = formats.difference(after, before)
    if change is None or before is None:
        return Verdict(
            Kind.UNKNOWN, f"{formats.percent(after)} recall@1, nothing to compare it with", f"{found}. {basis}"
        )
    judged, margin = judged_change(protocol, after, before)
    amount = f"{formats.points(change)} points of recall@1"
    if abs(judged) <= margin:
        kind, headline = Kind.UNCLEAR, f"No clear difference from {report.previous}: {amount}"
    elif judged > 0:
        kind, headline = Kind.BETTER, f"Better than {report.previous}: {amount}"
    else:
        kind, headline = Kind.WORSE, f"Worse than {report.previous}: {amount}"
    chance = f"chance alone can make {formats.decimal(100 * margin, 1)} points"
    moved = ""
    if protocol.gained is not None and protocol.lost is not None:
        moved = f" {formats.count(protocol.gained)} newly right, {formats.count(protocol.lost)} newly wrong."
    return Verdict(kind, headline, f"{found}, {formats.percent(before)} before; {chance}.{moved} {basis}")


def judged_change(protocol: Protocol, after: float, before: float) -> tuple[float, float]:
    """The change of a share, drawn towards 0 as few queries demand, and how much of a change chance alone can make.

    With `gained` and `lost` by the interval for paired proportions of Agresti and Min (2005), else as if the queries
    had been different ones, by that of Agresti and Caffo (2000), which is wider. Neither has width 0.
    """
    queries = protocol.queries + 2
    if protocol.gained is not None and protocol.lost is not None:
        moved, net = protocol.gained + protocol.lost + 1, protocol.gained - protocol.lost
        return net / queries, _Z * math.sqrt(moved - net**2 / queries) / queries
    after, before = ((share * protocol.queries + 1) / queries for share in (after, before))
    return after - before, _Z * math.sqrt((after * (1 - after) + before * (1 - before)) / queries)
