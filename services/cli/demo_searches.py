"""What the demo asks for, and what must come out of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike.v1 import search_pb2

from services.cli import demo_catalogue, grocery_catalogue
from services.cli.demo_alter import alter
from services.cli.failures import Failure
from services.cli.search_query import QueryPart
from services.photographs.grocery import VALIDATION, read_photographs

TOP = 5

# The answer, or why there was none, to what is wrong with it; empty when nothing is.
Check = Callable[[search_pb2.SearchProductsResponse | Failure], str]


@dataclass(frozen=True, slots=True)
class DemoSearch:
    heading: str
    query: QueryPart
    check: Check
    filter_text: str = ""


@dataclass(frozen=True, slots=True)
class DemoShop:
    """A catalogue to import, the four searches, and photographs to measure with: (path, product id)."""

    manifest: Path
    credit: str
    searches: Sequence[DemoSearch]
    photographs: Sequence[tuple[Path, str]] = ()


def drawn_shop(folder: Path, progress: demo_catalogue.Progress) -> DemoShop:
    """The shop of drawings; draws them the first time."""
    manifest = demo_catalogue.write_demo_catalogue(folder, progress)
    rows = _rows(manifest)
    picture = {row["id"]: (manifest.parent / row["image"]).read_bytes() for row in rows}
    cheap = {row["id"] for row in rows if row["category"] == "clothing" and row["price"] < 60}
    backpack, shoe = alter(picture["backpack"], seed=2), alter(picture["running-shoe"], seed=1)
    return DemoShop(
        manifest,
        demo_catalogue.CREDIT,
        [
            DemoSearch(
                "A backpack: turned, cropped, in other light, on another background",
                QueryPart("altered picture", backpack),
                finds("products/backpack", within=1),
            ),
            DemoSearch(
                "A running shoe, altered too, among clothing below 60 EUR",
                QueryPart("altered picture", shoe),
                only(cheap),
                'category = "clothing" AND price < 60',
            ),
            DemoSearch(
                "What looks like the red apple that is in the shop",
                QueryPart("products/red-apple", product="products/red-apple"),
                neighbours("products/red-apple"),
            ),
            _truncated(backpack),
        ],
    )


def grocery_shop(data_set: Path, folder: Path) -> DemoShop:
    """The shop of the Grocery Store Dataset; asked with photographs of its validation split."""
    manifest = grocery_catalogue.write_grocery_catalogue(data_set, folder / "products.jsonl")
    rows = _rows(manifest)
    photographs = read_photographs(data_set, VALIDATION)
    first = {photo.product: photo.path for photo in reversed(photographs)}
    juices = {row["id"] for row in rows if row["category"] == "Juice"}
    return DemoShop(
        manifest,
        grocery_catalogue.CREDIT,
        [
            DemoSearch(
                "A shopper's photograph of bananas",
                QueryPart(first["banana"].name, first["banana"].read_bytes()),
                finds("products/banana", within=TOP),
            ),
            DemoSearch(
                "A shopper's photograph of a juice, among juices",
                QueryPart(first["bravo-orange-juice"].name, first["bravo-orange-juice"].read_bytes()),
                only(juices),
                'category = "Juice"',
            ),
            DemoSearch(
                "What looks like the lemon that is in the shop",
                QueryPart("products/lemon", product="products/lemon"),
                neighbours("products/lemon"),
            ),
            _truncated(first["banana"].read_bytes()),
        ],
        [(photo.path, photo.product) for photo in photographs],
    )


def finds(name: str, within: int) -> Check:
    """The product is among the first `within`."""

    def check(answer: search_pb2.SearchProductsResponse | Failure) -> str:
        if isinstance(answer, Failure):
            return str(answer)
        return "" if name in _names(answer)[:within] else f"{name} is not among the first {within}"

    return check


def only(ids: set[str]) -> Check:
    """All that match the filter, up to TOP of them, and nothing else."""

    def check(answer: search_pb2.SearchProductsResponse | Failure) -> str:
        if isinstance(answer, Failure):
            return str(answer)
        names = _names(answer)
        wrong = [name for name in names if name.removeprefix("products/") not in ids]
        if wrong:
            return f"{wrong[0]} does not match the filter"
        wanted = min(TOP, len(ids))
        return "" if len(names) == wanted else f"{len(names)} results, and there are {wanted}"

    return check


def neighbours(name: str) -> Check:
    """TOP other products."""

    def check(answer: search_pb2.SearchProductsResponse | Failure) -> str:
        if isinstance(answer, Failure):
            return str(answer)
        names = _names(answer)
        if name in names:
            return f"{name} found itself"
        return "" if len(names) == TOP else f"{len(names)} results, and there are {TOP}"

    return check


def refused(reason: str) -> Check:
    """An error with this reason."""

    def check(answer: search_pb2.SearchProductsResponse | Failure) -> str:
        if not isinstance(answer, Failure):
            return "was answered"
        return "" if answer.reason == reason else f"was refused for another reason: {answer}"

    return check


def _truncated(picture: bytes) -> DemoSearch:
    half = picture[: len(picture) // 2]
    return DemoSearch("A file that broke off half-way", QueryPart("half a file", half), refused("IMAGE_TRUNCATED"))


def _names(answer: search_pb2.SearchProductsResponse) -> list[str]:
    return [result.product.name for result in answer.results]


def _rows(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
