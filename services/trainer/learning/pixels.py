"""Photographs decoded once: a file of uint8 pixels, a little larger than the encoder's S so that crops stay sharp."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.common.images import PREPROCESSING, decode_image
from services.photographs.photograph import Photograph

Pixels = npt.NDArray[np.uint8]
Progress = Callable[[int], None]  # pictures done since the last call


def decoded(
    photographs: Sequence[Photograph], side: int, folder: Path, progress: Progress = lambda done: None
) -> Pixels:
    """uint8 [n, side, side, 3], mapped from a file in `folder` that a second call finds again.

    Raises InvalidImage for a picture that can't be decoded; check them before.
    """
    file = folder / f"{fingerprint(photographs, f'{PREPROCESSING} {side}')}.npy"
    if not file.exists():
        _decode(photographs, side, file, progress)
    pixels: Pixels = np.load(file, mmap_mode="r")
    return pixels


def fingerprint(photographs: Sequence[Photograph], made: str) -> str:
    """16 hexadecimal digits of what is made of these files as they are now.

    Args:
        made: says what, so that different things have different names.
    """
    key = hashlib.sha256(made.encode())
    for photograph in photographs:
        status = photograph.path.stat()
        key.update(f"{photograph.path} {status.st_size} {status.st_mtime_ns} {photograph.region}".encode())
    return key.hexdigest()[:16]


def _decode(photographs: Sequence[Photograph], side: int, file: Path, progress: Progress) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    shape = (len(photographs), side, side, 3)
    pixels = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)

    def decode(place: int) -> None:
        photograph = photographs[place]
        pixels[place] = decode_image(photograph.path.read_bytes(), side, photograph.region)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode, range(len(photographs))):
            progress(1)
    pixels.flush()
    unfinished.replace(file)
