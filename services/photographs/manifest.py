"""A CSV or JSONL file that names photographs, one a row.

Columns: `path` (relative to the file's own folder) and `product`; if wanted `split` (train, validation, test; empty:
not said), `category`, and `catalogue` (true for the shop's own pictures). Comma, semicolon or tab separate a CSV.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from services.common.errors import InvalidArgument
from services.photographs.photograph import Photograph
from services.photographs.sources import invalid, split_named

REQUIRED = ("path", "product")
COLUMNS = (*REQUIRED, "split", "category", "catalogue")
TRUE, FALSE = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0", ""})
JSONL_SUFFIXES = frozenset({".jsonl", ".ndjson"})
# so many errors are told at once
MAX_ERRORS = 5

# line number from 1, and the row's texts by column
_Row = tuple[int, Mapping[str, str]]


def read_manifest(path: Path) -> list[Photograph]:
    """Photographs in the order of their rows.

    Raises InvalidArgument: DATA_INVALID with the lines at fault, DATA_EMPTY.
    """
    read = _read_jsonl if path.suffix.lower() in JSONL_SUFFIXES else _read_csv
    photographs: list[Photograph] = []
    errors: list[str] = []
    rows = _Rows(path.parent)
    try:
        for line, row in read(path):
            try:
                photographs.append(rows.photograph(line, row))
            except InvalidArgument as error:
                errors.append(f"line {line}: {error.message}")
    except OSError as error:
        raise invalid(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise invalid(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    if errors:
        more = f", and {len(errors) - MAX_ERRORS} more" if len(errors) > MAX_ERRORS else ""
        raise invalid(f"{path}: {'; '.join(errors[:MAX_ERRORS])}{more}")
    if not photographs:
        raise InvalidArgument(f"{path} has no rows", reason="DATA_EMPTY")
    return photographs


class _Rows:
    """Rows become photographs; what contradicts an earlier row is refused."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._line_of_path: dict[Path, int] = {}
        self._category: dict[str, tuple[str, int]] = {}

    def photograph(self, line: int, row: Mapping[str, str]) -> Photograph:
        for name in REQUIRED:
            if not row.get(name):
                raise invalid(f"{name} is missing")
        path, product, category = self._folder / row["path"], row["product"], row.get("category", "")
        split = split_named(row["split"]) if row.get("split") else ""
        catalogue = row.get("catalogue", "").lower()
        if catalogue not in TRUE | FALSE:
            raise invalid(f"catalogue {catalogue[:80]!r} is neither true nor false")
        first = self._line_of_path.setdefault(path, line)
        if first != line:
            raise invalid(f"names the same file as line {first}")
        said, where = self._category.setdefault(product, (category, line))
        if category != said:
            raise invalid(f"product {product!r} has category {category!r}, and {said!r} in line {where}")
        return Photograph(path, product, category, split, catalogue in TRUE)


def _read_csv(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(",;\t", key=header.count), strict=True)
        try:
            names = [name.strip() for name in next(reader, [])]
            _check_columns(names, str(path))
            for name in REQUIRED:
                if name not in names:
                    raise invalid(f"{path} has no column {name!r}; it has {', '.join(map(repr, names)) or 'none'}")
            line = reader.line_num + 1
            for cells in reader:
                if len(cells) > len(names):
                    raise invalid(
                        f"{path}, line {line}: {len(cells)} cells, and the header has {len(names)}; is a quote missing?"
                    )
                if any(cells):
                    yield line, {name: cell.strip() for name, cell in zip(names, cells, strict=False)}
                line = reader.line_num + 1
        except csv.Error as error:
            raise invalid(f"{path}, line {reader.line_num}: {error}; is a quote missing?") from None


def _read_jsonl(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise invalid(f"{where} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise invalid(f"{where} is not a JSON object")
            _check_columns(list(row), where)
            yield number, {name: _text(value, f"{where}: {name}") for name, value in row.items()}


def _text(value: Any, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int):
        return str(value).strip()
    raise invalid(f"{where} is not a text")


def _check_columns(names: list[str], where: str) -> None:
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name.lower(), COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(COLUMNS)}"
            raise invalid(f"{where} has an unknown column {name[:80]!r}; {hint}")
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise invalid(f"{where} has the column {doubled!r} twice")
