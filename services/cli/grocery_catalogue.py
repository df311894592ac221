"""The Grocery Store Dataset (Klasson, Zhang, Kjellström, WACV 2019) as a catalogue and queries.

A product is a fine class: its iconic image, its description, and photographs of the training split as further images.
What a shopper takes, the queries, are the photographs of the validation split. The pictures stay where they are.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.cli.slugs import slugify
from services.common.errors import InvalidArgument
from services.common.products import MAX_IMAGES

CLASSES, TRAIN, VALIDATION = "classes.csv", "train.txt", "val.txt"
CREDIT = "Photographs: Grocery Store Dataset, Klasson, Zhang, Kjellström, WACV 2019"


@dataclass(frozen=True, slots=True)
class GroceryClass:
    """One line of classes.csv; paths are absolute."""

    id: str
    number: int
    title: str
    category: str
    group: str
    iconic: Path
    description: str


@dataclass(frozen=True, slots=True)
class Photograph:
    """One line of train.txt or val.txt, and the product that it shows."""

    path: Path
    product_id: str


def read_classes(folder: Path) -> list[GroceryClass]:
    """The products. Raises InvalidArgument when `folder` does not hold the data set."""
    missing = [name for name in (CLASSES, TRAIN, VALIDATION) if not (folder / name).is_file()]
    if missing:
        raise InvalidArgument(
            f"{folder} is not the Grocery Store Dataset: it has no {', '.join(missing)}", reason="DATA_SET_INVALID"
        )
    with (folder / CLASSES).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))[1:]
    root = folder.resolve()
    classes = []
    for name, number, coarse, _, iconic, description in rows:
        text = (root / description.strip().lstrip("/")).read_text(encoding="utf-8", errors="replace")
        path = root / iconic.strip().lstrip("/")
        group = path.relative_to(root).parts[1]
        title, category = name.replace("-", " "), coarse.replace("-", " ")
        classes.append(GroceryClass(slugify(name), int(number), title, category, group, path, " ".join(text.split())))
    return classes


def read_photographs(folder: Path, split: str) -> list[Photograph]:
    """Those of `TRAIN` or `VALIDATION`, in the order of the file."""
    ids = {grocery.number: grocery.id for grocery in read_classes(folder)}
    root = folder.resolve()
    photographs = []
    for line in (folder / split).read_text(encoding="utf-8").splitlines():
        if line.strip():
            path, fine, _ = (part.strip() for part in line.split(","))
            photographs.append(Photograph(root / path, ids[int(fine)]))
    return photographs


def write_grocery_catalogue(folder: Path, manifest: Path) -> Path:
    """Writes a JSONL manifest that `lookalike import` reads; a product has at most MAX_IMAGES images, evenly spread.

    Args:
        folder: of the data set. manifest: where to write; its folder is made.
    """
    by_product: dict[str, list[Path]] = {}
    for photograph in read_photographs(folder, TRAIN):
        by_product.setdefault(photograph.product_id, []).append(photograph.path)
    lines = []
    for grocery in read_classes(folder):
        photographs = spread(by_product.get(grocery.id, []), MAX_IMAGES - 1)
        row = {
            "id": grocery.id,
            "image": [str(grocery.iconic), *map(str, photographs)],
            "title": grocery.title,
            "description": grocery.description,
            "category": grocery.category,
            "attributes": {"group": grocery.group},
        }
        lines.append(json.dumps(row, ensure_ascii=False))
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def spread(paths: list[Path], most: int) -> list[Path]:
    """At most so many of them, at even distances: neighbours in a sequence of photographs look alike."""
    if len(paths) <= most:
        return paths
    return [paths[i] for i in np.linspace(0, len(paths) - 1, most).round().astype(int)]
