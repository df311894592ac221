"""Makes picture files in memory, also those that no library would write."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

RED, GREEN, BLUE, YELLOW, WHITE = (230, 20, 30), (20, 200, 40), (10, 40, 220), (250, 230, 20), (255, 255, 255)
# what turns an upright picture into the one that is stored under an orientation
_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def quadrants(width: int = 96, height: int = 64) -> Image.Image:
    """Red, green over blue, yellow."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(YELLOW, (width // 2, height // 2, width, height))
    return picture


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A photograph-like picture: noise at several scales."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 9, 27, 81):
        grid = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)) / 4
    return Image.fromarray(total.astype(np.uint8))


def encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def oriented(upright: Image.Image, orientation: int, format: str = "JPEG", **options: Any) -> bytes:
    """A file whose stored pixels show `upright` once the EXIF orientation is applied."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright.transpose(_STORED[orientation]) if orientation in _STORED else upright
    return encoded(stored, format, exif=exif, **options)


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, depth: int, colour_type: int, rows: bytes, *, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG file from packed rows without filter bytes. before, after: chunks around the pixels."""
    stride = len(rows) // height
    lines = b"".join(b"\0" + rows[y * stride : (y + 1) * stride] for y in range(height))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(lines)) + after + chunk(b"IEND", b"")


def declared_png(width: int, height: int) -> bytes:
    """A PNG file that declares a size and holds next to nothing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def ycck_jpeg(picture: Image.Image) -> bytes:
    """A JPEG file of four components, YCbCr of the complement and black, as Adobe's tools write it."""
    luma = Image.fromarray(255 - np.asarray(picture)).convert("YCbCr")
    bands = [Image.fromarray(255 - np.asarray(band)) for band in luma.split()]
    data = bytearray(
        encoded(Image.merge("CMYK", [*bands, Image.new("L", picture.size, 0)]), "JPEG", quality=95, subsampling=0)
    )
    data[data.index(b"Adobe") + 11] = 2  # the transform: from CMYK to YCCK
    return bytes(data)


def corners(pixels: Pixels) -> list[tuple[int, ...]]:
    """Colours of the centres of the four quadrants, in reading order."""
    side = len(pixels)
    return [tuple(map(int, pixels[y, x])) for y in (side // 4, 3 * side // 4) for x in (side // 4, 3 * side // 4)]


def difference(one: npt.ArrayLike, other: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Absolute differences, without wrapping round."""
    return np.abs(np.asarray(one, dtype=np.int64) - np.asarray(other, dtype=np.int64))
