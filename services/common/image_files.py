"""Picture files as untrusted bytes: which format, how large, which way up, and what decoding them will cost.

Nothing here decodes a pixel. Only the formats named here are ever handed to a decoder, and only after their header was
found to be within the limits; `guarded` is the one place where a decoder's exceptions become InvalidImage.

A codec that can only decode whole pictures into several full-size buffers costs up to 16 bytes a pixel. So that no
picture takes more than MAX_DECODE_BYTES, such files reach the limit before MAX_PIXELS: WebP at 23 megapixels, AVIF and
HEIC at about 22 to 42, by their depth, chroma and alpha; progressive CMYK JPEG at 47.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from services.common import isobmff
from services.common.errors import InvalidImage

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE = 16
# what decoding one picture may take, beside the file itself and the rest of the process: with the gateway's own 190 MB
# it stays below 600 MB
MAX_DECODE_BYTES = 380_000_000

# a progressive JPEG is gone through once a scan, and a scan can be a dozen bytes; ten scans are usual. This many
# pixels, 30 scans of the largest picture, take some seconds
_MAX_JPEG_PIXELS_SCANNED = 1_500_000_000
_MAX_PNG_CHUNKS = 100_000
_PNG_ESSENTIALS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2}

_SIGNATURES = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("GIF", 0, b"GIF87a"),
    ("GIF", 0, b"GIF89a"),
    ("WEBP", 8, b"WEBP"),
)
# named to the caller, never decoded
_UNSUPPORTED = (
    ("BMP", b"BM"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("JPEG 2000", b"\0\0\0\x0cjP  "),
    ("JPEG XL", b"\xff\x0a"),
    ("JPEG XL", b"\0\0\0\x0cJXL "),
    ("Photoshop", b"8BPS"),
    ("ICO", b"\0\0\1\0"),
    ("PDF", b"%PDF"),
    ("SVG", b"<svg"),
    ("SVG", b"<?xml"),
)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the header says. `width` and `height` are those of the upright picture."""

    format: str
    width: int
    height: int
    pixels: int


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """A file whose header was read and found within the limits; its pixels are not decoded yet.

    orientation: EXIF orientation, 1..8.
    visible: the part of a GIF's canvas that its first frame covers, in stored pixels; None for all of it.
    fixed_bytes, pixel_bytes: memory that decoding takes, as a whole and by decoded pixel.
    """

    info: ImageInfo
    data: bytes
    file: ImageFile.ImageFile
    orientation: int
    visible: Box | None
    fixed_bytes: int
    pixel_bytes: float

    def decode_bytes(self, scale: int = 1) -> int:
        """Memory that decoding at 1/scale takes, in bytes."""
        return self.fixed_bytes + int(self.info.pixels * self.pixel_bytes / scale**2)

    def load(self, scale: int = 1) -> Image.Image:
        """Decodes. scale: 1, 2, 4 or 8, for JPEG only: the DCT makes a picture so many times smaller for less work."""
        with guarded(self.info.format, self.data):
            if scale > 1:
                self.file.draft(None, (self.file.width // scale, self.file.height // scale))
            size = self.file.size
            self.file.load()
            if self.file.size != size:
                raise SyntaxError("the picture is not of the size that the header says")
        return self.file


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Not wanted: it parses the whole EXIF block and warns about each flaw in it."""


def open_image(data: bytes) -> OpenedImage:
    """Reads the header and checks all that needs no decoding. Raises InvalidImage."""
    if not data:
        raise _invalid("the image is empty", "IMAGE_EMPTY")
    if len(data) > MAX_BYTES:
        raise _invalid(f"the image has {len(data):,} bytes, at most {MAX_BYTES:,} are allowed", "IMAGE_TOO_LARGE")
    name = _recognise(data)
    exif = b""
    scans = 1
    with guarded(name, data):
        if name == "JPEG":
            file: Any = _Jpeg(io.BytesIO(data))
            # in a scan FF is always followed by 00 or a marker, so this counts scans; also those of what is appended
            scans = 1 + data.count(b"\xff\xda", file.fp.tell())
        elif name == "PNG":
            data, exif = _png_essentials(data)
            file = PngImageFile(io.BytesIO(data))
            _scale_transparency(file)
        elif name == "GIF":
            file = GifImageFile(io.BytesIO(data))
        elif name == "WEBP":
            file = WebPImageFile(io.BytesIO(data))
        elif name == "AVIF":
            data = isobmff.as_still(data)
            file = AvifImageFile(io.BytesIO(data))
        else:
            file = _heif_plugin()(io.BytesIO(data))
        if not file.mode or (name in ("JPEG", "PNG", "GIF") and not file.tile):
            raise SyntaxError("there is no picture in the file")
        if file.mode == "P" and file.palette is None:
            raise SyntaxError("the palette is missing")
    _check_size(file.width, file.height)
    if scans * file.width * file.height > _MAX_JPEG_PIXELS_SCANNED:
        raise _invalid(f"the image has {scans} scans, too many for its size", "IMAGE_TOO_LARGE")
    with guarded(name, data):
        fixed_bytes, pixel_bytes = _decode_cost(name, file, data, scans)
    orientation = _orientation(exif or file.info.get("exif") or b"")
    width, height = (file.height, file.width) if orientation >= 5 else file.size
    opened = OpenedImage(
        info=ImageInfo(name, width, height, width * height),
        data=data,
        file=file,
        orientation=orientation,
        visible=file.tile[0][1] if name == "GIF" and file.tile[0][1] != (0, 0, *file.size) else None,
        fixed_bytes=fixed_bytes,
        pixel_bytes=pixel_bytes,
    )
    if opened.decode_bytes(8 if name == "JPEG" else 1) > MAX_DECODE_BYTES:
        raise _invalid(
            f"the image has {width} x {height} pixels, more than fit into memory for a {name} file of this kind",
            "IMAGE_TOO_LARGE",
        )
    return opened


@contextlib.contextmanager
def guarded(name: str, data: bytes) -> Iterator[None]:
    """Turns whatever a decoder of format `name` raises into InvalidImage."""
    try:
        yield
    except InvalidImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise _invalid(f"the {name} image is too large to decode", "IMAGE_TOO_LARGE") from error
    # decoders raise SyntaxError, RuntimeError, struct.error, KeyError, ... on bad data; there is no complete list
    except Exception as error:
        if _ends_early(name, data) or isinstance(error, EOFError) or "truncated" in str(error).lower():
            raise _invalid(f"the {name} image ends before it is complete", "IMAGE_TRUNCATED") from error
        raise _invalid(f"the {name} image is damaged and cannot be decoded", "IMAGE_CORRUPT") from error


def _recognise(data: bytes) -> str:
    for name, offset, signature in _SIGNATURES:
        if data.startswith(signature, offset):
            return name
    if data[4:8] == b"ftyp":
        brands = isobmff.brands(data)
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
            return "HEIC"
        raise _invalid("this is a media file, but not an AVIF or HEIC picture", "IMAGE_FORMAT_UNSUPPORTED")
    for name, signature in _UNSUPPORTED:
        if data.startswith(signature):
            raise _invalid(
                f"{name} is not supported; send JPEG, PNG, WebP, GIF, AVIF or HEIC", "IMAGE_FORMAT_UNSUPPORTED"
            )
    raise _invalid("this is not a picture in any known format", "IMAGE_NOT_RECOGNISED")


def _heif_plugin() -> Any:
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError as error:
        raise _invalid(
            "HEIC is not installed on this server; its operator can add it with: pip install 'lookalike[heif]'",
            "IMAGE_FORMAT_UNSUPPORTED",
        ) from error
    return HeifImageFile


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _invalid(
            f"the image has {width} x {height} pixels, at most {MAX_PIXELS // 10**6} megapixels are allowed",
            "IMAGE_TOO_LARGE",
        )
    if min(width, height) < MIN_SIDE:
        raise _invalid(f"the image has {width} x {height} pixels, each side needs {MIN_SIDE}", "IMAGE_TOO_SMALL")


def _decode_cost(name: str, file: Any, data: bytes, scans: int) -> tuple[int, float]:
    """(bytes as a whole, bytes by decoded pixel) that decoding takes at its peak; measured with Pillow 13."""
    pixels = file.width * file.height
    stored = _BYTES_PER_PIXEL.get(file.mode, 4)
    if name == "JPEG":
        # more than one scan: libjpeg keeps all coefficients, two bytes each, at full size
        samples = [across * down for _, across, down, _ in file.layer]
        coefficients = 2 * pixels * sum(samples) // max(samples) if scans > 1 else 0
        return coefficients, stored
    if name == "WEBP":
        return 0, 16  # two canvases, a copy as bytes, and Pillow's
    if name in ("AVIF", "HEIC"):
        channels = 4 if "A" in file.mode else 3
        planes = isobmff.av1_plane_bytes(data) if name == "AVIF" else _hevc_plane_bytes(file)
        return int(planes * 1.15), channels + 4
    return 0, stored + (1 if name == "GIF" else 0)


def _hevc_plane_bytes(file: Any) -> int:
    """Bytes of all decoded planes of a HEIC file, by what its header says; libheif itself refuses very large frames."""
    samples = {420: 3, 422: 4}.get(int(file.info.get("chroma") or 444), 6) + (2 if "A" in file.mode else 0)
    return int(file.width * file.height * samples // 2 * (2 if file.info.get("bit_depth", 10) > 8 else 1))


def _png_essentials(data: bytes) -> tuple[bytes, bytes]:
    """(the file without text, colour profiles and animation, the EXIF block): what is dropped cannot be a bomb."""
    kept, exif, position = [data[:8]], b"", 8
    for _ in range(_MAX_PNG_CHUNKS):
        if position + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + length + 12
        if kind in _PNG_ESSENTIALS:
            kept.append(data[position:end])
        elif kind == b"eXIf":
            exif = data[position + 8 : end - 4]
        if kind == b"IEND":
            break
        position = end
    else:
        raise SyntaxError("too many chunks")
    return b"".join(kept), exif


def _scale_transparency(file: Any) -> None:
    """Pillow brings PNG samples of 2, 4 and 16 bits (RGB) to 8, but not the colour that is declared transparent."""
    declared, raw = file.info.get("transparency"), file.tile[0][3]
    if raw in ("L;2", "L;4"):
        if declared is not None:
            file.info["transparency"] = declared * (85 if raw == "L;2" else 17) & 255
    elif raw == "RGB;16B" and declared is not None:
        file.info["transparency"] = tuple(value >> 8 for value in declared)


def _orientation(exif: bytes) -> int:
    """Orientation of a TIFF-structured EXIF block; 1 (upright) when it has none or is damaged."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, entry)
            if tag == 0x0112:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _ends_early(name: str, data: bytes) -> bool:
    """Whether a file that could not be decoded lacks its end."""
    if name == "WEBP":
        return len(data) < 12 or int.from_bytes(data[4:8], "little") + 8 > len(data)
    if name in ("AVIF", "HEIC"):
        return isobmff.ends_early(data)
    end_marks = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "GIF": b";"}
    return end_marks[name] not in data[-16:].rstrip(b"\0")


def _invalid(message: str, reason: str) -> InvalidImage:
    return InvalidImage(message, reason=reason, field="image")
