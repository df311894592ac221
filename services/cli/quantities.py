"""Shares and durations as people write them: `10%`, `250ms`, `24h`."""

from __future__ import annotations

import re

from services.common.errors import InvalidArgument

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+")
_DURATION = re.compile(rf"({_NUMBER.pattern})\s*(ms|s|m|h|d)")
_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_share(option: str, text: str) -> float:
    """`10%` or `0.1`; 0 to 1. Raises InvalidArgument, naming the option."""
    number = text.strip().removesuffix("%").rstrip()
    if not _NUMBER.fullmatch(number):
        raise InvalidArgument(f"{option}: {text!r} is no share; write 10% or 0.1")
    percent = text.strip().endswith("%")
    share = float(number) / 100 if percent else float(number)
    if share > 1:
        hint = "" if percent or share > 100 else f"; write {number}% or {share / 100:g}"
        raise InvalidArgument(f"{option}: {text} is more than everything{hint}")
    return share


def parse_duration(option: str, text: str) -> float:
    """`250ms`, `30s`, `15m`, `24h` or `7d`, in seconds; more than 0. Raises InvalidArgument, naming the option."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise InvalidArgument(f"{option}: {text!r} is no duration; write 250ms, 30s, 15m, 24h or 7d")
    seconds = float(found[1]) * _UNITS_S[found[3]]
    if not seconds:
        raise InvalidArgument(f"{option}: {text} is no time at all")
    return seconds


def share(value: float) -> str:
    """`10%`, `12.5%`."""
    return f"{value * 100:.4g}%"


def span(seconds: float) -> str:
    """How long something took or takes: `0.42 s`, `31 s`, `4:05`, `1:04:05`, `24 h`, `7 d`."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    if whole >= 2 * 86400:
        return f"{whole / 86400:.3g} d"
    if whole % 3600 == 0:
        return f"{whole // 3600} h"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
