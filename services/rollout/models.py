"""The encoder versions there are, and what each of them is to the system now."""

from __future__ import annotations

from collections.abc import Collection as Container
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.errors import FailedPrecondition
from services.common.manifest import Manifest
from services.export.publish import verify, versions_in

if TYPE_CHECKING:
    from services.backends.index_schema import Collection

NO_FILES = "its files are missing"


class ModelState(StrEnum):
    AVAILABLE = "available"
    ROLLING_OUT = "rolling out"
    SERVING = "serving"
    RETAINED = "retained"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Args:
    problem: what is wrong with its files; "": nothing. A version that serves stays SERVING with one.
    manifest: None when it can't be read.
    collection: name of its collection; "": none. rows: images in it.
    loaded: the encoder's server has it in memory.
    """

    version: int
    state: ModelState
    problem: str = ""
    manifest: Manifest | None = None
    collection: str = ""
    rows: int = 0
    loaded: bool = False


def describe_models(
    models: Path,
    collections: Sequence[Collection],
    rows: Mapping[int, int],
    loaded: Container[int],
    *,
    serving: int,
    mirror: int,
    rolling_out: int,
) -> list[ModelInfo]:
    """Every version that there are files or a collection of, the newest first. Blocks while it reads the files.

    Args:
        models: folder of the encoder versions.
        rows: images in a version's collection.
        loaded: versions that the encoder's server has in memory.
        serving, mirror, rolling_out: versions; 0: none.
    """
    files = {version: look(models / str(version)) for version in versions_in(models)}
    return models_of(files, collections, rows, loaded, serving=serving, mirror=mirror, rolling_out=rolling_out)


def look(folder: Path) -> Manifest | str:
    """The manifest of a version whose files are intact, else what is wrong with them."""
    try:
        return verify(folder)
    except FailedPrecondition as error:
        return error.message


def models_of(
    files: Mapping[int, Manifest | str],
    collections: Sequence[Collection],
    rows: Mapping[int, int],
    loaded: Container[int],
    *,
    serving: int,
    mirror: int,
    rolling_out: int,
) -> list[ModelInfo]:
    """The same, of files that were looked at."""
    names = {each.model_version: each.name for each in collections}
    made = []
    for version in sorted({*files, *names}, reverse=True):
        found = files.get(version, NO_FILES)
        problem = found if isinstance(found, str) else ""
        # what a version is to the system comes before how its files are: whoever serves with damaged files does serve
        if version == serving:
            state = ModelState.SERVING
        elif version == rolling_out:
            state = ModelState.ROLLING_OUT
        elif version == mirror:
            state = ModelState.RETAINED
        else:
            state = ModelState.DAMAGED if problem else ModelState.AVAILABLE
        made.append(
            ModelInfo(
                version,
                state,
                problem,
                None if isinstance(found, str) else found,
                names.get(version, ""),
                rows.get(version, 0),
                version in loaded,
            )
        )
    return made
