"""Pages of a list. A token names the place of the last item shown, so that items made meanwhile move nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from services.common.errors import InvalidArgument

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

T = TypeVar("T")
# compared in this order; numbers must be padded
Place = tuple[str, str]


def page_of(items: Sequence[T], place: Callable[[T], Place], size: int, token: str) -> tuple[list[T], str]:
    """One page, and the token of the next one or "".

    Args:
        items: by their places, the greatest first.
        size: 1 to 1,000; 0 means 50.

    Raises InvalidArgument (INVALID_ARGUMENT, PAGE_TOKEN_INVALID).
    """
    if not 0 <= size <= MAX_PAGE_SIZE:
        raise InvalidArgument(
            f"page_size is {size}; it may be 1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}", field="page_size"
        )
    size = size or DEFAULT_PAGE_SIZE
    if token:
        last = _parse(token)
        items = [item for item in items if place(item) < last]
    page = list(items[:size])
    return page, _token(place(page[-1])) if len(items) > size else ""


def _token(place: Place) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _parse(token: str) -> Place:
    try:
        first, second = json.loads(base64.urlsafe_b64decode(token.encode("ascii")))
        if isinstance(first, str) and isinstance(second, str):
            return first, second
    except (ValueError, TypeError, RecursionError):
        pass
    raise InvalidArgument(
        "the page token is not one that this service gave", reason="PAGE_TOKEN_INVALID", field="page_token"
    )
