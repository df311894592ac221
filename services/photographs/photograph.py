"""Photographs of which the product is known: what an encoder is trained on and measured with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.common.products import Region

# a picture file, and the part of it that is looked at
Place = tuple[Path, Region | None]


@dataclass(frozen=True, slots=True)
class Photograph:
    """One picture file.

    Args:
        product: id of the product that it shows; "" when that is not known (unlabelled).
        category: of the product, "" when it has none.
        split: "train", "validation" or "test" when the source says so, else "".
        catalogue: whether it is the shop's own clean picture of the product, not a shopper's photograph.
        region: the part of the picture that shows the product; None: all of it.
    """

    path: Path
    product: str
    category: str = ""
    split: str = ""
    catalogue: bool = False
    region: Region | None = None

    @property
    def place(self) -> Place:
        """Equal for photographs that show the same pixels of the same file, whatever is said of them."""
        return self.path, self.region


@dataclass(frozen=True, slots=True)
class Splits:
    """What is trained on, what early stopping looks at, and what is measured at the end; `test` may be empty."""

    train: Sequence[Photograph]
    validation: Sequence[Photograph]
    test: Sequence[Photograph] = ()
