"""The size that the header of a TIFF, BMP, GIF, WebP, PNM, AVIF or JPEG 2000 file tells, before anything is decoded.

JPEG and PNG, which training reads, are in image_decoding.py. A format that is not here is not decoded: 25 KB of it
could claim three gigabytes of pixels.
"""

import math
import re
import struct
from collections.abc import Callable, Iterator
from typing import Literal

from facelib.errors import BadRecord

_PNM = re.compile(rb"P[1-6]\s+(?:#[^\n]*\n\s*)*([0-9]{1,9})\s+(?:#[^\n]*\n\s*)*([0-9]{1,9})\s")
_WIDTH, _HEIGHT = 256, 257  # tags of TIFF
_NUMBER_BYTES = {1: 1, 3: 2, 4: 4, 16: 8}  # the types of TIFF that hold a width: byte, short, long, long of BigTIFF


def other_size(data: bytes) -> tuple[int, int]:
    """The size of an image that is neither JPEG nor PNG, as it lies in the file.

    Args:
        data: the encoded image.

    Returns:
        (height, width) in pixels.

    Raises:
        BadRecord: another format, or a header that is cut short or damaged.
    """
    reader = next((reader for begin, reader in _READERS if re.match(begin, data, re.DOTALL)), None)
    if reader is None:
        raise BadRecord(f"neither JPEG nor PNG, nor any other supported image (begins with {data[:4].hex(' ')})")
    try:
        height, width = reader(data)
    except (struct.error, ValueError, IndexError) as error:
        raise BadRecord("the image cannot be decoded: its header is cut short or damaged") from error
    if not (height and width):
        raise BadRecord("the image cannot be decoded: it has no size")
    return height, width


def _bmp(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(height), abs(width)  # a height below 0: the rows begin at the top


def _gif(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return height, width


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return height, width


def _pnm(data: bytes) -> tuple[int, int]:
    found = _PNM.match(data[:4096])
    if found is None:
        raise ValueError("no PNM header")
    return int(found[2]), int(found[1])


def _avif(data: bytes) -> tuple[int, int]:
    """The largest of its images."""
    sizes = [struct.unpack_from(">4xII", data, found.end()) for found in re.finditer(b"ispe", data)]
    width, height = max(sizes, key=math.prod)
    return height, width


def _jpeg_2000(data: bytes) -> tuple[int, int]:
    width, height, left, top = struct.unpack_from(">4I", data, data.index(b"\xff\x4f\xff\x51") + 8)
    return max(height - top, 0), max(width - left, 0)


def _tiff(data: bytes) -> tuple[int, int]:
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"
    is_big = int.from_bytes(data[2:4], order) == 43  # BigTIFF
    count_bytes, entry_bytes, offset_bytes = (8, 20, 8) if is_big else (2, 12, 4)
    sides = {_WIDTH: 0, _HEIGHT: 0}
    for entry in _entries(data, order, count_bytes, entry_bytes, 8 if is_big else 4, offset_bytes):
        tag, kind = int.from_bytes(entry[:2], order), int.from_bytes(entry[2:4], order)
        if tag in sides and kind in _NUMBER_BYTES:
            start = 4 + offset_bytes
            sides[tag] = max(sides[tag], int.from_bytes(entry[start : start + _NUMBER_BYTES[kind]], order))
    return sides[_HEIGHT], sides[_WIDTH]


def _entries(
    data: bytes, order: Literal["little", "big"], count_bytes: int, entry_bytes: int, at: int, offset_bytes: int
) -> Iterator[bytes]:
    """The entries of the first directory of a TIFF."""
    directory = int.from_bytes(data[at : at + offset_bytes], order)
    first = directory + count_bytes
    count = int.from_bytes(data[directory:first], order)
    for k in range(min(count, (len(data) - first) // entry_bytes)):
        yield data[first + k * entry_bytes : first + (k + 1) * entry_bytes]


_READERS: tuple[tuple[bytes, Callable[[bytes], tuple[int, int]]], ...] = (
    (rb"II[*+]\0|MM\0[*+]", _tiff),
    (rb"BM", _bmp),
    (rb"GIF8[79]a", _gif),
    (rb"RIFF....WEBP", _webp),
    (rb"P[1-6]\s", _pnm),
    (rb"....ftypavi[fs]", _avif),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", _jpeg_2000),
)
