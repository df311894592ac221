"""What the sources of photographs share. Each gives a list[Photograph]; `checks` finds the files that are broken."""

from __future__ import annotations

from collections.abc import Callable

from services.common.errors import InvalidArgument

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".avif", ".heic", ".heif"})
SPLITS = ("train", "validation", "test")

# pictures done since the last call, and how many there will be in all
Progress = Callable[[int, int], None]


def no_progress(done: int, total: int) -> None:
    """For callers that do not watch."""


def invalid(message: str) -> InvalidArgument:
    """The source is not what it should be: DATA_INVALID."""
    return InvalidArgument(message, reason="DATA_INVALID")


def split_named(text: str) -> str:
    """ "train", "validation" or "test"; "val" is short for the second. Raises InvalidArgument (DATA_INVALID)."""
    name = "validation" if text == "val" else text
    if name not in SPLITS:
        raise invalid(f"split {text[:80]!r} is none of {', '.join(SPLITS)}")
    return name
