"""Text for a picture: a font that can draw it, and no wider than there is room."""

from __future__ import annotations

import string
import unicodedata
from dataclasses import dataclass

from PIL import ImageFont

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

# what the font inside Pillow has; it looks best, and is there on every machine
BUILT_IN = frozenset(string.printable + "©«°±´·»‘’“”…‹›")
# looked for among the machine's fonts when a text needs more
WIDER_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")
ELLIPSIS = "…"


@dataclass(frozen=True, slots=True)
class Lettering:
    """One line of text and its font."""

    text: str
    font: Font

    @property
    def width(self) -> float:
        """In pixels."""
        return self.font.getlength(self.text)


def lettering(text: str, size: int, width: float = float("inf")) -> Lettering:
    """The text in one line; its end is cut off when it is wider than `width` pixels.

    Where no font of the machine has its letters, accents are left out and what remains becomes question marks.
    """
    text = " ".join(text.split())
    font = ImageFont.load_default(size)
    if not BUILT_IN.issuperset(text):
        wider = _wider_font(size)
        text, font = (text, wider) if wider else (_plain(text), font)
    line = Lettering(text, font)
    while line.text and line.width > width:
        text = text[:-1].rstrip()
        line = Lettering(text + ELLIPSIS if text else "", font)
    return line


def _wider_font(size: int) -> Font | None:
    for name in WIDER_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return None


def _plain(text: str) -> str:
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter in BUILT_IN else "?" for letter in letters)
