"""Bytes to pixels: every format and mode, orientation, region, fit, limit and reason, and what it takes in memory."""

from __future__ import annotations

import asyncio
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.common import image_files, isobmff
from services.common.admission import Admission
from services.common.errors import InvalidImage
from services.common.images import (
    MAX_BYTES,
    MAX_DECODE_BYTES,
    PREPROCESSING,
    Fit,
    ImageDecoder,
    ImageInfo,
    decode_image,
    inspect_image,
    preprocessing_id,
)
from services.common.products import Region
from tests.unit.pictures import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    YELLOW,
    chunk,
    corners,
    declared_png,
    difference,
    encoded,
    noise,
    oriented,
    png,
    quadrants,
    ycck_jpeg,
)

COLOURS = [RED, GREEN, BLUE, YELLOW]
SIDE = 64


def rgba_quadrants() -> Image.Image:
    """Opaque red, half transparent green, fully transparent blue, opaque yellow."""
    picture = quadrants().convert("RGBA")
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(128, (48, 0, 96, 32))
    alpha.paste(0, (0, 32, 48, 64))
    picture.putalpha(alpha)
    return picture


HALF_GREEN = tuple(round(255 + (c - 255) * 128 / 255) for c in GREEN)
OVER_WHITE = [RED, HALF_GREEN, WHITE, YELLOW]
GREYS = [round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in COLOURS]


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidImage) as caught:
        call()
    assert caught.value.field == "image"
    assert caught.value.message
    return caught.value.reason


# --- formats and modes


OPAQUE = {
    "jpeg": lambda: encoded(quadrants(), "JPEG", quality=95, subsampling=0),
    "jpeg 4:2:0": lambda: encoded(quadrants(), "JPEG", quality=95),
    "jpeg progressive": lambda: encoded(quadrants(), "JPEG", quality=95, progressive=True),
    "jpeg cmyk": lambda: encoded(quadrants().convert("CMYK"), "JPEG", quality=95, subsampling=0),
    "jpeg cmyk progressive": lambda: encoded(quadrants().convert("CMYK"), "JPEG", quality=95, progressive=True),
    "jpeg ycck": lambda: ycck_jpeg(quadrants()),
    "png": lambda: encoded(quadrants(), "PNG"),
    "png palette": lambda: encoded(quadrants().quantize(8), "PNG"),
    "png rgba": lambda: encoded(quadrants().convert("RGBA"), "PNG"),
    "webp": lambda: encoded(quadrants(), "WEBP", quality=95),
    "webp lossless": lambda: encoded(quadrants(), "WEBP", lossless=True),
    "webp animated": lambda: encoded(
        quadrants(), "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (96, 64), "black")]
    ),
    "gif": lambda: encoded(quadrants(), "GIF"),
    "gif animated": lambda: encoded(
        quadrants(), "GIF", save_all=True, append_images=[Image.new("RGB", (96, 64), "black")] * 5
    ),
    "avif": lambda: encoded(quadrants(), "AVIF", quality=95, subsampling="4:4:4"),
    "avif 4:2:0": lambda: encoded(quadrants(), "AVIF", quality=95),
    "avif animated": lambda: encoded(
        quadrants(), "AVIF", quality=95, save_all=True, append_images=[Image.new("RGB", (96, 64), "black")]
    ),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_every_format_shows_its_colours(name: str) -> None:
    data = OPAQUE[name]()
    info = inspect_image(data)
    assert (info.format.lower(), info.width, info.height, info.pixels) == (name.split()[0], 96, 64, 96 * 64)
    pixels = decode_image(data, SIDE)
    assert (pixels.shape, pixels.dtype, pixels.flags.c_contiguous) == ((SIDE, SIDE, 3), np.uint8, True)
    assert pixels.flags.writeable
    assert difference(corners(pixels), COLOURS).max() <= (0 if name in ("png", "webp lossless", "gif") else 6)


@pytest.mark.parametrize("name", ["webp", "gif", "avif", "png"])
def test_transparency_is_composited_over_white(name: str) -> None:
    if name == "gif":  # a pixel is there or not
        data, expected = encoded(rgba_quadrants(), "GIF"), [RED, GREEN, WHITE, YELLOW]
    else:
        options = {"webp": {"lossless": True}, "avif": {"quality": 95, "subsampling": "4:4:4"}, "png": {}}[name]
        data, expected = encoded(rgba_quadrants(), name.upper(), **options), OVER_WHITE
    assert difference(corners(decode_image(data, SIDE)), expected).max() <= 6


def test_transparent_colours_do_not_bleed() -> None:
    """Columns of opaque red beside fully transparent black become pink, never dark."""
    picture = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    for x in range(0, 256, 2):
        picture.paste((255, 0, 0, 255), (x, 0, x + 1, 256))
    pixels = decode_image(encoded(picture, "PNG"), 32)
    assert pixels[..., 0].min() >= 254
    assert difference(pixels[8:-8, 8:-8, 1:], 128).max() <= 2


def test_heic() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    heif = pillow_heif.from_pillow(quadrants())
    file = io.BytesIO()
    heif.save(file, quality=95)
    assert inspect_image(file.getvalue()) == ImageInfo("HEIC", 96, 64, 96 * 64)
    assert difference(corners(decode_image(file.getvalue(), SIDE)), COLOURS).max() <= 12
    assert reason_of(lambda: decode_image(file.getvalue()[:-200], SIDE)) == "IMAGE_TRUNCATED"


def test_heic_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    header = struct.pack(">I4s4sI4s", 20, b"ftyp", b"heic", 0, b"mif1")
    with pytest.raises(InvalidImage, match=r"lookalike\[heif\]") as caught:
        inspect_image(header + bytes(100))
    assert caught.value.reason == "IMAGE_FORMAT_UNSUPPORTED"


def rows(values: list[int], width: int, height: int, pack: str) -> bytes:
    """The four quadrants as PNG samples; `values` holds the four pixels, each a flat run of samples."""
    count = len(values) // 4
    pixel = [struct.pack(f">{count}{pack}", *values[i * count : (i + 1) * count]) for i in range(4)]
    top, bottom = (
        pixel[0] * (width // 2) + pixel[1] * (width // 2),
        pixel[2] * (width // 2) + pixel[3] * (width // 2),
    )
    return top * (height // 2) + bottom * (height // 2)


def flat(colours: list[tuple[int, ...]], factor: int = 1) -> list[int]:
    return [sample * factor for colour in colours for sample in colour]


def grey(*levels: int) -> list[tuple[int, int, int]]:
    return [(level, level, level) for level in levels]


PNGS = {
    "grey 16": (png(32, 32, 16, 0, rows([0, 0x4000, 0x8000, 0xFFFF], 32, 32, "H")), grey(0, 64, 128, 255)),
    "grey 16 transparent": (
        png(
            32,
            32,
            16,
            0,
            rows([0, 0x4000, 0x4001, 0xFFFF], 32, 32, "H"),
            before=chunk(b"tRNS", struct.pack(">H", 0x4001)),
        ),
        grey(0, 64, 255, 255),
    ),
    "rgb 16": (png(32, 32, 16, 2, rows(flat(COLOURS, 257), 32, 32, "H")), COLOURS),
    "rgb 16 transparent": (
        png(
            32,
            32,
            16,
            2,
            rows(flat(COLOURS, 257), 32, 32, "H"),
            before=chunk(b"tRNS", struct.pack(">HHH", *(c * 257 for c in BLUE))),
        ),
        [RED, GREEN, WHITE, YELLOW],
    ),
    "rgba 16": (
        png(32, 32, 16, 6, rows(flat([(*RED, 255), (*GREEN, 128), (*BLUE, 0), (*YELLOW, 255)], 257), 32, 32, "H")),
        OVER_WHITE,
    ),
    "grey alpha": (
        png(32, 32, 8, 4, rows([0, 255, 0, 128, 0, 0, 90, 255], 32, 32, "B")),
        grey(0, 127, 255, 90),
    ),
    "grey alpha 16": (
        png(32, 32, 16, 4, rows([0, 65535, 0, 0x8080, 0, 0, 90 * 257, 65535], 32, 32, "H")),
        grey(0, 127, 255, 90),
    ),
    "grey transparent": (
        png(32, 32, 8, 0, rows([0, 50, 100, 150], 32, 32, "B"), before=chunk(b"tRNS", struct.pack(">H", 100))),
        grey(0, 50, 255, 150),
    ),
    "rgb transparent": (
        png(32, 32, 8, 2, rows(flat(COLOURS), 32, 32, "B"), before=chunk(b"tRNS", struct.pack(">HHH", *BLUE))),
        [RED, GREEN, WHITE, YELLOW],
    ),
    "1 bit": (png(32, 32, 1, 0, rows([0x00, 0xFF, 0xFF, 0x00], 4, 32, "B")), grey(0, 255, 255, 0)),
    "1 bit transparent": (
        png(32, 32, 1, 0, rows([0x00, 0xFF, 0xFF, 0x00], 4, 32, "B"), before=chunk(b"tRNS", struct.pack(">H", 0))),
        grey(255, 255, 255, 255),
    ),
    "grey 2": (png(32, 32, 2, 0, rows([0x00, 0x55, 0xAA, 0xFF], 8, 32, "B")), grey(0, 85, 170, 255)),
    "grey 2 transparent": (
        png(32, 32, 2, 0, rows([0x00, 0x55, 0xAA, 0xFF], 8, 32, "B"), before=chunk(b"tRNS", struct.pack(">H", 1))),
        grey(0, 255, 170, 255),
    ),
    "grey 4 transparent": (
        png(32, 32, 4, 0, rows([0x00, 0x33, 0x66, 0xFF], 16, 32, "B"), before=chunk(b"tRNS", struct.pack(">H", 6))),
        grey(0, 51, 255, 255),
    ),
    "palette 8 with alphas": (
        png(
            32,
            32,
            8,
            3,
            rows([0, 1, 2, 3], 32, 32, "B"),
            before=chunk(b"PLTE", bytes(flat(COLOURS))) + chunk(b"tRNS", bytes([255, 128, 0])),
        ),
        OVER_WHITE,
    ),
    "palette 2 with one transparent": (
        png(
            32,
            32,
            2,
            3,
            rows([0x00, 0x55, 0xAA, 0xFF], 8, 32, "B"),
            before=chunk(b"PLTE", bytes(flat(COLOURS))) + chunk(b"tRNS", bytes([255, 255, 0])),
        ),
        [RED, GREEN, WHITE, YELLOW],
    ),
}


@pytest.mark.parametrize("name", PNGS)
def test_every_png_mode(name: str) -> None:
    data, expected = PNGS[name]
    assert difference(corners(decode_image(data, 32)), expected).max() <= 1


def test_grey_jpeg_and_grey_avif() -> None:
    picture = quadrants().convert("L")
    for data in (encoded(picture, "JPEG", quality=95), encoded(picture, "AVIF", quality=95)):
        assert difference(corners(decode_image(data, SIDE)), grey(*GREYS)).max() <= 4


def test_gif_whose_first_frame_covers_a_part_shows_white_around_it() -> None:
    small = bytearray(encoded(Image.new("RGB", (32, 32), BLUE), "GIF"))
    small[6:10] = struct.pack("<HH", 64, 64)  # the canvas grows, the frame stays in its corner
    pixels = decode_image(bytes(small), 64)
    assert difference(corners(pixels), [BLUE, WHITE, WHITE, WHITE]).max() == 0


def test_strips_join_without_seams() -> None:
    """A picture with alpha is converted in strips; the same opaque picture is not: equal pixels."""
    picture = noise(1500, 1800)
    plain, strips = encoded(picture, "PNG", compress_level=1), encoded(picture.convert("RGBA"), "PNG", compress_level=1)
    for side in (50, 224, 700):
        assert difference(decode_image(plain, side), decode_image(strips, side)).max() == 0


# --- geometry


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", Fit)
def test_orientation_region_and_fit_agree_with_the_upright_picture(orientation: int, fit: Fit) -> None:
    upright = noise(150, 90)
    region = Region(0.25, 0.1, 0.85, 0.95)
    for part in (None, region):
        expected = decode_image(encoded(upright, "PNG"), 48, part, fit)
        for format in ("PNG", "WEBP", "JPEG"):
            options = {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}[format]
            data = oriented(upright, orientation, format, **options)
            assert (inspect_image(data).width, inspect_image(data).height) == (150, 90)
            limit = 4 if format == "JPEG" else 1
            assert np.percentile(difference(decode_image(data, 48, part, fit), expected), 99) <= limit


@pytest.mark.parametrize("orientation", range(1, 9))
def test_region_is_of_the_upright_picture_in_avif(orientation: int) -> None:
    data = oriented(quadrants(), orientation, "AVIF", quality=95, subsampling="4:4:4")
    assert (inspect_image(data).width, inspect_image(data).height) == (96, 64)
    assert difference(decode_image(data, 16, Region(0.6, 0.1, 0.9, 0.4))[4:-4, 4:-4], GREEN).max() <= 6


def test_region_shows_what_the_cropped_picture_shows() -> None:
    picture = noise(200, 160)
    data = encoded(picture, "PNG")
    for box in ((50, 40, 150, 80), (0, 0, 200, 16), (184, 144, 200, 160)):
        region = Region(box[0] / 200, box[1] / 160, box[2] / 200, box[3] / 160)
        assert (
            difference(decode_image(data, 40, region), decode_image(encoded(picture.crop(box), "PNG"), 40)).max() == 0
        )


def test_exif_may_follow_the_pixels_and_may_be_damaged() -> None:
    block = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
    pixels = rows(flat(COLOURS), 32, 48, "B")
    turned = decode_image(png(32, 48, 8, 2, pixels, after=chunk(b"eXIf", block)), 32)
    assert corners(turned) == [BLUE, RED, YELLOW, GREEN]
    for damaged in (b"", b"II", block[:12], block.replace(b"\6\0", b"\x09\0"), b"MM" + block[2:], bytes(50)):
        assert corners(decode_image(png(32, 48, 8, 2, pixels, after=chunk(b"eXIf", damaged)), 32)) == COLOURS
        jpeg = encoded(quadrants(), "JPEG", quality=95, exif=b"Exif\0\0" + damaged)
        assert difference(corners(decode_image(jpeg, 32)), COLOURS).max() <= 6


def test_fits() -> None:
    picture = Image.new("RGB", (128, 64), RED)
    picture.paste(BLUE, (32, 0, 96, 64))
    data = encoded(picture, "PNG")
    assert difference(decode_image(data, 32, fit=Fit.CROP), BLUE).max() == 0
    padded = decode_image(data, 32, fit=Fit.PAD)
    assert difference(padded[:8], WHITE).max() == difference(padded[24:], WHITE).max() == 0
    assert difference(padded[8:24, :7], RED).max() == difference(padded[8:24, 10:22], BLUE).max() == 0
    squashed = decode_image(data, 32, fit=Fit.SQUASH)
    assert difference(squashed[:, :7], RED).max() == difference(squashed[:, 10:22], BLUE).max() == 0
    assert len({preprocessing_id(fit) for fit in Fit}) == 3
    assert PREPROCESSING in {preprocessing_id(fit) for fit in Fit}


@pytest.mark.parametrize(("width", "height"), [(16, 16), (16, 4000), (4000, 16), (17, 23), (2000, 1999)])
@pytest.mark.parametrize("fit", Fit)
def test_any_shape_and_side(width: int, height: int, fit: Fit) -> None:
    data = encoded(Image.new("RGB", (width, height), GREEN), "JPEG", quality=95)
    for side in (1, 7, 224):
        pixels = decode_image(data, side, fit=fit)
        assert pixels.shape == (side, side, 3)
        if fit is not Fit.PAD:
            assert difference(pixels, GREEN).max() <= 3


@pytest.mark.parametrize("region", [None, Region(0.1, 0.2, 0.75, 0.9)])
@pytest.mark.parametrize("size", [(1600, 1200), (1203, 1999), (4032, 3024)])
def test_scaled_decoding_is_close_to_full_decoding(size: tuple[int, int], region: Region | None) -> None:
    data = encoded(noise(*size), "JPEG", quality=90)
    full = encoded(Image.open(io.BytesIO(data)), "PNG", compress_level=1)
    different = difference(decode_image(data, 224, region), decode_image(full, 224, region))
    assert different.mean() < 0.6
    assert different.max() <= 4


def test_a_region_is_decoded_with_the_detail_it_needs() -> None:
    """Scaling by what the whole picture needs would blur a small region."""
    picture = Image.effect_noise((1600, 1200), 100).convert("RGB")
    region = Region(0.5, 0.5, 0.64, 0.6867)
    data = encoded(picture, "JPEG", quality=98, subsampling=0)
    expected = decode_image(encoded(picture, "PNG"), 224, region)
    assert difference(decode_image(data, 224, region), expected).mean() < 3


# --- limits and reasons


ENDED_EARLY = {
    "JPEG": encoded(noise(96, 96), "JPEG"),
    "PNG": encoded(noise(96, 96), "PNG"),
    "WEBP": encoded(noise(96, 96), "WEBP"),
    "GIF": encoded(noise(96, 96), "GIF"),
    "AVIF": encoded(noise(96, 96), "AVIF"),
}


@pytest.mark.parametrize("name", ENDED_EARLY)
def test_truncated(name: str) -> None:
    data = ENDED_EARLY[name]
    for end in (15, 40, len(data) // 4, len(data) // 2, len(data) - 50):
        assert reason_of(lambda: decode_image(data[:end], SIDE)) == "IMAGE_TRUNCATED", end  # noqa: B023


def corrupt_png() -> bytes:
    data = bytearray(encoded(noise(96, 96), "PNG"))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def many_scans() -> bytes:
    """A progressive JPEG of 16 megapixels in a few kilobytes that is to be gone through 200 times."""
    data = bytearray(encoded(quadrants(), "JPEG", progressive=True))
    at = data.index(b"\xff\xc2") + 5
    data[at : at + 4] = struct.pack(">HH", 4000, 4000)
    return bytes(data[: data.index(b"\xff\xda")]) + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 200 + b"\xff\xd9"


REASONS = {
    "empty": (b"", "IMAGE_EMPTY"),
    "text": (b"not a picture at all, sorry", "IMAGE_NOT_RECOGNISED"),
    "one byte": (b"\xff", "IMAGE_NOT_RECOGNISED"),
    "zeros": (bytes(5000), "IMAGE_NOT_RECOGNISED"),
    "too many bytes": (b"\xff\xd8\xff" + bytes(MAX_BYTES), "IMAGE_TOO_LARGE"),
    "too many pixels": (declared_png(7072, 7071), "IMAGE_TOO_LARGE"),
    "bomb": (declared_png(2**31 - 1, 2**31 - 1), "IMAGE_TOO_LARGE"),
    "gif bomb": (
        encoded(quadrants(), "GIF")[:6] + b"\xff\xff\xff\xff" + encoded(quadrants(), "GIF")[10:],
        "IMAGE_TOO_LARGE",
    ),
    "scans": (many_scans(), "IMAGE_TOO_LARGE"),
    "narrow": (encoded(Image.new("RGB", (15, 500)), "PNG"), "IMAGE_TOO_SMALL"),
    "low": (encoded(Image.new("RGB", (500, 15)), "JPEG"), "IMAGE_TOO_SMALL"),
    "bmp": (encoded(quadrants(), "BMP"), "IMAGE_FORMAT_UNSUPPORTED"),
    "tiff": (encoded(quadrants(), "TIFF"), "IMAGE_FORMAT_UNSUPPORTED"),
    "jpeg 2000": (encoded(quadrants(), "JPEG2000"), "IMAGE_FORMAT_UNSUPPORTED"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "IMAGE_FORMAT_UNSUPPORTED"),
    "mp4": (struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 0, b"mp41"), "IMAGE_FORMAT_UNSUPPORTED"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "IMAGE_NOT_RECOGNISED"),
    "png with a flipped bit": (corrupt_png(), "IMAGE_CORRUPT"),
    "palette is missing": (png(32, 32, 8, 3, bytes(32 * 32)), "IMAGE_CORRUPT"),
    "png without pixels": (b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""), "IMAGE_CORRUPT"),
    "png of a million chunks": (
        b"\x89PNG\r\n\x1a\n" + chunk(b"abCd", b"") * 1_000_000 + chunk(b"IEND", b""),
        "IMAGE_CORRUPT",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_reasons(name: str) -> None:
    data, expected = REASONS[name]
    assert reason_of(lambda: decode_image(data, SIDE)) == expected
    if name != "png with a flipped bit":
        assert reason_of(lambda: inspect_image(data)) == expected


def test_a_region_of_too_few_pixels() -> None:
    data = encoded(quadrants(100, 100), "PNG")
    assert reason_of(lambda: decode_image(data, SIDE, Region(0, 0, 0.15, 1))) == "IMAGE_TOO_SMALL"
    assert decode_image(data, SIDE, Region(0, 0, 0.16, 1)).shape == (SIDE, SIDE, 3)


def test_png_text_profiles_and_animation_are_skipped() -> None:
    """None of them is pixels, and each can be a bomb."""
    zeros = zlib.compress(bytes(100_000_000))
    extras = (
        chunk(b"zTXt", b"a\0\0" + zeros) + chunk(b"iTXt", b"a\0\1\0\0\0" + zeros) + chunk(b"iCCP", b"a\0\0" + zeros)
    )
    extras += chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    data = png(32, 32, 8, 2, rows(flat(COLOURS), 32, 32, "B"), before=extras, after=extras)
    assert corners(decode_image(data, 32)) == COLOURS


def test_avif_is_refused_by_what_its_frames_need_not_by_what_it_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(encoded(noise(800, 600), "AVIF"))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 20, 20)
    assert isobmff.av1_plane_bytes(bytes(data)) == 800 * 600 * 3 // 2
    assert inspect_image(bytes(data)).pixels == 400
    monkeypatch.setattr(image_files, "MAX_DECODE_BYTES", 800 * 600)
    assert reason_of(lambda: inspect_image(bytes(data))) == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize(
    ("options", "planes"),
    [({"subsampling": "4:4:4"}, 6), ({"subsampling": "4:2:2"}, 4), ({}, 3), ({"subsampling": "4:0:0"}, 2)],
)
def test_av1_planes_are_counted(options: dict[str, str], planes: int) -> None:
    assert isobmff.av1_plane_bytes(encoded(noise(200, 100), "AVIF", **options)) == 200 * 100 * planes // 2


# --- concurrency


async def test_decoder_gives_what_decode_image_gives() -> None:
    files = [encoded(noise(60 + i, 90, seed=i), "JPEG") for i in range(12)]
    async with ImageDecoder(threads=3) as decoder:
        results = await asyncio.gather(*(decoder.decode(data, 32) for data in files))
        for data, pixels in zip(files, results, strict=True):
            assert np.array_equal(pixels, decode_image(data, 32))
        assert np.array_equal(
            await decoder.decode(files[0], 32, Region(0, 0, 0.5, 0.5)),
            decode_image(files[0], 32, Region(0, 0, 0.5, 0.5)),
        )
        with pytest.raises(InvalidImage):
            await decoder.decode(b"", 32)


LARGE = png(2500, 2500, 8, 6, bytes([200, 100, 50, 255]) * 2500 * 2500)


async def test_small_pictures_pass_large_ones_that_wait() -> None:
    async with ImageDecoder(threads=2) as decoder:
        await decoder._admission.acquire(MAX_DECODE_BYTES)
        large = [asyncio.create_task(decoder.decode(LARGE, 32)) for _ in range(3)]
        for _ in range(20):
            await decoder.decode(encoded(quadrants(), "PNG"), 32)
        assert not any(task.done() for task in large)
        large[0].cancel()
        decoder._admission.release(MAX_DECODE_BYTES)
        for task in large[1:]:
            assert difference(await task, (200, 100, 50)).max() == 0
        await decoder._admission.acquire(MAX_DECODE_BYTES)  # all was given back


async def test_a_cancelled_caller_gives_its_memory_back() -> None:
    async with ImageDecoder(threads=2) as decoder:
        for delay_s in (0, 0.001, 0.01, 0.03, 0.1):
            tasks = [asyncio.create_task(decoder.decode(LARGE, 32)) for _ in range(3)]
            await asyncio.sleep(delay_s)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(decoder._admission.acquire(MAX_DECODE_BYTES), 30)
        decoder._admission.release(MAX_DECODE_BYTES)
        assert (await decoder.decode(LARGE, 32)).shape == (32, 32, 3)


async def test_leaving_waits_for_the_threads() -> None:
    async with ImageDecoder(threads=1) as decoder:
        tasks = [asyncio.create_task(decoder.decode(LARGE, 32)) for _ in range(4)]
        await asyncio.sleep(0.02)
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert all(isinstance(r, (np.ndarray, RuntimeError, asyncio.CancelledError)) for r in results)


async def test_admission_is_first_come_first_served() -> None:
    admission, order = Admission(10, slots=2), list[int]()

    async def enter(number: int, size: int) -> None:
        await admission.acquire(size)
        order.append(number)

    await admission.acquire(6)
    tasks = [asyncio.create_task(enter(i, size)) for i, size in enumerate((5, 1, 1, 4))]
    await asyncio.sleep(0)
    assert order == []  # the 5 does not fit, and the small ones do not overtake it
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    await asyncio.sleep(0)
    assert order == [1]  # the third would fit, but both slots are taken
    admission.release(1)
    await asyncio.sleep(0)
    assert order == [1, 2]
    admission.release(6)
    await asyncio.gather(*tasks[1:])
    assert order == [1, 2, 3]


async def test_admission_gives_back_what_a_cancelled_caller_was_just_given() -> None:
    admission = Admission(10, slots=2)
    await admission.acquire(10)
    task = asyncio.create_task(admission.acquire(10))
    await asyncio.sleep(0)
    admission.release(10)  # its turn has come, but it has not run yet
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.wait_for(admission.acquire(10), 1)


# --- memory


MEGAPIXELS_50 = (7071, 7071)


def rgba_16_png() -> bytes:
    width, height = MEGAPIXELS_50
    packer = zlib.compressobj(1)
    row = b"\0" + struct.pack(">HHHH", 0xC8C8, 0x6464, 0x3232, 0xFFFF) * width
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def flat_palette() -> Image.Image:
    picture = Image.new("P", MEGAPIXELS_50, 1)
    picture.putpalette([0, 0, 0, *FLAT])
    return picture


FLAT = (200, 100, 50)
MONSTERS: dict[str, Callable[[], bytes]] = {
    "png rgba 16": rgba_16_png,
    "png palette": lambda: encoded(flat_palette(), "PNG", compress_level=1, transparency=bytes([0, 255])),
    "jpeg progressive cmyk 4:4:4": lambda: encoded(
        Image.new("RGB", (6800, 6800), FLAT).convert("CMYK"), "JPEG", progressive=True, subsampling=0
    ),
    "jpeg cmyk": lambda: encoded(Image.new("RGB", MEGAPIXELS_50, FLAT).convert("CMYK"), "JPEG", subsampling=0),
    "gif": lambda: encoded(flat_palette(), "GIF", transparency=0),
    "avif": lambda: encoded(Image.new("RGB", (6400, 6400), FLAT), "AVIF", speed=10),
    "webp": lambda: encoded(Image.new("RGBA", (4800, 4800), FLAT), "WEBP", method=0),
    "webp over its limit": lambda: encoded(Image.new("RGB", MEGAPIXELS_50, FLAT), "WEBP", method=0),
}
MEASURE = """
import re, sys
from pathlib import Path
from services.common.errors import InvalidImage
from services.common.images import Region, decode_image
for region in (None, Region(0.4, 0.4, 0.43, 0.43)):
    try:
        print(*decode_image(Path(sys.argv[1]).read_bytes(), 224, region)[112, 112])
    except InvalidImage as error:
        print(error.reason)
# not ru_maxrss: that of a child process begins with its parent's
print(int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", MONSTERS)
def test_no_picture_takes_more_than_its_share_of_600_mb(name: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(MONSTERS[name]())
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    *answers, peak_mb = done.stdout.split("\n")[:-1]
    assert int(peak_mb) < 450  # the gateway itself takes the rest
    if name == "webp over its limit":
        assert set(answers) == {"IMAGE_TOO_LARGE"}
    else:
        assert all(difference(np.array(answer.split(), int), FLAT).max() <= 4 for answer in answers)


MEASURE_MANY = """
import asyncio, re, sys
from pathlib import Path
from services.common.images import ImageDecoder
def kilobytes(name):
    return int(re.search(name + r":\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
async def main():
    files = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
    async with ImageDecoder(threads=4) as decoder:
        for _ in range(2):
            await asyncio.gather(*(decoder.decode(data, 224) for data in files * 2))
    print(kilobytes("VmHWM") // 1000, kilobytes("VmRSS") // 1000)
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_large_pictures_at_once_stay_within_600_mb_and_leave_little_behind(tmp_path: Path) -> None:
    picture = noise(2500, 2000)
    (tmp_path / "1").write_bytes(encoded(picture.convert("RGBA"), "PNG", compress_level=1))
    (tmp_path / "2").write_bytes(encoded(picture, "WEBP", method=0))
    (tmp_path / "3").write_bytes(encoded(picture, "JPEG", progressive=True))
    (tmp_path / "4").write_bytes(encoded(Image.new("RGB", (4000, 4000), FLAT), "WEBP", method=0))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE_MANY, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    peak_mb, left_mb = map(int, done.stdout.split())
    assert peak_mb < 600
    assert left_mb < 130
