"""Whatever the bytes: an array of the promised shape, or InvalidImage. Seeded, so a failure can be repeated."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from services.common.errors import InvalidImage
from services.common.images import Fit, decode_image, inspect_image
from services.common.products import Region
from tests.unit.pictures import chunk, encoded, noise, oriented, png, quadrants, ycck_jpeg

# with warnings as errors, what Pillow merely warns about would hide behind InvalidImage
pytestmark = pytest.mark.filterwarnings("default")

REASONS = {
    "IMAGE_EMPTY",
    "IMAGE_NOT_RECOGNISED",
    "IMAGE_FORMAT_UNSUPPORTED",
    "IMAGE_TRUNCATED",
    "IMAGE_CORRUPT",
    "IMAGE_TOO_LARGE",
    "IMAGE_TOO_SMALL",
}


def samples() -> dict[str, bytes]:
    picture = noise(40, 30)
    files = {
        "jpeg": oriented(picture, 6, quality=80),
        "jpeg progressive": encoded(picture, "JPEG", progressive=True),
        "jpeg cmyk": encoded(picture.convert("CMYK"), "JPEG"),
        "jpeg ycck": ycck_jpeg(picture),
        "png": oriented(picture, 8, "PNG"),
        "png palette": encoded(quadrants(40, 30).quantize(8), "PNG", transparency=bytes([0, 90, 255])),
        "png 16": png(32, 32, 16, 0, bytes(range(256)) * 8, before=chunk(b"tRNS", b"\0\1")),
        "webp": encoded(picture, "WEBP"),
        "webp lossless": encoded(picture.convert("RGBA"), "WEBP", lossless=True, exif=b"Exif\0\0II*\0"),
        "webp animated": encoded(picture, "WEBP", save_all=True, append_images=[noise(40, 30, seed=1)]),
        "gif": encoded(quadrants(40, 30), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 30))]),
        "avif": encoded(picture, "AVIF"),
        "avif alpha": encoded(picture.convert("RGBA"), "AVIF"),
        "avif animated": encoded(picture, "AVIF", save_all=True, append_images=[noise(40, 30, seed=1)]),
    }
    try:
        import pillow_heif
    except ImportError:
        return files
    pillow_heif.register_heif_opener()
    return files | {"heic": encoded(picture, "HEIF")}


SAMPLES = samples()


def flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    run = rng.choice((b"\xff", b"\0", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", rng.randbytes(4)))
    data[at : at + len(run)] = run


def head(data: bytearray, rng: random.Random) -> None:
    """Headers decide sizes and allocations: they get more than their share."""
    data[rng.randrange(min(len(data), 120))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def drop(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) - 1)
    del data[at : at + rng.randrange(1, 20)]


def repeat(data: bytearray, rng: random.Random) -> None:
    at, length = rng.randrange(len(data)), rng.randrange(1, 60)
    data[at:at] = data[at : at + length] * rng.randrange(1, 4)


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [flip, overwrite, head, head, cut, drop, repeat]


def check(data: bytes, side: int = 24, region: Region | None = None, fit: Fit = Fit.SQUASH) -> bool:
    """True when the bytes were decoded."""
    try:
        pixels = decode_image(data, side, region, fit)
    except InvalidImage as error:
        refused = error
    else:
        refused = None
    if refused is not None:
        assert (refused.reason in REASONS, refused.field) == (True, "image")
        return False
    assert pixels.shape == (side, side, 3)
    assert inspect_image(data).pixels >= 256
    return True


@pytest.mark.parametrize("name", SAMPLES)
def test_mutated_files(name: str) -> None:
    rng = random.Random(name)
    assert check(SAMPLES[name], region=Region(0, 0, 1, 1))
    decoded = 0
    for number in range(250):
        data = bytearray(SAMPLES[name])
        for _ in range(rng.randrange(1, 4)):
            if len(data) > 2:
                rng.choice(MUTATIONS)(data, rng)
        region = Region(0.2, 0.1, 0.9, 0.8) if number % 3 == 0 else None
        decoded += check(bytes(data), region=region, fit=list(Fit)[number % 3])
    assert decoded < 250


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", *(data[:n] for data in SAMPLES.values() for n in (8, 16, 60))]))
def test_random_bytes_after_a_real_start(rest: bytes, start: bytes) -> None:
    check(start + rest)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.sampled_from(sorted(SAMPLES)), st.floats(0, 1), st.floats(0, 1))
def test_the_start_of_one_file_and_the_end_of_another(one: str, other: str, cut_one: float, cut_other: float) -> None:
    check(SAMPLES[one][: int(len(SAMPLES[one]) * cut_one)] + SAMPLES[other][int(len(SAMPLES[other]) * cut_other) :])
