"""A picture of searches: one row each, the query at the left, its best results beside it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageOps

from services.cli.lettering import lettering

RESULTS_A_ROW = 5

# The sheet is drawn at twice the size it is meant to be seen at; all lengths are in its pixels.
TILE = 300
GAP = 28
MARGIN = 56
QUERY_GAP = 76
PADDING = 14
RADIUS = 18
CAPTION_HEIGHT = 96
HEADING_HEIGHT = 74
FOOTER_HEIGHT = 60
LINE = 30

PAPER = "#f6f6f4"
CARD = "#ffffff"
EDGE = "#e2e2de"
INK = "#1f2328"
FAINT = "#6b7078"
ACCENT = "#0a7d5a"


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture with two lines below it.

    Args:
        picture: encoded bytes; None when there is none.
        badge: a short text beside the title, for example the similarity.
    """

    picture: bytes | None
    title: str
    subtitle: str = ""
    badge: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One search. Only the first RESULTS_A_ROW results are shown; `note` stands in for them when there are none."""

    heading: str
    query: Tile
    results: Sequence[Tile]
    note: str = ""


def contact_sheet(rows: Sequence[Row], footer: str = "") -> Image.Image:
    """Draws the sheet, RGB. Its width is fixed, its height grows with the rows."""
    row_height = HEADING_HEIGHT + TILE + CAPTION_HEIGHT + GAP
    width = 2 * MARGIN + TILE + QUERY_GAP + RESULTS_A_ROW * TILE + (RESULTS_A_ROW - 1) * GAP
    height = MARGIN + len(rows) * row_height + (FOOTER_HEIGHT if footer else MARGIN // 2)
    sheet = Image.new("RGB", (width, height), PAPER)
    for number, row in enumerate(rows):
        _draw_row(sheet, row, MARGIN + number * row_height)
    if footer:
        _write(ImageDraw.Draw(sheet), footer, 20, (MARGIN, height - FOOTER_HEIGHT), FAINT, width - 2 * MARGIN)
    return sheet


def as_png(sheet: Image.Image) -> bytes:
    """The sheet at the size it is meant for, smoothed."""
    out = io.BytesIO()
    half = sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS)
    half.save(out, "PNG", optimize=True)
    return out.getvalue()


def _draw_row(sheet: Image.Image, row: Row, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    _write(draw, row.heading, 32, (MARGIN, top), INK, sheet.width - 2 * MARGIN)
    top += HEADING_HEIGHT
    _draw_tile(sheet, row.query, MARGIN, top, ACCENT)
    left = MARGIN + TILE + QUERY_GAP
    _draw_arrow(draw, left - QUERY_GAP // 2, top + TILE // 2)
    for tile in row.results[:RESULTS_A_ROW]:
        _draw_tile(sheet, tile, left, top, EDGE)
        left += TILE + GAP
    if not row.results:
        room = sheet.width - MARGIN - left
        _write(draw, row.note or "nothing found", 28, (left, top + TILE // 2), FAINT, room, anchor="lm")


def _draw_tile(sheet: Image.Image, tile: Tile, left: int, top: int, edge: str) -> None:
    draw = ImageDraw.Draw(sheet)
    box = (left, top, left + TILE, top + TILE)
    draw.rounded_rectangle(box, RADIUS, fill=CARD, outline=edge, width=5 if edge == ACCENT else 3)
    picture = _thumbnail(tile.picture)
    if picture is None:
        _write(draw, "no picture", 24, (left + TILE // 2, top + TILE // 2), FAINT, TILE, anchor="mm")
    else:
        at = (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2)
        sheet.paste(picture, at, _rounded(picture.size))
    below = top + TILE + 14
    badge = _draw_badge(draw, tile.badge, left + TILE, below - 2) + 8 if tile.badge else 0
    _write(draw, tile.title, 26, (left + 4, below), INK, TILE - 8 - badge)
    _write(draw, tile.subtitle, 21, (left + 4, below + LINE + 6), FAINT, TILE - 8)


def _draw_badge(draw: ImageDraw.ImageDraw, text: str, right: int, top: int) -> int:
    """A pill that ends at `right`; returns its width."""
    width = round(lettering(text, 23).width) + 22
    draw.rounded_rectangle((right - width, top, right, top + 34), 17, fill=ACCENT)
    _write(draw, text, 23, (right - width // 2, top + 17), CARD, width, anchor="mm")
    return width


def _draw_arrow(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    draw.line([(x - 11, y - 20), (x + 9, y), (x - 11, y + 20)], fill=FAINT, width=5, joint="curve")


def _thumbnail(content: bytes | None) -> Image.Image | None:
    """At most the inside of a tile, upright, transparency over white; None when it can't be shown."""
    if not content:
        return None
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.draft("RGB", (2 * TILE, 2 * TILE))
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except Exception:  # what a broken file raises is not to be foreseen, and a gap on the sheet says enough
        return None
    white = Image.new("RGBA", upright.size, "white")
    flat = Image.alpha_composite(white, upright).convert("RGB")
    inside = TILE - 2 * PADDING
    return ImageOps.contain(flat, (inside, inside), Image.Resampling.LANCZOS)


def _rounded(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), RADIUS // 2, fill=255)
    return mask


def _write(
    draw: ImageDraw.ImageDraw, text: str, size: int, at: tuple[int, int], color: str, width: int, anchor: str = "la"
) -> None:
    line = lettering(text, size, width)
    draw.text(at, line.text, fill=color, font=line.font, anchor=anchor)
