"""One header reader and one decoder. Truth: the pixels that were encoded, NumPy's rotations, and OpenCV."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from facelib.errors import BadRecord
from facelib.image_decoding import MAX_PIXELS, check_image, decode_image, decode_or_blank
from facelib.reports.hardest_pairs import thumbnail
from tests.helpers.exif import STORED, png_with_exif, segment, tiff, with_exif


def picture(height=96, width=112):
    """A smooth image without any symmetry: uint8 [height, width, 3], RGB."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([2 * x, 2 * y, 200 - x - y / 2], axis=2).clip(0, 255).astype(np.uint8)


def encode(image, suffix=".jpg"):
    return cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()


def lossless_jpeg(height, width):
    """A grey lossless JPEG (SOF3, ITU-T T.81 annex H) whose every pixel is 128: each difference is one bit, 0."""
    huffman = segment(0xC4, bytes([0, 1, *[0] * 15, 0]))
    frame = segment(0xC3, struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0]))
    scan = segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))
    return b"\xff\xd8" + frame + huffman + scan + bytes(height * width // 8) + b"\xff\xd9"


def with_frame(jpeg, marker, precision=8):
    """The same bytes under another start-of-frame marker."""
    at = jpeg.index(b"\xff\xc0")
    return jpeg[:at] + bytes([0xFF, marker]) + jpeg[at + 2 : at + 4] + bytes([precision]) + jpeg[at + 5 :]


@pytest.mark.parametrize("shape", [(1, 40_000), (40_000, 2), (900, 600), (512, 100), (1, 1)])
def test_a_picture_of_any_size_fits_a_contact_sheet_and_a_page(shape):
    shown = decode_or_blank(encode(np.full((*shape, 3), 90, np.uint8), ".png"))

    assert max(shown.shape[:2]) == min(512, max(shape)) and np.ptp(shown) == 0
    assert max(decode_image(thumbnail(encode(np.full((*shape, 3), 90, np.uint8), ".png"))).shape[:2]) <= 112


# ------------------------------------------------------------------------------------------------ EXIF


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("is_training", [True, False])
def test_an_image_is_turned_upright_as_its_exif_orientation_says(orientation, order, is_training):
    upright = picture()
    data = with_exif(encode(STORED[orientation](upright)), orientation, order)
    options = {"buffer": np.zeros_like(upright), "check_end": False} if is_training else {}

    assert check_image(data) == (96, 112)
    assert np.abs(decode_image(data, **options).astype(int) - upright).mean() < 2


@pytest.mark.parametrize("orientation", STORED)
def test_a_png_is_turned_upright_as_its_exif_chunk_says(orientation):
    upright = picture()
    data = encode(STORED[orientation](upright), ".png")
    data = png_with_exif(data, orientation)

    assert check_image(data) == (96, 112)
    np.testing.assert_array_equal(decode_image(data), upright)


def variants():
    stored = encode(picture())
    frame = stored.index(b"\xff\xc0")
    behind_frame = frame + 2 + int.from_bytes(stored[frame + 2 : frame + 4], "big")
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
    return {
        "behind the JFIF segment": with_exif(stored, 6, at=20),
        "behind XMP": with_exif(stored, 6, before=xmp),
        "behind the frame header": with_exif(stored, 6, at=behind_frame),
        "two, 6 first": with_exif(with_exif(stored, 1), 6),
        "two, 1 first": with_exif(with_exif(stored, 6), 1),
        "a fill byte before it": with_exif(stored, 6, before=b"\xff"),
        "orientation 0": with_exif(stored, 0),
        "orientation 9": with_exif(stored, 9),
        "the word in a comment": stored[:2] + segment(0xFE, b"Exif\0\0" + tiff(6)) + stored[2:],
        "no TIFF block": stored[:2] + segment(0xE1, b"Exif\0\0") + stored[2:],
        "a TIFF block cut short": stored[:2] + segment(0xE1, b"Exif\0\0" + tiff(6)[:24]) + stored[2:],
        "a directory far away": stored[:2] + segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff") + stored[2:],
    }


@pytest.mark.parametrize("name", variants())
def test_the_size_and_the_pixels_are_those_of_opencv_wherever_the_exif_segment_lies(name):
    data = variants()[name]
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)

    assert check_image(data) == expected.shape[:2]
    np.testing.assert_array_equal(decode_image(data, np.empty((96, 112, 3), np.uint8), check_end=False), expected)


# ------------------------------------------------------------------------------------------------ the header


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC2])
def test_the_size_of_every_common_kind_of_frame_is_read(marker):
    assert check_image(with_frame(encode(picture()), marker)) == (96, 112)


def test_a_lossless_jpeg_is_refused_by_its_name_unless_it_decodes():
    data = lossless_jpeg(112, 112)

    if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) is None:
        for refuse in (check_image, decode_image):
            with pytest.raises(BadRecord, match=r"lossless \(SOF3\).*baseline") as error:
                refuse(data)
            assert "damaged" not in str(error.value)
    else:
        assert check_image(data) == (112, 112) and (decode_image(data) == 128).all()


@pytest.mark.parametrize("marker, kind", [(0xC5, "hierarchical"), (0xC9, "arithmetic"), (0xCB, "lossless")])
def test_a_rare_kind_of_jpeg_is_accepted_only_when_opencv_decodes_it(marker, kind):
    data = with_frame(encode(picture()), marker)
    if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) is None:
        with pytest.raises(BadRecord, match=kind):
            check_image(data)
    else:
        assert check_image(data) == (96, 112)


def test_a_jpeg_of_twelve_bits_a_sample_is_named():
    with pytest.raises(BadRecord, match="12 bits"):
        check_image(with_frame(encode(picture()), 0xC1, precision=12))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_image_cut_short_has_no_size(suffix):
    data = encode(picture(), suffix)

    for size in [0, 1, 2, 8, 20, 33, 60, 200, len(data) // 2, len(data) - 2]:
        with pytest.raises(BadRecord, match=r"cut short|empty|neither JPEG nor PNG"):
            check_image(data[:size])


def test_another_size_than_the_wanted_one_is_told_with_both():
    with pytest.raises(BadRecord, match="96x112, but all must be 112x112"):
        check_image(encode(picture()), (112, 112))


# ------------------------------------------------------------------------------------------------ decoding


def test_a_claim_of_too_many_pixels_is_refused_before_they_are_allocated():
    data = encode(picture(), ".png")
    head = data[12:16] + struct.pack(">II", 40_000, 30_000) + data[24:29]
    data = data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    assert MAX_PIXELS < 40_000 * 30_000

    with pytest.raises(BadRecord, match=r"30000x40000.*100,000,000"):
        decode_image(data)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("check_end", [True, False])
def test_another_size_is_not_decoded(suffix, check_end):
    buffer = np.empty((112, 112, 3), np.uint8)
    with pytest.raises(BadRecord, match="96x112, but all must be 112x112"):
        decode_image(encode(picture(), suffix), buffer, size=(112, 112), check_end=check_end)


def test_a_jpeg_is_written_into_the_buffer_where_it_fits():
    buffer = np.zeros((96, 112, 3), np.uint8)

    assert np.may_share_memory(decode_image(encode(picture()), buffer, check_end=False), buffer)
    for other in (picture(50, 60), picture(100, 200)):
        found = decode_image(encode(other), buffer, check_end=False)
        assert found.shape == other.shape and np.abs(found.astype(int) - other).mean() < 2


def test_a_cut_jpeg_is_refused_unless_its_end_is_not_checked():
    data, buffer = encode(picture())[:-40], np.empty((96, 112, 3), np.uint8)

    with pytest.raises(BadRecord, match="cut short"):
        decode_image(data, buffer)
    seen = decode_image(data, buffer, check_end=False)
    np.testing.assert_array_equal(seen[:48], decode_image(encode(picture()))[:48])


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty"),
        (b"no image at all", "neither JPEG nor PNG"),
        (b"\xff\xd8\xff\xe0\0\2" + bytes(30) + b"\xff\xd9", "no frame"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason_and_shown_as_a_crossed_out_square(data, reason):
    with pytest.raises(BadRecord, match=reason):
        decode_image(data)
    blank = decode_or_blank(data)
    assert blank.shape == (112, 112, 3) and len(np.unique(blank.reshape(-1, 3), axis=0)) == 2


def test_other_formats_are_decoded_as_opencv_does_and_arrays_pass_through():
    image = picture()

    np.testing.assert_array_equal(decode_image(encode(image, ".bmp")), image)
    assert decode_image(image) is image
