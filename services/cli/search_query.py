"""What a person asks for on the command line, as a request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike.v1 import catalog_pb2, search_pb2

from services.common.errors import InvalidArgument

_WEIGHTED = re.compile(r"(?P<what>.+):(?P<weight>[+-]?(\d+(\.\d*)?|\.\d+))")


@dataclass(frozen=True, slots=True)
class QueryPart:
    """A picture's bytes, or the name of a stored product, and its weight."""

    label: str
    picture: bytes = b""
    product: str = ""
    weight: float = 1.0


def parse_part(text: str) -> QueryPart:
    """`IMAGE`, `products/ID`, or one of them with `:WEIGHT`. Raises InvalidArgument."""
    weighted = _WEIGHTED.fullmatch(text)
    if weighted and not Path(text).exists():
        part = parse_part(weighted["what"])
        return QueryPart(part.label, part.picture, part.product, float(weighted["weight"]))
    path = Path(text)
    if text.startswith("products/") and not path.is_file():
        return QueryPart(text, product=text)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InvalidArgument(f"{text} {what}; give a picture's path, or products/ID", reason="QUERY_NOT_FOUND")
    return QueryPart(path.name, picture=path.read_bytes())


def parse_region(text: str) -> catalog_pb2.BoundingBox:
    """`left,top,right,bottom` in fractions of the picture. Raises InvalidArgument."""
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError:
        message = f"{text!r} is not left,top,right,bottom, for example 0.1,0.2,0.9,0.8"
        raise InvalidArgument(message, reason="IMAGE_REGION_INVALID", field="region") from None
    return catalog_pb2.BoundingBox(left=left, top=top, right=right, bottom=bottom)


def make_request(
    parts: Sequence[QueryPart],
    *,
    filter_text: str = "",
    top: int = 10,
    facets: Sequence[str] = (),
    min_similarity: float = 0.0,
    region: catalog_pb2.BoundingBox | None = None,
) -> search_pb2.SearchProductsRequest:
    """Args:
    region: part of each picture to look at.
    """
    if region is not None and not any(part.picture for part in parts):
        raise InvalidArgument("a region needs a picture to be a part of", field="region")
    queries = [
        search_pb2.Query(image=part.picture, region=region, weight=part.weight)
        if not part.product
        else search_pb2.Query(product=part.product, weight=part.weight)
        for part in parts
    ]
    return search_pb2.SearchProductsRequest(
        queries=queries, filter=filter_text, facets=facets, page_size=top, min_similarity=min_similarity
    )
