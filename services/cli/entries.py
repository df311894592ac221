"""What is to be imported: products with the paths of their pictures, and what could not be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.common.products import Product


@dataclass(frozen=True, slots=True)
class Picture:
    """A file, and the line of the manifest that names it, from 1; None when it comes from a folder."""

    path: Path
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One product to import: its fields, without images, and its pictures, the main one first."""

    product: Product
    pictures: tuple[Picture, ...]

    @property
    def line(self) -> int | None:
        """Where the manifest first names the product."""
        return self.pictures[0].line if self.pictures else None


@dataclass(frozen=True, slots=True)
class Reject:
    """What was not imported, and why. `reason` is UPPER_SNAKE; `field` names the column or field at fault."""

    reason: str
    message: str
    id: str = ""
    line: int | None = None
    file: str = ""
    field: str = ""


@dataclass(frozen=True, slots=True)
class Entries:
    """Args:
    notes: what a person should know about how the source was read; one sentence each.
    """

    entries: Sequence[Entry]
    rejects: Sequence[Reject] = ()
    notes: Sequence[str] = ()

    @property
    def picture_count(self) -> int:
        return sum(len(entry.pictures) for entry in self.entries)
