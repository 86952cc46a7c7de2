"""Sizes from headers. Truth: OpenCV's encoders and decoder, and headers written byte by byte from the formats."""

import struct

import cv2
import numpy as np
import pytest

from facelib.errors import BadRecord
from facelib.image_decoding import decode_image
from facelib.image_sizes import other_size
from tests.helpers.pixel_bombs import bombs

SUFFIXES = [".bmp", ".gif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".avif", ".jp2"]


def encoded(suffix, shape=(45, 67, 3), *options):
    return cv2.imencode(suffix, np.full(shape, 90, np.uint8), options)[1].tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shape", [(45, 67, 3), (300, 40, 3)])
def test_the_size_is_that_of_the_decoded_image(suffix, shape):
    data = encoded(suffix, shape if suffix not in (".pgm", ".pbm") else shape[:2])

    assert other_size(data) == shape[:2] == decode_image(data).shape[:2]


def test_a_lossless_webp_and_both_headers_of_bmp_have_their_size():
    assert other_size(encoded(".webp", (45, 67, 3), cv2.IMWRITE_WEBP_QUALITY, 101)) == (45, 67)
    core = b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 67, 45, 1, 24)
    down = b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 67, -45, 1, 24)
    assert other_size(core) == other_size(down) == (45, 67)


@pytest.mark.parametrize("name", bombs())
def test_a_bomb_is_refused_before_anything_is_decoded(name, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))

    with pytest.raises(BadRecord, match=r"(30000x30000|16383x16383) pixels, but at most"):
        decode_image(bombs()[name])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_header_cut_or_changed_anywhere_is_one_reason(suffix):
    data = encoded(suffix, (45, 67, 3) if suffix not in (".pgm", ".pbm") else (45, 67))
    for at in range(0, min(len(data), 400), 3):
        for wrong in (data[:at], data[:at] + b"\xff" + data[at + 1 :], data[:at] + b"\0" + data[at + 1 :]):
            try:
                decode_image(wrong)
            except BadRecord as error:
                assert "\n" not in str(error) and len(str(error)) < 200


@pytest.mark.parametrize("data", [b"PF\n30000 30000\n-1.0\n", b"#?RADIANCE\n", b"\x59\xa6\x6a\x95", b"<svg>", b"BM"])
def test_another_format_is_not_decoded(data):
    with pytest.raises(BadRecord):
        decode_image(data + bytes(8) if data != b"BM" else data)
