"""Text on the contact sheet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli import lettering as letters
from services.cli.lettering import lettering


@given(text=st.text(max_size=60), width=st.integers(0, 400))
def test_no_line_is_wider_than_its_room(text: str, width: int) -> None:
    line = lettering(text, 20, width)
    assert line.width <= width
    assert "\n" not in line.text


def test_what_fits_is_left_as_it_is() -> None:
    assert lettering("Bravo  Apple\nJuice", 20, 400).text == "Bravo Apple Juice"
    assert lettering("Bravo Apple Juice", 20, 80).text.endswith("…")


def test_letters_that_no_font_has_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "WIDER_FONTS", ("no such font.ttf",))
    assert lettering("Kjellström 靴", 20).text == "Kjellstrom ?"
