"""The contact sheet, by its pixels."""

from __future__ import annotations

import io

from PIL import Image

from services.cli import contact_sheet as sheets
from services.cli.contact_sheet import Row, Tile, as_png, contact_sheet


def coloured(color: str, size: tuple[int, int] = (64, 64)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "PNG")
    return out.getvalue()


def tile_centre(column: int) -> tuple[int, int]:
    """Of the query (0) or a result (1..) in the first row."""
    left = sheets.MARGIN
    if column:
        left += sheets.TILE + sheets.QUERY_GAP + (column - 1) * (sheets.TILE + sheets.GAP)
    return left + sheets.TILE // 2, sheets.MARGIN + sheets.HEADING_HEIGHT + sheets.TILE // 2


def test_query_and_results_stand_side_by_side() -> None:
    results = [Tile(coloured(c), c, f"products/{c}", "0.50") for c in ("lime", "blue", "red", "black", "aqua", "white")]
    sheet = contact_sheet([Row("Colours", Tile(coloured("fuchsia"), "Query"), results)], "credit")
    assert sheet.getpixel(tile_centre(0)) == (255, 0, 255)
    assert sheet.getpixel(tile_centre(1)) == (0, 255, 0)
    assert sheet.getpixel(tile_centre(5)) == (0, 255, 255)
    reread = Image.open(io.BytesIO(as_png(sheet)))
    assert reread.size == (sheet.width // 2, sheet.height // 2)


def test_rows_make_it_higher_not_wider() -> None:
    row = Row("Nothing", Tile(None, "Query"), [], "refused")
    one, two = contact_sheet([row]), contact_sheet([row, row])
    assert one.width == two.width
    assert two.height > one.height


def test_broken_and_missing_pictures_leave_a_gap_and_shapes_are_kept() -> None:
    results = [Tile(b"junk", "Broken"), Tile(None, "Missing"), Tile(coloured("red", (400, 40)), "Wide")]
    sheet = contact_sheet([Row("Odd", Tile(coloured("red")[:60], "Cut off"), results)])
    assert sheet.getpixel(tile_centre(3)) == (255, 0, 0)
    x, y = tile_centre(3)
    assert sheet.getpixel((x, y - sheets.TILE // 3)) == (255, 255, 255)


def test_long_titles_end_before_their_neighbour() -> None:
    long, short = Tile(None, "word " * 60, "products/" + "x" * 128), Tile(None, "")
    sheet = contact_sheet([Row("Long " * 200, short, [long, short])])
    left = tile_centre(1)[0] - sheets.TILE // 2
    top = sheets.MARGIN + sheets.HEADING_HEIGHT + sheets.TILE + 4
    box = (left + sheets.TILE, top, left + sheets.TILE + sheets.GAP, top + sheets.CAPTION_HEIGHT - 8)
    assert sheet.crop(box).getcolors() == [((box[2] - box[0]) * (box[3] - box[1]), (246, 246, 244))]
