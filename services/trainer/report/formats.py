"""Numbers as the page shows them. What is missing or not finite is a dash."""

from __future__ import annotations

import math
from collections.abc import Callable

Format = Callable[[float | None], str]

MISSING = "–"
_NARROW_SPACE = "\u202f"


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def percent(share: float | None, digits: int = 1) -> str:
    """0.861 is "86.1 %", with a space that does not break."""
    return f"{100 * share:.{digits}f}{_NARROW_SPACE}%" if share is not None and _finite(share) else MISSING


def points(difference: float | None, digits: int = 1) -> str:
    """A difference of shares: 0.0312 is "+3.1"."""
    if difference is None or not _finite(difference):
        return MISSING
    text = f"{abs(100 * difference):.{digits}f}"
    if not float(text):
        return "0." + "0" * digits if digits else "0"
    return ("+" if difference > 0 else "\u2212") + text


def difference(after: float | None, before: float | None) -> float | None:
    """None when either is missing or not finite."""
    if after is None or before is None or not _finite(after) or not _finite(before):
        return None
    return after - before


def decimal(value: float | None, digits: int = 2) -> str:
    return f"{value:,.{digits}f}".replace(",", _NARROW_SPACE) if value is not None and _finite(value) else MISSING


def significant(value: float | None, digits: int = 3, padded: bool = False) -> str:
    """For losses and rates, whose size is not known: "3.2", "0.0123", "1e-04"; padded with zeros: "3.20"."""
    if value is None or not _finite(value):
        return MISSING
    return f"{value:#.{digits}g}".removesuffix(".") if padded else f"{value:.{digits}g}"


def count(value: int | None) -> str:
    """Thousands apart: "2 640"."""
    return f"{value:,}".replace(",", _NARROW_SPACE) if value is not None else MISSING


def size(byte_count: int | None) -> str:
    """In decimal units: "6.2 MB"."""
    if byte_count is None:
        return MISSING
    value = float(byte_count)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.{0 if unit == 'B' else 1}f}{_NARROW_SPACE}{unit}"
        value /= 1000
    return f"{value:.1f}{_NARROW_SPACE}GB"


def plural(number: int, word: str) -> str:
    """plural(1, "query") is "1 query", plural(2, "query") "2 queries"."""
    many = word[:-1] + "ies" if word.endswith("y") else word + "s"
    return f"{count(number)} {word if number == 1 else many}"
