"""The Grocery Store Dataset as a catalogue that `lookalike import` reads.

A product's images are its iconic image and photographs of the training split.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from services.common.products import MAX_IMAGES
from services.photographs.grocery import TRAIN, read_classes, read_photographs

CREDIT = "Photographs: Grocery Store Dataset, Klasson, Zhang, Kjellström, WACV 2019"


def write_grocery_catalogue(folder: Path, manifest: Path) -> Path:
    """Writes a JSONL manifest that `lookalike import` reads; a product has at most MAX_IMAGES images, evenly spread.

    Args:
        folder: of the data set. manifest: where to write; its folder is made.
    """
    by_product: dict[str, list[Path]] = {}
    for photograph in read_photographs(folder, TRAIN):
        by_product.setdefault(photograph.product, []).append(photograph.path)
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
