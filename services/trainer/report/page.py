"""Writes a report as one HTML file: pictures, charts, style and script inside, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic.fields import FieldInfo

from services.trainer.recipe import Group, Recipe
from services.trainer.report import formats
from services.trainer.report.contents import GroupRecall, Protocol, Report, Robustness
from services.trainer.report.curves import best_epoch, epoch_charts, size_chart
from services.trainer.report.thumbnails import Thumbnails
from services.trainer.report.verdict import verdict
from services.trainer.runs import write_whole

FOLDER = Path(__file__).parent
# so many of each are shown, to keep the page at a few megabytes
MAX_WORST, MAX_FOUND, MAX_CONFUSIONS, MAX_AUGMENTED, MAX_VARIANTS = 20, 3, 20, 12, 7
MAX_BROKEN = 200

# in their order, as they are shown; others follow under their own names
_METRICS = {"recall@1": "recall@1", "recall@5": "recall@5", "recall@10": "recall@10", "map@r": "mAP@R", "mrr": "MRR"}
_COARSE = "coarse "


@dataclass(frozen=True, slots=True)
class Section:
    """Args:
    present: whether the report has values for it.
    """

    id: str
    title: str
    present: bool


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the recipe's table; `changed`: is not the default."""

    group: str
    name: str
    value: str
    default: str
    meaning: str
    changed: bool


def write_report(path: Path, report: Report) -> None:
    """Replaces the file whole. Raises ValueError when an array of a picture is not uint8 [H, W, 3], and OSError."""
    write_whole(path, render(report))


def render(report: Report) -> str:
    """The page. What the report says is text wherever it stands in the page, never markup."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": formats.percent,
        "points": formats.points,
        "decimal": formats.decimal,
        "significant": formats.significant,
        "count": formats.count,
        "size": formats.size,
        "thumbnail": Thumbnails().uri,
    }
    environment.globals |= {"difference": formats.difference, "plural": formats.plural, "direction": direction}
    script = (FOLDER / "sorting.js").read_text(encoding="utf-8")
    text: str = environment.get_template("page.html.j2").render(
        report=report,
        verdict=verdict(report),
        sections={section.id: section for section in sections(report)},
        style=Markup((FOLDER / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        # with its hash allowed and nothing else, a script that came in with some name would not run
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        charts=epoch_charts(report.epochs),
        best=best_epoch(report.epochs),
        rates=list(dict.fromkeys(name for epoch in report.epochs for name in epoch.rates)),
        comparisons=[(protocol, metric_rows(protocol)) for protocol in report.protocols],
        categories=worst_first(report.categories),
        products=worst_first(report.products),
        means=mean_recalls(report.robustness) if report.robustness else None,
        severities=max((len(c.after) for c in report.robustness.corruptions), default=0) if report.robustness else 0,
        size_chart=size_chart(report.sizes),
        settings=settings(report.recipe) if report.recipe else [],
        recipe_text=report.recipe_text or (report.recipe.model_dump_json(indent=2) if report.recipe else ""),
        limits={
            "worst": MAX_WORST,
            "found": MAX_FOUND,
            "confusions": MAX_CONFUSIONS,
            "augmented": MAX_AUGMENTED,
            "variants": MAX_VARIANTS,
            "broken": MAX_BROKEN,
        },
    )
    # a file name need not be UTF-8; what of it can't be written is a question mark
    return text.encode("utf-8", "replace").decode("utf-8")


def sections(report: Report) -> list[Section]:
    """In the order of the page."""
    return [
        Section("comparison", "Before and after", bool(report.protocols)),
        Section("compatibility", "Compatibility", bool(report.compatibility)),
        Section("curves", "Curves", bool(epoch_charts(report.epochs))),
        Section("categories", "Change per category", bool(report.categories or report.products)),
        Section("worst", "Worst queries", bool(report.worst)),
        Section("confusions", "Nearest confusions", bool(report.confusions)),
        Section("robustness", "Robustness", report.robustness is not None and bool(report.robustness.corruptions)),
        Section("sizes", "Embedding size", bool(report.sizes)),
        Section("precisions", "Sizes and latencies", bool(report.precisions)),
        Section("data", "Data", bool(report.splits or report.broken)),
        Section("recipe", "Recipe", report.recipe is not None or bool(report.recipe_text)),
        Section("augmentation", "Augmentation", bool(report.augmented)),
        Section("epochs", "Epochs", bool(report.epochs)),
    ]


def metric_rows(protocol: Protocol) -> list[tuple[str, list[tuple[str, str]]]]:
    """(heading, [(what the row is called, its key)]): the same product first, then the same category."""
    keys = list(dict.fromkeys([*protocol.before, *protocol.fp32, *protocol.int8]))
    known = [key for key in _METRICS if key in keys or _COARSE + key in keys]
    others = [key for key in dict.fromkeys(key.removeprefix(_COARSE) for key in keys) if key not in known]
    blocks = []
    for heading, prefix in (("the same product (fine)", ""), ("the same category (coarse)", _COARSE)):
        rows = [(_METRICS.get(name, name), prefix + name) for name in [*known, *others] if prefix + name in keys]
        if rows:
            blocks.append((heading, rows))
    return blocks


def worst_first(groups: Iterable[GroupRecall]) -> list[GroupRecall]:
    """By change, the largest loss first, then by recall; those without a before come last."""

    def key(group: GroupRecall) -> tuple[float, float, str]:
        change = formats.difference(group.after, group.before)
        return (math.inf if change is None else change, group.after, group.name)

    return sorted(groups, key=key)


def mean_recalls(robustness: Robustness) -> Mapping[str, Any]:
    """Over all corruptions: "severities" (after, one for each), "after" and "before" (None when not measured)."""
    count = max((len(corruption.after) for corruption in robustness.corruptions), default=0)
    columns = [[c.after[place] for c in robustness.corruptions if place < len(c.after)] for place in range(count)]
    return {
        "severities": [_mean(column) for column in columns],
        "after": _mean([value for corruption in robustness.corruptions for value in corruption.after]),
        "before": _mean([value for corruption in robustness.corruptions for value in corruption.before]),
        "rows": [(_mean(c.after), _mean(c.before)) for c in robustness.corruptions],
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def settings(recipe: Recipe) -> list[Setting]:
    """Every setting of a recipe, with its default and what it means."""
    lines = []
    for name, field in type(recipe).model_fields.items():
        value = getattr(recipe, name)
        if isinstance(value, Group):
            for inner, inner_field in type(value).model_fields.items():
                lines.append(_setting(name, inner, getattr(value, inner), inner_field))
        elif name != "name":
            lines.append(_setting("", name, value, field))
    return lines


def _setting(group: str, name: str, value: Any, field: FieldInfo) -> Setting:
    default = field.get_default(call_default_factory=True)
    return Setting(group, name, _shown(value), _shown(default), field.description or "", value != default)


def _shown(value: Any) -> str:
    """As in the recipe, without quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return formats.MISSING if value is None or value == "" else str(value)


def direction(change: float | None, digits: int = 1) -> str:
    """Class of a change as it is shown: "up", "down", or "" when it is rounded to nothing."""
    text = formats.points(change, digits)
    return {"+": "up", "\u2212": "down"}.get(text[0], "")
