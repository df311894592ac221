"""Photographs in folders: a picture's folder is its product, the folders above that are the category.

    shoes/trail-runner/1.jpg              product trail-runner, category shoes
    train/shoes/trail-runner/1.jpg        the same, for training
    validation/shoes/trail-runner/2.jpg
    test/shoes/trail-runner/3.jpg
    catalogue/shoes/trail-runner/0.jpg    the shop's own picture of it

The second form holds when there is a folder `train`; then there is nothing beside these four. The category may be left
out or have several levels. Hidden files, and files that are no pictures by their names, are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from services.common.errors import InvalidArgument
from services.photographs.photograph import Photograph
from services.photographs.slugs import slugify, with_suffix
from services.photographs.sources import IMAGE_SUFFIXES, SPLITS, invalid, split_named

CATALOGUE = "catalogue"

# a picture, its product's folder below the root or split, its split, whether it is the shop's own
_Entry = tuple[Path, PurePosixPath, str, bool]


def read_folder(folder: Path) -> list[Photograph]:
    """Labelled photographs, in the order of their paths.

    Products are named by their folders, as ids; two of one name in different categories get a hash of their
    path appended, each of them, so that an id does not depend on what else was read first.

    Raises InvalidArgument: DATA_INVALID, DATA_EMPTY.
    """
    entries = list(_entries(folder))
    if not entries:
        raise _empty(folder)
    ids = _product_ids({product for _, product, _, _ in entries})
    return [
        Photograph(path, ids[product], _category(product), split, catalogue)
        for path, product, split, catalogue in entries
    ]


def unlabelled(folder: Path) -> list[Photograph]:
    """Every picture in a folder and below, without a product. Raises InvalidArgument: DATA_INVALID, DATA_EMPTY."""
    found = [Photograph(path, product="") for path in _pictures(folder)]
    if not found:
        raise _empty(folder)
    return found


def _entries(folder: Path) -> Iterator[_Entry]:
    _check_folder(folder)
    tops = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not any(top.name == "train" for top in tops):
        yield from _products(folder, "", catalogue=False)
        return
    known = {*SPLITS, "val", CATALOGUE}
    for top in tops:
        if top.name not in known:
            raise invalid(
                f"{folder} has a folder 'train', so {top.name!r} must be one of {', '.join((*SPLITS, CATALOGUE))}"
            )
        if top.name == CATALOGUE:
            yield from _products(top, "train", catalogue=True)
        else:
            yield from _products(top, split_named(top.name), catalogue=False)
    loose = next((path for path in sorted(folder.iterdir()) if _is_picture(path) and path.is_file()), None)
    if loose is not None:
        raise invalid(f"{loose} is in no folder of a product")


def _products(root: Path, split: str, *, catalogue: bool) -> Iterator[_Entry]:
    for path in _pictures(root):
        product = PurePosixPath(path.parent.relative_to(root).as_posix())
        if product == PurePosixPath():
            raise invalid(f"{path} is in no folder of a product")
        yield path, product, split, catalogue


def _pictures(folder: Path) -> Iterator[Path]:
    _check_folder(folder)
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(files) if _is_picture(Path(name)))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _product_ids(products: set[PurePosixPath]) -> dict[PurePosixPath, str]:
    by_slug: dict[str, list[PurePosixPath]] = {}
    for product in products:
        by_slug.setdefault(slugify(product.name), []).append(product)
    return {
        product: slug if len(same) == 1 else with_suffix(slug, str(product))
        for slug, same in by_slug.items()
        for product in same
    }


def _category(product: PurePosixPath) -> str:
    """Of the folders above; bytes that are no UTF-8 are replaced."""
    above = "" if product.parent == PurePosixPath() else str(product.parent)
    return above.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise invalid(f"{folder} is not a folder")


def _empty(folder: Path) -> InvalidArgument:
    return InvalidArgument(
        f"no picture in {folder}; looked for {', '.join(sorted(IMAGE_SUFFIXES))}", reason="DATA_EMPTY"
    )
