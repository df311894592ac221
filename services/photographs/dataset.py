"""Photographs from any source, checked and split: what a training run begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from services.common.errors import InvalidArgument
from services.photographs.checks import BrokenFile, Checked, check_files, check_overlap
from services.photographs.folder import read_folder, unlabelled
from services.photographs.grocery import is_grocery, read_grocery
from services.photographs.manifest import JSONL_SUFFIXES, read_manifest
from services.photographs.photograph import Photograph, Splits
from services.photographs.sources import Progress, no_progress
from services.photographs.splits import limit, split_by_file, split_images, split_products


@dataclass(frozen=True, slots=True)
class DataSet:
    """Args:
    broken: files that were passed over; at most 1 % of all.
    """

    splits: Splits
    broken: Sequence[BrokenFile] = ()


def guess_source(path: Path) -> str:
    """What `find_photographs` is to read it as: manifest, grocery or folder."""
    if path.is_file() or path.suffix.lower() in JSONL_SUFFIXES | {".csv", ".tsv"}:
        return "manifest"
    return "grocery" if is_grocery(path) else "folder"


def find_photographs(
    source: str,
    *,
    path: str | Path = "",
    address: str = "",
    image_store: str = "",
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> list[Photograph]:
    """The photographs that a source names; nothing is decoded, and files may be missing.

    Args:
        source: folder, manifest, grocery or catalogue.
        path: of a folder, manifest, or the Grocery Store Dataset.
        address, image_store, cache: of a catalogue; see `services.photographs.catalogue`.

    Raises InvalidArgument (DATA_INVALID, DATA_EMPTY, ...); what a catalogue raises.
    """
    if source == "folder":
        return read_folder(Path(path))
    if source == "manifest":
        return read_manifest(Path(path))
    if source == "grocery":
        return read_grocery(Path(path))
    if source == "catalogue" and cache is not None:
        # the one source that needs gRPC and the image store
        from services.photographs.catalogue import read_catalogue

        return read_catalogue(address, image_store, cache, progress)
    raise ValueError(f"no such source: {source!r}, or a catalogue without a cache")


def read_data_set(
    source: str,
    *,
    path: str | Path = "",
    address: str = "",
    image_store: str = "",
    cache: Path | None = None,
    split: str = "file",
    validation_share: float = 0.1,
    test_share: float = 0.0,
    seed: int = 1,
    products: int = 0,
    images_per_product: int = 0,
    progress: Progress = no_progress,
) -> DataSet:
    """Reads, limits, decodes, splits, and compares the splits.

    Args:
        source, path, address, image_store, cache: as `find_photographs`.
        split: "file" (as the source says), "images" or "products"; see `services.photographs.splits`.
        products: take only so many, the first by id; 0: all.
        images_per_product: train on at most so many photographs of each; 0: all.
        progress: told of originals fetched, then of files decoded, each with its own total.

    Raises:
        InvalidArgument: DATA_INVALID, DATA_EMPTY, DATA_BROKEN, DATA_SPLIT_MISSING, DATA_SPLIT_EMPTY, SPLITS_OVERLAP.
    """
    found = find_photographs(
        source, path=path, address=address, image_store=image_store, cache=cache, progress=progress
    )
    chosen = limit(found, products=products)
    if split == "file":
        # what will not be trained on need not be decoded
        chosen = _limit_training(chosen, images_per_product)
    checked = check_files(chosen, progress)
    splits = _split(checked, split, validation_share, test_share, seed)
    splits = replace(splits, train=_limit_training(splits.train, images_per_product))
    check_overlap(splits, checked.fingerprints)
    return DataSet(splits, checked.broken)


def read_unlabelled(
    folder: Path, progress: Progress = no_progress
) -> tuple[Sequence[Photograph], Sequence[BrokenFile]]:
    """Pictures without labels that can be decoded, and the others.

    Raises InvalidArgument: DATA_INVALID, DATA_EMPTY, DATA_BROKEN.
    """
    checked = check_files(unlabelled(folder), progress)
    return checked.photographs, checked.broken


def _split(checked: Checked, split: str, validation_share: float, test_share: float, seed: int) -> Splits:
    if split == "file":
        return split_by_file(checked.photographs)
    if split not in ("images", "products"):
        raise InvalidArgument(f"split {split[:80]!r} is none of file, images, products", reason="DATA_INVALID")
    by = split_images if split == "images" else split_products
    return by(
        checked.photographs,
        checked.fingerprints,
        validation_share=validation_share,
        test_share=test_share,
        seed=seed,
    )


def _limit_training(photographs: Sequence[Photograph], images_per_product: int) -> list[Photograph]:
    few = set(limit([p for p in photographs if p.split == "train"], images_per_product=images_per_product))
    return [p for p in photographs if p.split != "train" or p in few]
