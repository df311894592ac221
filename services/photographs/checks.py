"""What must be so before photographs are trained on: they can be read, and none is in two splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from services.common.errors import InvalidArgument, InvalidImage
from services.common.images import decode_image
from services.photographs.fingerprint import SIDE, Fingerprint, fingerprint, same_pictures
from services.photographs.photograph import Photograph, Place, Splits
from services.photographs.sources import Progress, no_progress

MAX_BROKEN_SHARE = 0.01
# how many files a message names
NAMED = 5


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """A picture that can't be used, and why, in one sentence."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Checked:
    """Args:
    photographs: those that can be decoded, in the order of the source.
    fingerprints: of each of them, by its `place`.
    broken: the others.
    """

    photographs: Sequence[Photograph]
    fingerprints: Mapping[Place, Fingerprint]
    broken: Sequence[BrokenFile]


def check_files(photographs: Sequence[Photograph], progress: Progress = no_progress) -> Checked:
    """Decodes every file once.

    Raises InvalidArgument: DATA_BROKEN when more than 1 % can't be read, DATA_EMPTY when there is nothing to read.
    """
    total = len(photographs)
    broken: list[BrokenFile] = []
    fingerprints: dict[Place, Fingerprint] = {}
    with ThreadPoolExecutor() as pool:
        for photograph, seen in zip(photographs, pool.map(_look, photographs), strict=True):
            if isinstance(seen, BrokenFile):
                broken.append(seen)
            else:
                fingerprints[photograph.place] = seen
            progress(1, total)
    if not total:
        raise InvalidArgument("there are no photographs", reason="DATA_EMPTY")
    if len(broken) > MAX_BROKEN_SHARE * total:
        raise InvalidArgument(
            f"{len(broken)} of {total} files can't be used, at most {MAX_BROKEN_SHARE:.0%} may be: "
            + _listed([f"{file.path}: {file.reason}" for file in broken]),
            reason="DATA_BROKEN",
        )
    kept = [photograph for photograph in photographs if photograph.place in fingerprints]
    return Checked(kept, fingerprints, broken)


def check_overlap(splits: Splits, fingerprints: Mapping[Place, Fingerprint]) -> None:
    """Raises InvalidArgument (SPLITS_OVERLAP) when a picture of one split is, or looks like, one of another."""
    parts = [("train", splits.train), ("validation", splits.validation), ("test", splits.test)]
    pairs: list[str] = []
    for place, (name, part) in enumerate(parts):
        for other_name, other in parts[place + 1 :]:
            same = same_pictures([fingerprints[p.place] for p in other], [fingerprints[p.place] for p in part])
            pairs += [f"{other[i].path} ({other_name}) is {part[j].path} ({name})" for i, j in same]
    if pairs:
        raise InvalidArgument(
            f"the same picture is in two splits {len(pairs)} times: {_listed(pairs)}",
            reason="SPLITS_OVERLAP",
        )


def _look(photograph: Photograph) -> Fingerprint | BrokenFile:
    try:
        data = photograph.path.read_bytes()
        return fingerprint(data, decode_image(data, SIDE, photograph.region))
    except InvalidImage as error:
        return BrokenFile(photograph.path, error.message)
    except FileNotFoundError:
        return BrokenFile(photograph.path, "there is no such file")
    except OSError as error:
        return BrokenFile(photograph.path, error.strerror or str(error))


def _listed(lines: Sequence[str]) -> str:
    more = f"; and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
    return "; ".join(lines[:NAMED]) + more
