"""Image size from the first bytes of a JPEG or PNG, and whether its end is there: all without decoding."""

import struct
from typing import Protocol

import cv2
import numpy as np
import simplejpeg

from facelib.errors import BadRecord

_GREY = 128
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# Images all the same: reading one says that it is neither JPEG nor PNG, and --skip-bad skips it.
OTHER_IMAGES = (".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".heic")

# Start-of-frame markers of the JPEGs that OpenCV decodes: baseline, extended, progressive (C4, C8, CC are no frames).
_FRAMES = {0xC0, 0xC1, 0xC2}
_TRAILING = 64  # bytes from the end where the end marker is looked for first


def read_size(data: bytes) -> tuple[int, int]:
    """(height, width) in pixels of JPEG or PNG bytes, from its header.

    Raises:
        BadRecord: empty, neither format, no frame header, or without its end (cut short).
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        if len(data) < 45 or data[12:16] != b"IHDR" or data[-8:-4] != b"IEND":
            raise BadRecord("the PNG is cut short or damaged")
        width, height = struct.unpack_from(">II", data, 16)
        return height, width
    raise BadRecord("the image is empty" if not data else f"neither JPEG nor PNG (begins with {data[:4].hex(' ')})")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    has_end = b"\xff\xd9" in data[-_TRAILING:]
    at, end = 2, len(data) - 9
    while at < end:
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker in _FRAMES:
            height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
            # Telephones append whole films. Behind the frame header only the end is FF D9: the pixels never hold it.
            has_end = has_end or data.find(b"\xff\xd9", at) >= 0
            if has_end and height and width:
                return height, width
            break
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    if not has_end:
        raise BadRecord("the JPEG is cut short: its end marker is missing")
    raise BadRecord("the JPEG is damaged: it has no frame header")


def decode_or_blank(image: bytes) -> np.ndarray:
    """Decodes JPEG or PNG bytes to uint8 [H, W, 3] RGB; a crossed-out grey square for what cannot be decoded."""
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB) if len(image) else None
    if pixels is None:
        pixels = np.full((112, 112, 3), _GREY, np.uint8)
        cv2.line(pixels, (0, 0), (111, 111), (255, 0, 0), 2)
        cv2.line(pixels, (0, 111), (111, 0), (255, 0, 0), 2)
    return pixels


class Photos(Protocol):
    """Encoded images by number, as every `Source` of facelib/data/readers has them. `describe(i)` says where image i lies."""

    def __len__(self) -> int: ...
    def read(self, i: int) -> bytes: ...
    def describe(self, i: int) -> str: ...


def decode_image(image: bytes | np.ndarray, buffer: np.ndarray) -> np.ndarray | None:
    """JPEG or PNG bytes -> uint8 [H, W, 3], RGB, written into `buffer` where it fits; None when they cannot be decoded.

    JPEGs go through simplejpeg, which gives libjpeg-turbo's pixels as OpenCV does, but without a copy and at less cost
    a call: a fifth of the time. Arrays pass through.
    """
    if isinstance(image, np.ndarray):
        return image
    if image[:2] == b"\xff\xd8":
        try:
            return simplejpeg.decode_jpeg(image, "RGB", buffer=buffer, strict=False)
        except ValueError:  # another size than the buffer's, or not decodable: OpenCV tells which
            pass
    return cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)
