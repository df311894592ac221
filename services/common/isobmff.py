"""The box structure of AVIF and HEIC files (ISO/IEC 14496-12), as far as it tells what decoding will cost.

The size that such a file declares binds nobody: the coded frames inside may be far larger, and the decoder scales them
afterwards. So the AV1 sequence headers themselves are read (AV1 specification, section 5.5). All functions take whole
files as bytes; damaged ones raise SyntaxError, IndexError or struct.error.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_MAX_ITEMS = 1024
_MAX_OBUS = 4096
_OBU_SEQUENCE_HEADER = 1


class _Bits:
    """Reads unsigned numbers of any width, most significant bit first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = len(data) * 8

    def __call__(self, width: int) -> int:
        self._left -= width
        if self._left < 0:
            raise SyntaxError("the header ends early")
        return self._value >> self._left & (1 << width) - 1


def brands(data: bytes) -> set[bytes]:
    """Major and compatible brands of the file type box, which comes first."""
    end = min(int.from_bytes(data[:4], "big"), len(data), 1024)
    return {data[8:12]} | {data[i : i + 4] for i in range(16, end - 3, 4)}


def as_still(data: bytes) -> bytes:
    """The file as a decoder shall see it: its still picture, also when it holds an animation too."""
    return data if data[8:12] == b"avif" else data[:8] + b"avif" + data[12:]


def ends_early(data: bytes) -> bool:
    """Whether the last top-level box reaches past the end of the file."""
    try:
        return any(end > len(data) for _, _, end in _boxes(data, 0, len(data), whole=False))
    except (SyntaxError, struct.error):
        return True


def av1_plane_bytes(data: bytes) -> int:
    """Bytes of all decoded planes of an AVIF file, thumbnails included: an upper bound for what its frames declare."""
    meta, meta_end = _find(data, 0, len(data), b"meta")
    meta += 4
    kinds = dict(_item_kinds(data, *_find(data, meta, meta_end, b"iinf")))
    idat = next((start for kind, start, _ in _boxes(data, meta, meta_end) if kind == b"idat"), 0)
    total = 0
    for item, in_idat, extents in _item_extents(data, *_find(data, meta, meta_end, b"iloc")):
        if kinds.get(item) == b"av01":
            base = idat if in_idat else 0
            parts = [data[base + at : base + at + length if length else None] for at, length in extents]
            total += max(map(_frame_bytes, _sequence_headers(b"".join(parts))), default=0)
    if not total:
        raise SyntaxError("there is no AV1 picture in the file")
    return total


def _boxes(data: bytes, start: int, end: int, whole: bool = True) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of the contents of each box. whole: a box that reaches past `end` is an error."""
    while start < end:
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        box_end = start + size if size else end
        if box_end < body or (whole and box_end > end):
            raise SyntaxError("a box does not fit into its parent")
        yield kind, body, box_end
        start = box_end


def _find(data: bytes, start: int, end: int, wanted: bytes) -> tuple[int, int]:
    for kind, body, box_end in _boxes(data, start, end):
        if kind == wanted:
            return body, box_end
    raise SyntaxError(f"there is no {wanted!r} box")


def _item_kinds(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(item id, type) of the item information box."""
    start += 6 if data[start] == 0 else 8
    for _, body, _ in _boxes(data, start, end):
        item, _, kind = struct.unpack_from(">HH4s" if data[body] == 2 else ">IH4s", data, body + 4)
        yield item, kind


def _item_extents(data: bytes, start: int, end: int) -> Iterator[tuple[int, bool, list[tuple[int, int]]]]:
    """(item id, whether in the idat box, [(offset, length)]) of the item location box."""
    position = start + 4

    def number(size: int) -> int:
        nonlocal position
        position += size
        if position > end:
            raise SyntaxError("the item locations end early")
        return int.from_bytes(data[position - size : position], "big")

    version = data[start]
    widths = number(2)
    offset_size, length_size, base_size = widths >> 12, widths >> 8 & 15, widths >> 4 & 15
    index_size = widths & 15 if version else 0
    id_size = 4 if version == 2 else 2
    count = number(id_size)
    if count > _MAX_ITEMS:
        raise SyntaxError("too many items")
    for _ in range(count):
        item = number(id_size)
        in_idat = version > 0 and number(2) & 15 == 1
        number(2)
        base = number(base_size)
        extents = []
        for _ in range(number(2)):
            number(index_size)
            offset = base + number(offset_size)
            extents.append((offset, number(length_size)))
        if len(extents) > _MAX_ITEMS:
            raise SyntaxError("too many extents")
        yield item, in_idat, extents


def _sequence_headers(item: bytes) -> Iterator[bytes]:
    """The bodies of all sequence header OBUs of an AV1 item."""
    position = 0
    for _ in range(_MAX_OBUS):
        if position >= len(item):
            return
        head = item[position]
        position += 2 if head & 4 else 1
        size = len(item) - position
        if head & 2:
            size = 0
            for i in range(8):
                byte = item[position]
                position += 1
                size |= (byte & 127) << (7 * i)
                if byte < 128:
                    break
        if head >> 3 & 15 == _OBU_SEQUENCE_HEADER:
            yield item[position : position + min(size, 1024)]
        position += size
    raise SyntaxError("too many OBUs")


def _frame_bytes(header: bytes) -> int:
    """Bytes of the planes of the largest frame that a sequence header permits."""
    bits = _Bits(header)
    profile, _, reduced = bits(3), bits(1), bits(1)
    if reduced:
        bits(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits(4) + 1, bits(4) + 1
    width, height = bits(width_bits) + 1, bits(height_bits) + 1
    if not reduced:
        # a frame header may override the size, up to what these fields hold
        width, height = 1 << width_bits, 1 << height_bits
        if bits(1):
            bits(7)
    bits(3)
    if not reduced:
        _skip_inter_tools(bits)
    bits(3)
    high = bits(1)
    twelve = profile == 2 and high and bits(1)
    mono = profile != 1 and bits(1)
    colours = bits(24) if bits(1) else 0
    if mono:
        bits(1)
        samples = 2  # in halves of a plane
    elif colours == 0x010D00:  # sRGB as identity matrix
        bits(1)
        samples = 6
    else:
        bits(1)
        across = bits(1) if twelve else profile != 1
        down = (bits(1) if across else 0) if twelve else profile == 0
        if across and down:
            bits(2)
        bits(1)
        samples = 3 if across and down else 4 if across else 6
    grain = bits(1)  # is added on a copy
    return width * height * samples // 2 * (2 if high else 1) * (2 if grain else 1)


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits(1):  # timing info
        bits(64)
        if bits(1):
            zeros = 0
            while not bits(1):
                zeros += 1
            bits(zeros)
        if bits(1):  # decoder model info
            delay_bits = bits(5) + 1
            bits(32 + 5 + 5)
    display_delay = bits(1)
    for _ in range(bits(5) + 1):
        bits(12)
        if bits(5) > 7:
            bits(1)
        if delay_bits and bits(1):
            bits(2 * delay_bits + 1)
        if display_delay and bits(1):
            bits(4)


def _skip_inter_tools(bits: _Bits) -> None:
    bits(4)
    order_hint = bits(1)
    if order_hint:
        bits(2)
    choose_screen_content = bits(1)
    if (choose_screen_content or bits(1)) and not bits(1):
        bits(1)
    if order_hint:
        bits(3)
