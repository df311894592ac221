"""Which versions may answer before the catalogue is embedded again: by what their manifests say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from services.common.errors import FailedPrecondition
from services.rollout.verification import check_compatible


def manifest(version: int, sha256: str, compatible_with: int = 0, compatible_sha256: str = "") -> Any:
    return SimpleNamespace(
        version=version,
        served_variant=SimpleNamespace(sha256=sha256),
        compatible_with=compatible_with,
        compatible_sha256=compatible_sha256,
    )


SERVING = manifest(1, "a")


def test_one_that_was_trained_for_the_serving_file_is() -> None:
    check_compatible(manifest(2, "b", 1, "a"), SERVING)


@pytest.mark.parametrize(
    ("named", "said"),
    [((0, ""), "names none$"), ((3, "a"), "names version 3$"), ((1, "c"), "names version 1, of another file$")],
)
def test_others_are_not(named: tuple[int, str], said: str) -> None:
    with pytest.raises(FailedPrecondition, match=said) as refused:
        check_compatible(manifest(2, "b", *named), SERVING)
    assert refused.value.reason == "NOT_COMPATIBLE"
