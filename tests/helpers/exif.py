"""Images with an EXIF orientation, written byte by byte."""

import struct
import zlib

import numpy as np

# How the pixels lie in the file when the EXIF orientation is the key, from the upright image: the standard's table.
STORED = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image, -1),
}


def tiff(orientation, order="<"):
    """The TIFF block of an EXIF segment with two entries: the image width, then the orientation."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 2)
    width = struct.pack(order + "HHIHH", 0x100, 3, 1, 112, 0)
    return head + width + struct.pack(order + "HHIHHI", 0x112, 3, 1, orientation, 0, 0)


def segment(marker, body):
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_exif(jpeg, orientation, order="<", *, at=2, before=b""):
    return jpeg[:at] + before + segment(0xE1, b"Exif\0\0" + tiff(orientation, order)) + jpeg[at:]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with_exif(png, orientation, order="<"):
    return png[:33] + chunk(b"eXIf", tiff(orientation, order)) + png[33:]
