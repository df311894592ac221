"""Photographs decoded once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import InvalidImage
from services.common.images import decode_image
from services.common.products import Region
from services.photographs.photograph import Photograph
from services.trainer.learning.pixels import decoded
from tests.trainer import tiny


@pytest.fixture
def photographs(tmp_path: Path) -> list[Photograph]:
    folder = tiny.write_folder(tmp_path / "shop", range(2), range(3))
    return [Photograph(path, path.parent.name) for path in sorted(folder.rglob("*.jpg"))]


def test_they_are_what_the_server_sees(photographs: list[Photograph], tmp_path: Path) -> None:
    done: list[int] = []
    pixels = decoded(photographs, 24, tmp_path / "pixels", done.append)
    assert (pixels.shape, pixels.dtype) == ((6, 24, 24, 3), np.uint8)
    assert sum(done) == 6
    for photograph, found in zip(photographs, pixels, strict=True):
        np.testing.assert_array_equal(found, decode_image(photograph.path.read_bytes(), 24))


def test_the_second_time_they_are_not_decoded(photographs: list[Photograph], tmp_path: Path) -> None:
    first = decoded(photographs, 24, tmp_path / "pixels")
    done: list[int] = []
    np.testing.assert_array_equal(decoded(photographs, 24, tmp_path / "pixels", done.append), first)
    assert done == []
    (file,) = (tmp_path / "pixels").iterdir()
    assert file.suffix == ".npy"


def test_another_side_order_region_or_file_is_decoded_anew(photographs: list[Photograph], tmp_path: Path) -> None:
    def files() -> int:
        return len(list((tmp_path / "pixels").iterdir()))

    decoded(photographs, 24, tmp_path / "pixels")
    decoded(photographs, 25, tmp_path / "pixels")
    turned = decoded(photographs[::-1], 24, tmp_path / "pixels")
    np.testing.assert_array_equal(turned[0], decode_image(photographs[-1].path.read_bytes(), 24))
    region = Region(0.0, 0.0, 0.5, 0.5)
    whole = decoded(photographs[:1], 24, tmp_path / "pixels")
    np.testing.assert_array_equal(whole[0], decode_image(photographs[0].path.read_bytes(), 24))
    part = decoded([Photograph(photographs[0].path, "p", region=region)], 24, tmp_path / "pixels")
    np.testing.assert_array_equal(part[0], decode_image(photographs[0].path.read_bytes(), 24, region))
    assert files() == 5
    photographs[0].path.write_bytes(tiny.jpeg(tiny.photograph(1, 99)))
    os.utime(photographs[0].path, ns=(1, 1))
    changed = decoded(photographs, 24, tmp_path / "pixels")
    assert files() == 6
    np.testing.assert_array_equal(changed[0], decode_image(photographs[0].path.read_bytes(), 24))


def test_what_was_not_finished_is_not_found(photographs: list[Photograph], tmp_path: Path) -> None:
    good = photographs[3].path.read_bytes()
    photographs[3].path.write_bytes(b"junk")
    with pytest.raises(InvalidImage):
        decoded(photographs, 24, tmp_path / "pixels")
    assert not list((tmp_path / "pixels").glob("*.npy"))
    photographs[3].path.write_bytes(good)
    assert decoded(photographs, 24, tmp_path / "pixels")[3].any()
