"""A folder of pictures as a catalogue: the sub-folder is the category, the file name the product."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from services.cli.entries import Entries, Entry, Picture
from services.common.errors import InvalidArgument
from services.common.products import MAX_CHARS, Product
from services.photographs.slugs import slugify, with_suffix
from services.photographs.sources import IMAGE_SUFFIXES


def read_folder(folder: Path) -> Entries:
    """One product a picture, in the order of the paths. Hidden files are passed over.

    The first of several files whose names make the same id gets it; the others get a hash of their path appended.

    Raises:
        InvalidArgument: there is no picture.
    """
    entries: list[Entry] = []
    taken: set[str] = set()
    renamed = ignored = 0
    for path in _files(folder):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            ignored += 1
            continue
        relative = path.relative_to(folder)
        product_id = slugify(path.stem)
        if product_id in taken:
            product_id = with_suffix(product_id, relative.as_posix())
            renamed += 1
        taken.add(product_id)
        category = "" if relative.parent == Path() else _readable(relative.parent.as_posix())
        product = Product(
            id=product_id,
            title=_title(path.stem)[: MAX_CHARS["title"]],
            category=category[: MAX_CHARS["category"]],
        )
        entries.append(Entry(product, (Picture(path),)))
    if not entries:
        raise InvalidArgument(
            f"no picture in {folder}; looked for {', '.join(sorted(IMAGE_SUFFIXES))}", reason="IMPORT_SOURCE_EMPTY"
        )
    notes = []
    if ignored:
        notes.append(f"passed over {_files_of(ignored, 'another kind')}")
    if renamed:
        notes.append(f"{_files_of(renamed, 'a name that is there already')} got a longer id")
    return Entries(entries, notes=notes)


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(root, name)


def _title(stem: str) -> str:
    words = re.sub(r"[-_\s]+", " ", _readable(stem)).strip()
    return words[:1].upper() + words[1:]


def _readable(name: str) -> str:
    """A file name as text that can be sent: undecodable bytes are replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _files_of(count: int, what: str) -> str:
    return f"{count} {'file' if count == 1 else 'files'} of {what}"
