"""Encoded images: the size that a JPEG or PNG header tells, the checks without decoding, and the one decoder.

Training, evaluation, photos and contact sheets all call `decode_image`. So they see the same pixels, turned upright as
the EXIF orientation says.
"""

import struct
from typing import Literal, Protocol

import cv2
import numpy as np

from facelib.errors import BadRecord
from facelib.image_sizes import other_size

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png")
# Image files that prepare_data.py does not take: reading one says so, and --skip-bad leaves it out.
OTHER_IMAGES = (".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".heic", ".heif", ".avif", ".jxl")
MAX_PIXELS = 100_000_000  # the largest cameras; a header may claim any number, and decoding allocates it

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_JPEG_END, _EXIF = b"\xff\xd9", b"Exif\0\0"
_APP1, _SCAN, _FILL = 0xE1, 0xDA, 0xFF
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start-of-frame markers
_MARKERS = _FRAMES | {_APP1, _SCAN, _FILL}
_CHUNK, _WIDTH_HEIGHT = struct.Struct(">I4s"), struct.Struct(">II")
_GREY = 128
_LARGEST_ON_A_SHEET = 512  # pixels, of the longer side
_NO_MEMORY = -4  # cv2.Error.StsNoMem
_BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}  # of TIFF
_TRAILING = 64  # bytes from the end where the end marker is looked for first
# What the start-of-frame markers other than baseline, extended and progressive mean: ITU-T T.81, table B.1.
_RARE_FRAMES = {3: "lossless", 5: "hierarchical", 6: "hierarchical", 7: "hierarchical", 9: "arithmetic-coded",
                10: "arithmetic-coded", 11: "arithmetic-coded lossless", 13: "hierarchical", 14: "hierarchical",
                15: "hierarchical"}  # fmt: skip


class Photos(Protocol):
    """Encoded images by number, as every `Source` has them. `describe(i)` says where image i lies."""

    def __len__(self) -> int: ...
    def read(self, i: int) -> bytes: ...
    def describe(self, i: int) -> str: ...


# ------------------------------------------------------------------------------------------- without decoding


def check_image(data: bytes, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Checks without decoding that a JPEG or PNG is whole, can be decoded, and has the wanted size.

    Args:
        data: the encoded image.
        size: (height, width) in pixels that it must have; None for any.

    Returns:
        (height, width) in pixels of the image turned upright.

    Raises:
        BadRecord: empty, neither format, no frame header or cut short; a kind of JPEG that OpenCV does not decode;
            another size.
    """
    found, missing, kind = _read_header(data)
    if missing:
        raise BadRecord(missing)
    _check_size(found, size)
    if kind:
        _check_pixels(found)
        _decode_any(data, kind)
    return found


def _read_header(data: bytes) -> tuple[tuple[int, int], str, str]:
    """What the header of a JPEG or PNG says.

    Returns:
        size: (height, width) in pixels of the image turned upright.
        missing: '' when the end of the image is there, else the error to raise.
        kind: '' for what every decoder reads, else the name of a rare kind of JPEG.
    """
    if data[:2] == _JPEG:
        return _jpeg_header(data)
    if data[:8] == _PNG:
        return _png_header(data)
    raise BadRecord("the image is empty" if not data else f"neither JPEG nor PNG (begins with {data[:4].hex(' ')})")


def _jpeg_header(data: bytes) -> tuple[tuple[int, int], str, str]:
    """Walks the segments up to the first scan. Bytes behind the end of the image do not matter."""
    at, end, frame, orientation = 2, len(data) - 9, 0, 0
    while at < end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _MARKERS:
            if marker == _FILL:
                at += 1
                continue
            if marker == _SCAN:
                break
            if marker != _APP1:
                frame = frame or at
            elif not orientation and data[at + 4 : at + 10] == _EXIF:
                orientation = _orientation(data[at + 10 : at + 2 + (data[at + 2] << 8 | data[at + 3])])
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    # Phones append whole films. Behind the frame header only the end is FF D9: compressed pixels never hold it.
    has_end = _JPEG_END in data[-_TRAILING:] or (frame and data.find(_JPEG_END, frame) >= 0)
    missing = "" if has_end else "the JPEG is cut short: the end marker is missing"
    if not frame:
        raise BadRecord(missing or "the JPEG is damaged: it has no frame header")
    marker, bits = data[frame + 1], data[frame + 4]
    height, width = data[frame + 5] << 8 | data[frame + 6], data[frame + 7] << 8 | data[frame + 8]
    if not (height and width):
        raise BadRecord("the JPEG is damaged: it has no size")
    kind = "" if marker <= 0xC2 and bits == 8 else _name_of_kind(marker, bits)
    return (width, height) if orientation > 4 else (height, width), missing, kind


def _name_of_kind(marker: int, bits: int) -> str:
    name = _RARE_FRAMES.get(marker - 0xC0, "")
    return f"{name} (SOF{marker - 0xC0})" if name else f"of {bits} bits per sample"


def _png_header(data: bytes) -> tuple[tuple[int, int], str, str]:
    """Walks the chunks to the end of the image. Bytes behind it do not matter."""
    missing = "the PNG is cut short or damaged"
    if len(data) < 45 or data[12:16] != b"IHDR":
        raise BadRecord(missing)
    width, height = _WIDTH_HEIGHT.unpack_from(data, 16)
    at, last, orientation = 8, len(data) - 12, 0
    while at <= last:
        length, kind = _CHUNK.unpack_from(data, at)
        if kind == b"IEND":
            missing = ""
            break
        if kind == b"eXIf":
            orientation = _orientation(data[at + 8 : at + 8 + length])
        at += 12 + length
    return (width, height) if orientation > 4 else (height, width), missing, ""


def _orientation(tiff: bytes) -> int:
    """The orientation in a TIFF block, 1 to 8; 0 when it has none. EXIF 2.32, section 4.6.4."""
    order = _BYTE_ORDERS.get(tiff[:4])
    if order is None:
        return 0
    directory = int.from_bytes(tiff[4:8], order)
    count = int.from_bytes(tiff[directory : directory + 2], order)
    for at in range(directory + 2, min(directory + 2 + 12 * count, len(tiff) - 11), 12):
        if int.from_bytes(tiff[at : at + 2], order) == 0x0112:
            value = int.from_bytes(tiff[at + 8 : at + 10], order)
            return value if 1 <= value <= 8 else 0
    return 0


class OtherSize(BadRecord):
    """An image that has not the size that all must have."""


def _check_size(found: tuple[int, int], wanted: tuple[int, int] | None) -> None:
    if wanted is not None and found != tuple(wanted):
        raise OtherSize(
            f"the image is {found[0]}x{found[1]}, but all must be {wanted[0]}x{wanted[1]}: "
            f"align photos with align_faces.py"
        )


def _check_pixels(found: tuple[int, int]) -> None:
    if found[0] * found[1] > MAX_PIXELS:
        raise BadRecord(
            f"the image has {found[0]}x{found[1]} pixels, but at most {MAX_PIXELS:,} can be decoded: make the "
            "image smaller"
        )


# --------------------------------------------------------------------------------------------------- decoding


def decode_image(
    image: bytes | np.ndarray,
    buffer: np.ndarray | None = None,
    *,
    size: tuple[int, int] | None = None,
    check_end: bool = True,
) -> np.ndarray:
    """Decodes an image and turns it upright as its EXIF orientation says.

    With a buffer and without `check_end`, as training calls it, ordinary JPEGs go through simplejpeg: the pixels of
    libjpeg-turbo as OpenCV gives them, but without a copy and at a fifth of the cost of a call.

    Args:
        image: JPEG, PNG, or a format of facelib/image_sizes.py; pixels, uint8 [H, W, 3], pass through.
        buffer: uint8 [H, W, 3] that may receive the pixels, and is then what the function returns.
        size: (height, width) in pixels that the image must have; None for any.
        check_end: refuse what is cut short. With False the decoder may fill the rest with grey.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        BadRecord: empty, cut short, another size, more than `MAX_PIXELS`, or not decodable.
    """
    if isinstance(image, np.ndarray):
        _check_size(image.shape[:2], size)
        return image
    # Without these six bytes there is no EXIF segment. To look for them takes a fortieth of the time of decoding.
    if buffer is not None and not check_end and image.startswith(_JPEG) and image.find(_EXIF) < 0:
        import simplejpeg

        try:
            pixels = simplejpeg.decode_jpeg(image, "RGB", buffer=buffer, strict=False)
        except ValueError:  # it does not fit the buffer, or has four colours: OpenCV knows more of them
            pass
        else:
            shape = pixels.shape
            if shape[:2] != size:
                _check_size(shape[:2], size)
            return buffer if shape == buffer.shape else pixels
    kind = ""
    if image[:2] == _JPEG or image[:8] == _PNG or not image:
        found, missing, kind = _read_header(image)
        if missing and check_end:
            raise BadRecord(missing)
        _check_size(found, size)  # before decoding: 1 MB of PNG can claim a gigabyte of pixels
    else:
        found = other_size(image)
    _check_pixels(found)
    pixels = _decode_any(image, kind)
    _check_size(pixels.shape[:2], size)
    return pixels


def shrunk(pixels: np.ndarray, longest: int) -> np.ndarray:
    """uint8 [H, W, 3] reduced until no side is longer than `longest` pixels; a smaller image as it is."""
    scale = longest / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def decode_or_blank(image: bytes) -> np.ndarray:
    """Decodes an image for a contact sheet: uint8 [H, W, 3], RGB; a crossed-out grey square when it cannot be.

    A large one is reduced to 512 pixels: a sheet holds a hundred.
    """
    try:
        return shrunk(decode_image(image, check_end=False), _LARGEST_ON_A_SHEET)
    except BadRecord:
        pixels = np.full((112, 112, 3), _GREY, np.uint8)
        cv2.line(pixels, (0, 0), (111, 111), (255, 0, 0), 2)
        cv2.line(pixels, (0, 111), (111, 0), (255, 0, 0), 2)
        return pixels


def _decode_any(image: bytes, kind: str) -> np.ndarray:
    """OpenCV's pixels: uint8 [H, W, 3], RGB. `kind`: of `_read_header`, for the message."""
    try:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        if error.code == _NO_MEMORY:
            raise MemoryError(f"an image of {len(image):,} bytes") from error
        pixels = None
    if pixels is not None:
        return pixels
    if kind:
        raise BadRecord(f"the JPEG is {kind}, which OpenCV cannot decode: save the image as a baseline JPEG or as PNG")
    raise BadRecord("the image cannot be decoded: its pixels are damaged")
