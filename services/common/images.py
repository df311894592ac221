"""Bytes become pixels here, for serving, ingest, calibration and evaluation alike, and nowhere else.

A picture is decoded, turned upright by its EXIF orientation, cut to the region, composited over white, and resized to
S x S by area averaging and an antialiased bilinear filter. JPEG, PNG, WebP, GIF (the first frame), AVIF, and HEIC where
pillow-heif is installed; any bit depth and colour mode of theirs. Samples are taken as sRGB: profiles are ignored.
Limits: 20 MiB, 50 megapixels (fewer where a codec needs more memory, see `image_files`), 16 pixels a side.

Whatever is wrong with the bytes comes out as InvalidImage with field "image", and no picture takes more memory than
MAX_DECODE_BYTES beside its file.
"""

from __future__ import annotations

import asyncio
import ctypes
import enum
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.common.admission import Admission
from services.common.errors import InvalidImage
from services.common.image_files import (
    MAX_BYTES,
    MAX_DECODE_BYTES,
    MAX_PIXELS,
    MIN_SIDE,
    Box,
    ImageInfo,
    OpenedImage,
    open_image,
)
from services.common.products import Region

__all__ = [
    "MAX_BYTES",
    "MAX_DECODE_BYTES",
    "MAX_PIXELS",
    "MIN_SIDE",
    "PREPROCESSING",
    "Fit",
    "ImageDecoder",
    "ImageInfo",
    "decode_image",
    "inspect_image",
    "preprocessing_id",
]


class Fit(enum.StrEnum):
    """How a picture that is not square becomes square."""

    CROP = "crop"  # the largest square in its centre
    PAD = "pad"  # all of it, with white bars
    SQUASH = "squash"  # all of it, stretched


DEFAULT_FIT = Fit.SQUASH
# raise it with every change by which pixels could differ: vectors made before then no longer compare
_REVISION = 1


def preprocessing_id(fit: Fit) -> str:
    """Names what happens to pixels; kept in every model's manifest and every collection's properties."""
    return f"{fit}-{_REVISION}"


PREPROCESSING = preprocessing_id(DEFAULT_FIT)

# the DCT and area averaging leave at least this many times the pixels that the final filter makes
_DRAFT_MARGIN = 2.0
_REDUCE_MARGIN = 2.0
_STRIP_PIXELS = 1_000_000
# pictures that cost less are decoded at once; others wait for their share of MAX_DECODE_BYTES
_SMALL_BYTES = 16_000_000

_M_MMAP_THRESHOLD = -3  # of malloc.h

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def inspect_image(data: bytes) -> ImageInfo:
    """Format and size from the header, after every check that needs no decoding. Raises InvalidImage."""
    return open_image(data).info


def decode_image(data: bytes, side: int, region: Region | None = None, fit: Fit = DEFAULT_FIT) -> npt.NDArray[np.uint8]:
    """The picture, or a region of it, as uint8 [side, side, 3], RGB, C-contiguous.

    Args:
        data: a picture file.
        side: S, in pixels, at least 1.
        region: in fractions of the upright picture; widened or narrowed to whole pixels.

    Raises InvalidImage.
    """
    return _plan(data, side, region, fit).pixels()


@dataclass(frozen=True, slots=True)
class _Plan:
    """Args:
    box: what to show, in pixels as stored (not upright, not scaled).
    size: (width, height) to resize it to, as stored.
    scale: of the DCT, for JPEG.
    """

    image: OpenedImage
    side: int
    box: Box
    size: tuple[int, int]
    scale: int

    @property
    def decode_bytes(self) -> int:
        return self.image.decode_bytes(self.scale)

    def pixels(self) -> npt.NDArray[np.uint8]:
        picture = _resized(self.image.load(self.scale), self.image.visible, self.box, self.scale, self.size)
        if self.image.orientation in _UPRIGHT:
            picture = picture.transpose(_UPRIGHT[self.image.orientation])
        if picture.size != (self.side, self.side):
            square = Image.new("RGB", (self.side, self.side), "white")
            square.paste(picture, ((self.side - picture.width) // 2, (self.side - picture.height) // 2))
            picture = square
        # a copy, because what Pillow lends is read-only
        return np.array(picture, dtype=np.uint8)


def _plan(data: bytes, side: int, region: Region | None, fit: Fit) -> _Plan:
    image = open_image(data)
    left, top, right, bottom = 0, 0, image.info.width, image.info.height
    if region is not None:
        left, right = round(region.left * right), round(region.right * right)
        top, bottom = round(region.top * bottom), round(region.bottom * bottom)
    width, height = right - left, bottom - top
    if min(width, height) < MIN_SIDE:
        raise InvalidImage(
            f"the region covers {width} x {height} pixels, each side needs {MIN_SIDE}",
            reason="IMAGE_TOO_SMALL",
            field="image",
        )
    if fit is Fit.CROP:
        left, top = left + (width - min(width, height)) // 2, top + (height - min(width, height)) // 2
        width = height = min(width, height)
    longest = max(width, height) if fit is Fit.PAD else 0
    size = (
        max(1, round(side * width / longest)) if longest else side,
        max(1, round(side * height / longest)) if longest else side,
    )
    if image.orientation >= 5:
        size = size[1], size[0]
    box = _as_stored((left, top, left + width, top + height), image)
    return _Plan(image, side, box, size, _scale(image, box, size))


def _as_stored(box: Box, image: OpenedImage) -> Box:
    """A box of the upright picture in the coordinates of the stored one."""
    left, top, right, bottom = box
    width, height = image.file.size
    if image.orientation >= 5:
        left, top, right, bottom = top, left, bottom, right
    if image.orientation in (2, 3, 7, 8):
        left, right = width - right, width - left
    if image.orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def _scale(image: OpenedImage, box: Box, size: tuple[int, int]) -> int:
    """The largest DCT scale that leaves enough pixels in the box, or the smallest one that fits into memory."""
    if image.info.format != "JPEG":
        return 1
    spare = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]) / _DRAFT_MARGIN
    scale = next((s for s in (8, 4, 2) if spare >= s), 1)
    while image.decode_bytes(scale) > MAX_DECODE_BYTES:
        scale *= 2
    return scale


def _resized(picture: Image.Image, visible: Box | None, box: Box, scale: int, size: tuple[int, int]) -> Image.Image:
    """The box of a picture that was decoded at 1/scale, as RGB of the given size.

    Area averaging by whole factors comes first. Colours are converted, and transparency is composited over white, a
    strip of rows at a time, so that no second full-size picture is ever made. Compositing over one colour and averaging
    commute, so this equals the resize of premultiplied colours.
    """
    exact = tuple(edge / scale for edge in box)
    left, top = int(exact[0]), int(exact[1])
    right, bottom = math.ceil(exact[2]), math.ceil(exact[3])
    across = max(1, int((exact[2] - exact[0]) / size[0] / _REDUCE_MARGIN))
    down = max(1, int((exact[3] - exact[1]) / size[1] / _REDUCE_MARGIN))
    if picture.mode not in ("RGB", "L") or picture.has_transparency_data or visible:
        reduced = Image.new("RGB", (math.ceil((right - left) / across), math.ceil((bottom - top) / down)))
        rows = max(1, _STRIP_PIXELS // (right - left) // down) * down
        for y in range(top, bottom, rows):
            strip = _rgb_over_white(picture, visible, (left, y, right, min(y + rows, bottom)))
            reduced.paste(strip.reduce((across, down)), (0, (y - top) // down))
    elif across == down == 1 and (left, top, right, bottom) == (0, 0, *picture.size):
        reduced = picture
    else:
        reduced = picture.reduce((across, down), (left, top, right, bottom))
    source = (
        (exact[0] - left) / across,
        (exact[1] - top) / down,
        (exact[2] - left) / across,
        (exact[3] - top) / down,
    )
    return reduced.resize(size, Image.Resampling.BILINEAR, box=source).convert("RGB")


def _rgb_over_white(picture: Image.Image, visible: Box | None, box: Box) -> Image.Image:
    """A box of a picture in any mode as RGB; what is transparent, or not covered by a GIF's first frame, is white."""
    part = picture.crop(box)
    if part.mode == "I;16":
        samples = np.asarray(part)
        grey = (samples >> 8).astype(np.uint8)
        grey[samples == picture.info.get("transparency", -1)] = 255
        rgb = Image.fromarray(grey).convert("RGB")
    elif part.has_transparency_data:
        rgba = part.convert("RGBA")
        rgb = Image.new("RGB", part.size, "white")
        rgb.paste(rgba, mask=rgba)
    else:
        rgb = part.convert("RGB")
    if visible is None:
        return rgb
    covered = Image.new("L", part.size, 0)
    covered.paste(255, (visible[0] - box[0], visible[1] - box[1], visible[2] - box[0], visible[3] - box[1]))
    return Image.composite(rgb, Image.new("RGB", part.size, "white"), covered)


def _return_large_blocks() -> None:
    """Makes glibc give back at once what a decoder frees.

    Left alone it learns to keep blocks of up to 32 MB for reuse, in each thread: some hundred megabytes for good.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)


class ImageDecoder:
    """Decodes off the event loop. Use with `async with`; leaving waits for what is being decoded.

    Small pictures are decoded as soon as a thread is free. Those that cost more than a few megabytes wait, first come
    first served, until their cost fits into `max_bytes_in_flight`, and always leave one thread to the small ones.

    Args:
        threads: how many pictures are decoded at once.
        max_bytes_in_flight: what large pictures together may take; not less than MAX_DECODE_BYTES, or the largest
            would wait for ever.
    """

    def __init__(self, threads: int, max_bytes_in_flight: int = MAX_DECODE_BYTES, fit: Fit = DEFAULT_FIT) -> None:
        if max_bytes_in_flight < MAX_DECODE_BYTES:
            raise ValueError(f"max_bytes_in_flight must be at least {MAX_DECODE_BYTES}")
        _return_large_blocks()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._admission = Admission(max_bytes_in_flight, max(1, threads - 1))
        self._fit = fit

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)

    async def decode(self, data: bytes, side: int, region: Region | None = None) -> npt.NDArray[np.uint8]:
        """As `decode_image`. Raises InvalidImage. After a cancellation its memory counts until its thread ends."""
        done = await asyncio.wrap_future(self._pool.submit(self._decode_if_small, data, side, region))
        if not isinstance(done, _Plan):
            return done
        cost = done.decode_bytes
        await self._admission.acquire(cost)
        loop = asyncio.get_running_loop()
        try:
            future = self._pool.submit(done.pixels)
        except BaseException:
            self._admission.release(cost)
            raise
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._admission.release, cost))
        return await asyncio.wrap_future(future)

    def _decode_if_small(self, data: bytes, side: int, region: Region | None) -> npt.NDArray[np.uint8] | _Plan:
        plan = _plan(data, side, region, self._fit)
        return plan.pixels() if plan.decode_bytes <= _SMALL_BYTES else plan
