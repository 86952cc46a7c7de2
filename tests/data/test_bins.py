"""Verification sets: every variant of the format is read, nothing in a hostile file is run."""

import io
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelib.data.verification.bins import decode_images, find_bins, load_bin, stream_images, write_bin
from facelib.errors import FaceError

LFW = Path(__file__).parents[3] / "shared" / "data" / "faces_mix" / "lfw.bin"
IMAGES = [b"first", b"\x80\xff second", b"third", b"\x00"]
IS_SAME = [True, False]


def write_pickle(folder: Path, content: object, protocol: int = 4) -> Path:
    path = folder / "set.bin"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("as_image", [bytes, lambda image: np.frombuffer(image, np.uint8).copy()])
@pytest.mark.parametrize("as_mark", [bool, int, np.bool_, np.int64, np.uint8])
def test_every_protocol_image_type_and_mark_type_is_read(tmp_path, protocol, as_image, as_mark):
    content = ([as_image(image) for image in IMAGES], [as_mark(value) for value in IS_SAME])

    pairs = load_bin(write_pickle(tmp_path, content, protocol))

    assert pairs.images == IMAGES
    assert pairs.is_same.dtype == bool and pairs.is_same.tolist() == IS_SAME
    assert pairs.name == "set" and len(pairs) == 2


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_written_by_numpy_1_are_read(tmp_path, protocol):
    content = pickle.dumps(([np.frombuffer(image, np.uint8).copy() for image in IMAGES], np.array(IS_SAME)), protocol)
    old = content.replace(b"numpy._core", b"numpy.core") if protocol < 4 else _rename_numpy(content)

    pairs = load_bin(write_pickle(tmp_path, old))

    assert b"numpy._core" not in old and b"numpy.core" in old
    assert pairs.images == IMAGES and pairs.is_same.tolist() == IS_SAME


def _rename_numpy(content: bytes) -> bytes:
    """Protocol 4 words carry their length, and the frame its own."""
    for word in (b"numpy._core.multiarray", b"numpy._core.numeric"):
        new = word.replace(b"_core", b"core")
        content = content.replace(bytes([0x8C, len(word)]) + word, bytes([0x8C, len(new)]) + new)
    frame = content.index(b"\x95")
    return content[:frame] + content[frame + 9 :]


def test_python_2_strings_are_read_as_bytes(tmp_path):
    words = b"".join(b"T" + struct.pack("<i", len(image)) + image for image in IMAGES)
    content = b"\x80\x02](" + words + b"e](\x88\x89e\x86."
    with pytest.raises(UnicodeDecodeError):
        pickle.loads(content)  # what the field's own tools stumble over

    assert load_bin(write_pickle(tmp_path, content)).images == IMAGES


def python_2_text(value) -> bytes:
    """Protocol 0 as Python 2.7 writes it: strings with escapes, I01 and I00 for bools."""
    if isinstance(value, bytes):
        return b"S'" + "".join(f"\\x{byte:02x}" for byte in value).encode() + b"'\np1\n"
    if isinstance(value, bool):
        return b"I01\n" if value else b"I00\n"
    return b"(lp0\n" + b"".join(python_2_text(item) + b"a" for item in value)


def test_the_text_pickles_of_python_2_are_read(tmp_path):
    content = b"(" + python_2_text(IMAGES) + python_2_text(IS_SAME) + b"tp9\n."
    assert tuple(pickle.loads(content, encoding="bytes")) == (IMAGES, IS_SAME)

    pairs = load_bin(write_pickle(tmp_path, content))
    assert pairs.images == IMAGES and pairs.is_same.tolist() == IS_SAME


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "<i2", ">i4", "<u4", "<i8", ">i8"])
def test_truths_may_be_one_array_of_numpy(tmp_path, dtype, protocol):
    for shape in [(2,), (2, 1)]:
        content = (IMAGES, np.array(IS_SAME).astype(dtype).reshape(shape))

        assert load_bin(write_pickle(tmp_path, content, protocol)).is_same.tolist() == IS_SAME
    with pytest.raises(FaceError, match="Pair 1"):
        load_bin(write_pickle(tmp_path, (IMAGES, np.array([1, 7], dtype if dtype != "?" else "u1")), protocol))


def test_columns_as_older_opencv_encodes_them_are_read(tmp_path):
    content = ([np.frombuffer(image, np.uint8).reshape(-1, 1) for image in IMAGES], IS_SAME)

    assert load_bin(write_pickle(tmp_path, content)).images == IMAGES


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_again_and_python_reads_it_too(tmp_path_factory, halves, random):
    images = [*halves, *halves[::-1]]
    is_same = [random.random() < 0.5 for _ in halves]
    path = tmp_path_factory.mktemp("bins") / "a.bin"

    write_bin(path, images, is_same)

    assert load_bin(path).images == images and load_bin(path).is_same.tolist() == is_same
    assert pickle.loads(path.read_bytes()) == (images, is_same)


class Reduce:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


MARKER = "facelib_pwned"


def laughing_contents() -> dict[str, bytes]:
    """Pickles of 300 bytes with a list of 10^29 items, at each place where a message may show a value."""
    levels = b"".join(b"](" + b"h%c" % (k - 1) * 10 + b"eq%c0" % k for k in range(1, 30))
    laugh, images = b"\x80\x02](" + b"K\x01" * 10 + b"eq\x000" + levels, b"](U\x01aU\x01be"
    dtype = b"cnumpy\ndtype\n"
    return {
        "truth": laugh + images + b"](h\x1de\x86.",
        "truths": laugh + images + b"h\x1d\x86.",
        "image": laugh + b"](h\x1dU\x01ae](\x88e\x86.",
        "top": laugh + b"h\x1d.",
        "dtype": laugh + b"](" + dtype + b"h\x1d\x85RU\x01be](\x88e\x86.",
        "dtype state": laugh + b"](" + dtype + b"U\x02u1\x85R(h\x1dh\x1dtbU\x01be](\x88e\x86.",
        "scalar": laugh + b"](cnumpy.core.multiarray\nscalar\nh\x1dh\x1d\x86RU\x01be](\x88e\x86.",
        "codec": laugh + b"](c_codecs\nencode\nh\x1dh\x1d\x86RU\x01be](\x88e\x86.",
        "truth as text": b"\x80\x02" + images + b"](X" + struct.pack("<I", 10**7) + b"x" * 10**7 + b"e\x86.",
    }


def hostile_contents(folder: Path) -> dict[str, object]:
    touch = f"touch {folder / MARKER}"
    dtype = np.dtype("u1")
    reconstruct = np.zeros(1).__reduce__()[0]
    return {
        "os.system": ([Reduce(os.system, (touch,))], []),
        "eval": ([Reduce(eval, (f"open({str(folder / MARKER)!r}, 'w')",))], []),
        "object array": ([np.array([Reduce(os.system, (touch,))], dtype=object), b"x"], [True]),
        "float array": ([np.zeros(4, np.float64), b"x"], [True]),
        "object dtype": ([Reduce(np.dtype, ("O8", False, True)), b"x"], [True]),
        "matrix": ([np.zeros((4, 4), np.uint8), b"x"], [True]),
        "getattr": ([Reduce(getattr, (dtype, "type"))], []),
        "another array type": ([Reduce(reconstruct, (bytearray, (2**40,), b"b"))], []),
        "state on a name": b"\x80\x02](cnumpy\ndtype\n}U\x01aU\x01bsbe]\x86.",
        "state tuple on a name": b"\x80\x02](cnumpy\ndtype\nK\x01K\x02\x86be]\x86.",
        "dtype of a name": b"\x80\x02]cnumpy\ndtype\ncnumpy\nndarray\n\x85Ra]\x86.",
        "persistent id": b"\x80\x02](Pboom\ne]\x86.",
        "extension": b"\x80\x02]\x82\x01a]\x86.",
        "instance": b"(S'true'\nios\nsystem\n.",
        "set": ([{1, 2}], [True]),
        "dict": ({"images": []}, []),
        "memo bomb": b"\x80\x02]r\xff\xff\xff\x7f]\x86.",
        "length bomb": b"\x80\x04]\x8e" + struct.pack("<Q", 2**45) + b"x]\x86.",
        "shape bomb": (
            [Reduce(reconstruct, (np.ndarray, (0,), b"b"), (1, (2**40,), dtype, False, b"x")), b"x"],
            [True],
        ),
        "codecs": ([Reduce(__import__("_codecs").encode, ("x", "rot13")), b"x"], [True]),
        **{f"laughs {place}": content for place, content in laughing_contents().items()},
        "a list in itself": b"\x80\x02](U\x01aU\x01be](]q\x00h\x00ae\x86.",
        "whole number of 5,000 digits": b"](U\x01aU\x01be](L" + b"9" * 5_000 + b"L\nee\x86.",
        "truth of 4,000 digits": b"](U\x01aU\x01be](L" + b"9" * 4_000 + b"L\ne\x86.",
        "truth of 255 bytes": b"\x80\x02](U\x01aU\x01be](\x8a\xff" + b"\x7f" * 255 + b"e\x86.",
        "a million marks": b"(" * 1_000_000 + b".",
        "a long name": b"\x80\x02]c" + b"m" * 10**7 + b"\n" + b"n" * 10**7 + b"\na]\x86.",
        "a string without its end": b"(S'" + b"\xff" * 10**7 + b"\n",
        "submodule": b"\x80\x04]\x8c\x0enumpy.testing \x8c\x04main\x93)Ra]\x86.",
    }


@pytest.mark.parametrize("name", list(hostile_contents(Path("."))))
def test_a_hostile_pickle_runs_nothing_and_gets_one_line(tmp_path, name):
    path = write_pickle(tmp_path, hostile_contents(tmp_path)[name])

    tracemalloc.start()
    with pytest.raises(FaceError) as error:
        load_bin(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert "\n" not in str(error.value) and str(path) in str(error.value) and len(str(error.value)) < 700
    assert peak < 20e6 + 10 * path.stat().st_size
    assert not (tmp_path / MARKER).exists()


def test_the_same_hostile_pickle_does_run_in_plain_pickle(tmp_path):
    pickle.loads(pickle.dumps(hostile_contents(tmp_path)["os.system"]))

    assert (tmp_path / MARKER).exists()  # so the test above can fail


def test_an_object_across_the_end_of_its_frame_is_refused_before_its_length_is_misread(tmp_path):
    image = b"\xff\xd8\xff\xe0" * 4000  # read as a length: 3.8 GB
    item = b"B" + struct.pack("<I", len(image)) + image
    frame = b"]\x94(" + item[:3]  # ends inside the length
    crossing = b"\x80\x04\x95" + struct.pack("<Q", len(frame)) + b"]\x94(" + item + b"e."
    inside = b"\x80\x04\x95" + struct.pack("<Q", 40) + b"]\x95" + struct.pack("<Q", 3) + b"]]]" + b"." * 30

    for content, words in ((crossing, "extends past the end of its frame"), (inside, "frame begins inside")):
        with pytest.raises(FaceError, match=words):
            load_bin(write_pickle(tmp_path, content))


def test_one_long_text_encoded_many_times_is_refused(tmp_path):
    out = io.BytesIO()
    out.write(b"\x80\x02](X" + struct.pack("<I", 10_000) + b"a" * 10_000 + b"q\x000c_codecs\nencode\nq\x010")
    out.write(b"h\x01h\x00\x85R" * 50_000 + b"e]\x86.")  # 0.4 MB that asks for 500 MB

    with pytest.raises(FaceError, match="more bytes than the file has"):
        load_bin(write_pickle(tmp_path, out.getvalue()))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damage_gives_a_set_or_one_line_never_another_error(tmp_path_factory, data):
    content = bytearray(
        pickle.dumps(([*IMAGES[:2], np.arange(9, dtype=np.uint8), b"d"], IS_SAME), data.draw(PROTOCOLS))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(1, len(content)))])
    path = write_pickle(tmp_path_factory.mktemp("damage"), content)

    try:
        pairs = load_bin(path)
    except FaceError as error:
        assert "\n" not in str(error)
    else:
        assert len(pairs.images) == 2 * len(pairs.is_same)


PROTOCOLS = st.integers(0, 5)


@pytest.mark.parametrize(
    "content, words",
    [
        (([], []), "no images"),
        (([b"a", b"b", b"c"], [True]), "3 images for 1 pairs"),
        (([b"a", b"b"], [True, False]), "2 images for 2 pairs"),
        (([b"a", "text"], [True]), "Record 1"),
        (([b"a", b"b"], [2]), "Pair 0"),
        (([b"a", b"b"], [None]), "Pair 0"),
        ((b"a", b"b"), "something else"),
        ([1, 2, 3], "something else"),
        (pickle.dumps((IMAGES, IS_SAME))[:-3], "damaged"),
        (b"\xff\xd8\xff\xe0 a photo, not a pickle", "damaged"),
    ],
)
def test_a_file_that_is_no_set_is_refused_with_the_reason(tmp_path, content, words):
    with pytest.raises(FaceError, match=words):
        load_bin(write_pickle(tmp_path, content))


def test_missing_and_empty_files_and_folders_are_named(tmp_path):
    (tmp_path / "empty.bin").touch()
    with pytest.raises(FaceError, match="empty"):
        load_bin(tmp_path / "empty.bin")
    with pytest.raises(FaceError, match=r"nope\.bin"):
        find_bins(tmp_path / "nope.bin")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FaceError, match=r"make_bin\.py"):
        find_bins(tmp_path / "folder")


def test_a_folder_gives_its_bins_by_name_and_a_file_itself(tmp_path):
    for name in ("b.bin", "a.bin", "README.md"):
        (tmp_path / name).write_text("x")

    assert find_bins(tmp_path) == [tmp_path / "a.bin", tmp_path / "b.bin"]
    assert find_bins(tmp_path / "b.bin") == [tmp_path / "b.bin"]


def encode(colour_rgb, size=(112, 112), extension=".png") -> bytes:
    image = np.full((*size, 3), colour_rgb, np.uint8)
    return cv2.imencode(extension, image[:, :, ::-1])[1].tobytes()


def test_images_come_out_in_rgb_and_in_order():
    images = [encode((10 * (i % 20), i // 20, 255 - i % 20)) for i in range(200)]

    pixels = decode_images(images, num_threads=4)

    assert pixels.shape == (200, 112, 112, 3) and pixels.dtype == np.uint8
    assert pixels[:, 5, 7].tolist() == [[10 * (i % 20), i // 20, 255 - i % 20] for i in range(200)]
    np.testing.assert_array_equal(np.concatenate(list(stream_images(images, 64))), pixels)


@pytest.mark.parametrize(
    "image, words",
    [
        (encode((1, 2, 3), (96, 112)), "96x112"),
        (encode((1, 2, 3), (96, 112), ".jpg"), "96x112"),
        (encode((1, 2, 3)).replace(struct.pack(">II", 112, 112), struct.pack(">II", 30000, 30000)), "30000x30000"),
        (cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (112, 112, 3), np.uint8))[1].tobytes()[:5000],
         "cut short"),
        (b"", "empty"),
        (b"no image at all", "neither JPEG nor PNG"),
    ],
)  # fmt: skip
def test_a_bad_image_is_named_by_file_and_record(image, words):
    with pytest.raises(FaceError, match=words) as error:
        decode_images([encode((0, 0, 0)), image], source="lfw.bin", records=[6, 17])

    assert "Record 17 of 'lfw.bin'" in str(error.value)


def test_an_error_in_a_stream_names_the_record_in_the_file():
    images = [encode((0, 0, 0))] * 9 + [b"broken"]

    with pytest.raises(FaceError, match=r"Record 9 of 'x\.bin'"):
        list(stream_images(images, 4, source="x.bin"))


@pytest.mark.needs_data(LFW)
def test_the_official_lfw_set_is_read():
    pairs = load_bin(LFW)

    assert len(pairs.images) == 12_000 and len(set(pairs.images)) == 7_701
    assert pairs.is_same.sum() == 3_000
    assert pairs.is_same[:300].all() and not pairs.is_same[300:600].any()  # fold by fold, genuine first
    assert decode_images(pairs.images[:100]).std() > 30
