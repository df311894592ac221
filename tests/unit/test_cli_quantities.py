"""Shares and durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.quantities import parse_duration, parse_share, share, span
from services.common.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10%", 0.1), ("0.1", 0.1), (".5", 0.5), ("0", 0), ("1", 1), ("100%", 1), ("12.5 %", 0.125), (" 5% ", 0.05)],
)
def test_a_share_is_read(text: str, expected: float) -> None:
    assert parse_share("--canary", text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "%", "ten", "-1%", "1e1%", "nan", "inf", "0,1", "5%%", "0x1", "1.%"])
def test_what_is_no_share_is_told(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"--canary: .* is no share; write 10% or 0.1"):
        parse_share("--canary", text)


@pytest.mark.parametrize(
    ("text", "said"),
    [("10", "write 10% or 0.1$"), ("101%", "more than everything$"), ("1000", "more than everything$")],
)
def test_a_share_of_more_than_everything_is_told(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        parse_share("--canary", text)


@given(st.integers(0, 10_000))
def test_a_share_is_read_as_it_is_written(hundredths: int) -> None:
    value = hundredths / 10_000
    assert parse_share("x", share(value)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("250ms", 0.25), ("30s", 30), ("1.5 m", 90), ("24h", 86_400), ("7d", 604_800), (" .5s ", 0.5)],
)
def test_a_duration_is_read(text: str, expected: float) -> None:
    assert parse_duration("--retention", text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1w", "1h30", "1e3s", "nans", "1 hour"])
def test_what_is_no_duration_is_told(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"--retention: .* is no duration; write 250ms"):
        parse_duration("--retention", text)


def test_a_duration_of_nothing_is_told() -> None:
    with pytest.raises(InvalidArgument, match="no time at all"):
        parse_duration("--retention", "0h")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0.00 s"),
        (9.99, "9.99 s"),
        (9.999, "10 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (245, "4:05"),
        (3600, "1 h"),
        (3599.7, "1 h"),
        (3845, "1:04:05"),
        (86_400, "24 h"),
        (7 * 86_400, "7 d"),
        (2.5 * 86_400, "2.5 d"),
    ],
)
def test_a_span_is_written_for_people(seconds: float, expected: str) -> None:
    assert span(seconds) == expected
