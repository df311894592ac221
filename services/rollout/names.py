"""Names of the API: `models/{version}`, `rollouts/{rollout}`."""

from __future__ import annotations

import re

from services.common.errors import InvalidArgument

_MODEL = re.compile(r"models/([1-9][0-9]{0,8})")
_ROLLOUT = re.compile(r"rollouts/([A-Za-z0-9][A-Za-z0-9._-]{0,127})")


def model_name(version: int) -> str:
    """`models/{version}`; "" for none, 0."""
    return f"models/{version}" if version else ""


def model_version(name: str) -> int:
    """Raises InvalidArgument (MODEL_NAME_INVALID)."""
    found = _MODEL.fullmatch(name)
    if not found:
        raise InvalidArgument(
            f"{name!r} is no model's name; one is models/2", reason="MODEL_NAME_INVALID", field="name"
        )
    return int(found[1])


def rollout_name(rollout_id: str) -> str:
    return f"rollouts/{rollout_id}"


def rollout_id(name: str) -> str:
    """Raises InvalidArgument (ROLLOUT_NAME_INVALID)."""
    found = _ROLLOUT.fullmatch(name)
    if not found:
        raise InvalidArgument(
            f"{name!r} is no rollout's name; one is rollouts/ID", reason="ROLLOUT_NAME_INVALID", field="name"
        )
    return found[1]
