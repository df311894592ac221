"""A CSV or JSONL file as a catalogue: one picture a row, several rows of one id are several pictures of one product."""

from __future__ import annotations

import csv
import difflib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from services.cli.entries import Entries, Entry, Picture, Reject
from services.common.errors import InvalidArgument, LookalikeError
from services.common.products import Product, check_product

COLUMNS = (
    *("id", "image", "title", "description", "category", "brand", "colors", "sizes", "materials"),
    *("price", "currency", "in_stock"),
)
ATTRIBUTE = "attributes."
TRUE, FALSE = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0"})

# A row as it was read: line number from 1, and its columns; or what is wrong with it.
Row = tuple[int, Mapping[str, Any] | InvalidArgument]


def read_manifest(path: Path) -> Entries:
    """Products in the order of their first rows. Paths of images are relative to the manifest's folder.

    Raises:
        InvalidArgument: the file as a whole can't be read: not UTF-8, no rows, a column that is missing or unknown.
    """
    read = _read_jsonl if path.suffix.lower() in (".jsonl", ".ndjson") else _read_csv
    entries: dict[str, Entry] = {}
    rejects: list[Reject] = []
    empty = True
    try:
        for line, columns in read(path):
            empty = False
            try:
                if isinstance(columns, InvalidArgument):
                    raise columns
                entry = _entry(line, columns, path.parent)
                first = entries.get(entry.product.id)
                entries[entry.product.id] = _merged(first, entry) if first else entry
            except InvalidArgument as error:
                named = "" if isinstance(columns, InvalidArgument) else str(columns.get("id") or "")
                rejects.append(Reject(error.reason, error.message, named, line, field=error.field or ""))
    except UnicodeDecodeError as error:
        raise _source_error(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    if empty:
        raise InvalidArgument(f"{path} has no rows", reason="IMPORT_SOURCE_EMPTY")
    return Entries(list(entries.values()), rejects)


def _read_csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 1 << 27))
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        delimiter = max(",;\t", key=header.count)
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            names = [name.strip() for name in next(reader, [])]
            _check_header(path, names)
            line = reader.line_num + 1
            for cells in reader:
                if any(cells):
                    yield line, _named(names, cells)
                line = reader.line_num + 1
        except csv.Error as error:
            raise _source_error(f"{path}, line {reader.line_num}: {error}; is a quote missing?") from None


def _named(names: list[str], cells: list[str]) -> Mapping[str, Any] | InvalidArgument:
    if len(cells) > len(names):
        return _row_error(f"has {len(cells)} cells, and the header has {len(names)}; is a quote missing?")
    return {name: cell.strip() for name, cell in zip(names, cells, strict=False)}


def _check_header(path: Path, names: list[str]) -> None:
    for name in ("id", "image"):
        if name not in names:
            raise _source_error(f"{path} has no column {name!r}; it has {', '.join(map(repr, names)) or 'none'}")
    for name in names:
        _check_column(name, str(path))
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise _source_error(f"{path} has the column {doubled.pop()!r} twice")


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parsed(line)


def _parsed(line: str) -> Mapping[str, Any] | InvalidArgument:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _row_error(f"is not JSON: {error}")
    if not isinstance(row, dict):
        return _row_error("is not a JSON object")
    attributes = row.pop("attributes", None) or {}
    if not isinstance(attributes, dict):
        return _row_error("attributes is not an object", "attributes")
    row |= {ATTRIBUTE + str(key): value for key, value in attributes.items()}
    try:
        for name in row:
            _check_column(name, "the row")
    except InvalidArgument as error:
        return error
    return row


def _check_column(name: str, where: str) -> None:
    if name in COLUMNS or (name.startswith(ATTRIBUTE) and name != ATTRIBUTE):
        return
    near = difflib.get_close_matches(name.lower(), COLUMNS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(COLUMNS)}, attributes.KEY"
    raise InvalidArgument(f"{where} has an unknown column {name!r}; {hint}", reason="IMPORT_COLUMN_UNKNOWN", field=name)


def _entry(line: int, row: Mapping[str, Any], folder: Path) -> Entry:
    images = row.get("image") or ()
    files = [images] if isinstance(images, str) else images
    if not isinstance(files, list | tuple) or not all(isinstance(file, str) and file for file in files) or not files:
        raise _row_error("image is missing", "image")
    product = Product(
        id=_text(row, "id"),
        title=_text(row, "title"),
        description=_text(row, "description"),
        category=_text(row, "category"),
        brand=_text(row, "brand"),
        colors=_values(row, "colors"),
        sizes=_values(row, "sizes"),
        materials=_values(row, "materials"),
        currency=_text(row, "currency"),
        price=_price(row.get("price")),
        in_stock=_in_stock(row.get("in_stock")),
        attributes={
            name.removeprefix(ATTRIBUTE): text
            for name in row
            if name.startswith(ATTRIBUTE) and (text := _text(row, name))
        },
    )
    try:
        check_product(product)
    except LookalikeError as error:
        field = (error.field or "").removeprefix("product.")
        raise InvalidArgument(error.message, reason=error.reason, field="id" if field == "name" else field) from None
    return Entry(product, tuple(Picture(folder / file, line) for file in files))


def _merged(first: Entry, more: Entry) -> Entry:
    """The product of the first row with the pictures of both. A later row may leave fields empty, not contradict."""
    empty = Product(id=more.product.id)
    for field in fields(Product):
        theirs, ours = getattr(more.product, field.name), getattr(first.product, field.name)
        if theirs not in (getattr(empty, field.name), ours):
            raise InvalidArgument(
                f"{field.name} is not what line {first.line} says of the same product",
                reason="IMPORT_ROWS_DIFFER",
                field=field.name,
            )
    return replace(first, pictures=first.pictures + more.pictures)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise _row_error(f"{name} is not a text", name)


def _values(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list as JSON has it, or its values between | or ;"""
    value = row.get(name) or ()
    if isinstance(value, str):
        value = value.replace(";", "|").split("|")
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise _row_error(f"{name} is not a list of texts", name)
    return tuple(one.strip() for one in value if one.strip())


def _price(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (ValueError, TypeError):
        raise _row_error(f"price {value!r} is not a number such as 19.90", "price") from None


def _in_stock(value: Any) -> bool:
    text = "true" if value is None or value == "" else str(value).lower()
    if text not in TRUE | FALSE:
        raise _row_error(f"in_stock {value!r} is neither true nor false", "in_stock")
    return text in TRUE


def _row_error(message: str, field: str | None = None) -> InvalidArgument:
    return InvalidArgument(message, reason="IMPORT_ROW_INVALID", field=field)


def _source_error(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason="IMPORT_SOURCE_INVALID")
