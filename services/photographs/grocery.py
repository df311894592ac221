"""The Grocery Store Dataset (Klasson, Zhang, Kjellström, WACV 2019): smartphone photographs and iconic images.

A product is a fine class, its category the coarse class. The iconic image of a product is the shop's own picture; the
splits are the published files. The pictures stay where they are.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from services.common.errors import InvalidArgument
from services.photographs.photograph import Photograph
from services.photographs.slugs import slugify
from services.photographs.sources import invalid

CLASSES, TRAIN, VALIDATION, TEST = "classes.csv", "train.txt", "val.txt", "test.txt"
SPLIT_OF_FILE = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}


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


def is_grocery(folder: Path) -> bool:
    """Whether the folder looks like the data set."""
    return all((folder / name).is_file() for name in (CLASSES, TRAIN, VALIDATION))


def read_classes(folder: Path) -> list[GroceryClass]:
    """The products. Raises InvalidArgument (DATA_SET_INVALID) when `folder` does not hold the data set."""
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


def read_photographs(folder: Path, file: str) -> list[Photograph]:
    """Those that `TRAIN`, `VALIDATION` or `TEST` names, in the order of the file.

    Raises InvalidArgument (DATA_INVALID) with the line at fault.
    """
    classes = {grocery.number: grocery for grocery in read_classes(folder)}
    root = folder.resolve()
    photographs = []
    for number, line in enumerate((folder / file).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            path, fine, _ = (part.strip() for part in line.split(","))
            product = classes[int(fine)]
        except (ValueError, KeyError):
            raise invalid(f"{folder / file}, line {number} is not: path, fine label, coarse label") from None
        photographs.append(Photograph(root / path, product.id, product.category, SPLIT_OF_FILE[file]))
    return photographs


def read_grocery(folder: Path) -> list[Photograph]:
    """All photographs, and the iconic images, which belong to the training split.

    Raises InvalidArgument: DATA_SET_INVALID, DATA_INVALID.
    """
    iconic = [Photograph(c.iconic, c.id, c.category, "train", catalogue=True) for c in read_classes(folder)]
    files = [file for file in (TRAIN, VALIDATION, TEST) if (folder / file).is_file()]
    return [*iconic, *(photograph for file in files for photograph in read_photographs(folder, file))]
