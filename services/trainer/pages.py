"""Pages of a list of runs. A token names the last run shown, so that runs made meanwhile move nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from services.common.errors import InvalidArgument
from services.trainer.runs import RunState

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


def page_of(states: Sequence[RunState], size: int, token: str) -> tuple[list[RunState], str]:
    """One page, and the token of the next one or "".

    Args:
        states: the newest first.
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
        states = [state for state in states if _place(state) < last]
    page = list(states[:size])
    return page, _token(page[-1]) if len(states) > size else ""


def _place(state: RunState) -> tuple[str, str]:
    return state.created, state.id


def _token(state: RunState) -> str:
    return base64.urlsafe_b64encode(json.dumps(_place(state)).encode()).decode()


def _parse(token: str) -> tuple[str, str]:
    try:
        created, run = json.loads(base64.urlsafe_b64decode(token.encode("ascii")))
        if isinstance(created, str) and isinstance(run, str):
            return created, run
    except (ValueError, TypeError, RecursionError):
        pass
    raise InvalidArgument(
        "the page token is not one that this service gave", reason="PAGE_TOKEN_INVALID", field="page_token"
    )
