"""Paths and pictures of strangers in every source: pipes, devices, bombs and paths that lead elsewhere are one line."""

import gzip
import os
import resource
import shutil
import zlib

import cv2
import numpy as np
import pytest

from facelib.alignment.align_folders import _align_file
from facelib.data.conversion.job import convert
from facelib.data.curation.inspection import contact_sheet
from facelib.data.readers.calibration_crops import load_crops
from facelib.data.readers.mxnet_rec import pack, write_rec
from facelib.data.readers.open_records import open_records
from facelib.data.readers.sources import open_source
from facelib.data.storage import LocalFiles
from facelib.data.tfrecord_layouts import LAYOUTS, read_image
from facelib.data.verification.bins import load_bin
from facelib.errors import BadRecord, FaceError
from facelib.evaluation.verification_sets import find_sets
from facelib.image_decoding import decode_or_blank
from facelib.reports.hardest_pairs import thumbnail
from facelib.training.recipe.toml import load_recipe
from tests.helpers.pixel_bombs import bombs

JPEG = cv2.imencode(".jpg", np.full((112, 112, 3), 90, np.uint8))[1].tobytes()
PATHS = {layout.name: layout for layout in LAYOUTS if layout.is_path}


@pytest.fixture
def faces(tmp_path):
    """Two identities with a picture each."""
    for name in "ab":
        (tmp_path / "faces" / name).mkdir(parents=True)
        (tmp_path / "faces" / name / "0.jpg").write_bytes(JPEG)
    return tmp_path / "faces"


@pytest.fixture(params=["pipe", "link to a pipe", "link to a device"])
def endless(request, tmp_path):
    """Makes what never ends when it is read."""

    def make(path):
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "link to a pipe":
            os.mkfifo(tmp_path / "the pipe")
            path.symlink_to(tmp_path / "the pipe")
        else:
            path.symlink_to("/dev/zero")
        return path

    return make


def test_a_list_that_names_a_pipe_or_a_device_is_one_line(faces, endless):
    endless(faces / "p.jpg")
    (faces / "list.txt").write_text("0;a/0.jpg\n1;p.jpg\n")

    with pytest.raises(FaceError, match="pipe or a device"):
        convert(faces / "list.txt", faces.parent / "out", progress=False)
    assert convert(faces / "list.txt", faces.parent / "out", skip_bad=True, progress=False).num_images == 1


def test_folders_with_a_pipe_or_a_device_are_read_without_it(faces, endless):
    endless(faces / "a" / "p.jpg")

    assert convert(faces, faces.parent / "out", skip_bad=True, progress=False).num_images == 2
    (one,) = find_sets(faces)
    assert len(one().images) == 2
    assert load_crops(faces / "a", 5, 0)[1]["count"] == 1


def test_models_bins_recipes_and_lists_are_files(tmp_path, endless):
    path = endless(tmp_path / "x.bin")

    for open_it in (load_bin, load_recipe, open_source, open_records):
        with pytest.raises(FaceError):
            open_it(path)
    with pytest.raises(FaceError):
        find_sets(path)[0]()
    assert "pipe or a device" in _align_file(tmp_path, tmp_path, "largest", 0.0, lambda: None, "x.bin", "x.jpg")[0]


@pytest.mark.parametrize("name", bombs())
def test_a_bomb_is_one_line_wherever_pictures_are_shown_or_scaled(faces, name):
    (faces / "a" / "0.jpg").write_bytes(bombs()[name])

    with pytest.raises(FaceError, match="at most 100,000,000"):
        find_sets(faces, letterbox=True)[0]()
    with pytest.raises(FaceError, match="at most 100,000,000"):
        load_crops(faces, 5, 0)
    assert "at most" in _align_file(faces, faces.parent, "largest", 0.0, lambda: None, "a/0.jpg", "x.jpg")[0]
    assert decode_or_blank(bombs()[name]).shape == (112, 112, 3) and len(thumbnail(bombs()[name])) < 5_000
    with pytest.raises(FaceError, match="neither JPEG nor PNG"):
        convert(faces, faces.parent / "out", progress=False)


def test_a_contact_sheet_of_the_largest_pictures_is_small():
    large = cv2.imencode(".png", np.zeros((20, 30_000, 3), np.uint8))[1].tobytes()

    sheet = contact_sheet([decode_or_blank(large)] * 9, ["x"] * 9, 3)
    assert sheet.size < 10_000_000


# ------------------------------------------------------------------------------------------- inside TFRecords


def read_path(folder, path, layout):
    return read_image(layout, {layout.image_key: [os.fsencode(path)]}, folder)


@pytest.mark.parametrize("layout", PATHS.values(), ids=PATHS)
def test_image_paths_of_a_tfrecord_stay_below_the_folders_searched(tmp_path, layout):
    home = tmp_path / "1" / "2" / "3" / "4" / "5"
    home.mkdir(parents=True)
    for place in (tmp_path, tmp_path / "1" / "2", home):
        (place / "i").mkdir()
        (place / "i" / f"{place.name}.jpg").write_bytes(JPEG)
    (home / "i" / "link.jpg").symlink_to(home / "i" / "5.jpg")

    for path in ("i/5.jpg", "i/2.jpg", "./i/5.jpg", "i/link.jpg", home / "i/5.jpg", tmp_path / "1/2/i/2.jpg"):
        assert read_path(home, path, layout) == JPEG
    outside = [f"i/{tmp_path.name}.jpg", "../5/i/5.jpg", "i/../i/5.jpg", tmp_path / f"i/{tmp_path.name}.jpg"]
    for path in [*outside, "/etc/hostname", "etc/hostname", "../" * 20 + "etc/hostname", "/dev/zero", "a\0b"]:
        with pytest.raises(BadRecord, match="there is no image file"):
            read_path(home, path, layout)


@pytest.mark.parametrize("layout", PATHS.values(), ids=PATHS)
def test_an_image_path_that_names_no_regular_file_is_one_line(tmp_path, layout, endless):
    endless(tmp_path / "p.jpg")
    (tmp_path / "folder.jpg").mkdir()

    for path in ("p.jpg", "folder.jpg"):
        with pytest.raises(BadRecord, match="not a file"):
            read_path(tmp_path, path, layout)
    for path in ("x" * 300, "x/" * 3_000):
        with pytest.raises(BadRecord):
            read_path(tmp_path, path, layout)


@pytest.mark.parametrize("size", [(-2, -2), (0, 4), (-1, 12), (2**62, 4), (4, -(2**63)), (1, 1)])
def test_raw_pixels_whose_size_is_not_that_of_their_bytes_are_one_line(size):
    features = {"image": [b"x" * 12], "height": [size[0]], "width": [size[1]], "label": [0]}

    with pytest.raises(BadRecord, match="raw pixels"):
        read_image(LAYOUTS[1], features, None)


def test_raw_pixels_that_no_png_can_hold_are_one_line(tmp_path):
    from facelib.data.tfrecord import frame

    def feature(key, kind, value):
        value = bytes([kind << 3 | 2]) + varint(len(value)) + value
        entry = b"\x0a" + varint(len(key)) + key + b"\x12" + varint(len(value)) + value
        return b"\x0a" + varint(len(entry)) + entry

    def varint(value):
        out = b""
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        return out + bytes([value])

    def integer(value):
        return b"\x0a" + varint(len(varint(value))) + varint(value)

    raw = bytes(3 * 1_100_000)
    image = b"\x0a" + varint(len(raw)) + raw
    body = feature(b"image", 1, image) + feature(b"label", 3, integer(0))
    body += feature(b"height", 3, integer(1)) + feature(b"width", 3, integer(1_100_000))
    (tmp_path / "x.tfrecord").write_bytes(frame(b"\x0a" + varint(len(body)) + body))
    source = open_source(tmp_path / "x.tfrecord")

    with pytest.raises(BadRecord, match="cannot be written as PNG"):
        source.read(0)


# --------------------------------------------------------------------------------------------- nothing left, limits


def test_skip_bad_that_leaves_nothing_is_one_line(faces):
    for file in faces.rglob("*.jpg"):
        file.write_bytes(b"no image")
    (faces / "list.txt").write_text("0;a/0.jpg\n1;gone.jpg\n2;" + "x" * 300 + ".jpg\n")

    for source in (faces, faces / "list.txt"):
        with pytest.raises(FaceError, match="no usable image"):
            convert(source, faces.parent / "out", skip_bad=True, progress=False)
        with pytest.raises(FaceError):
            convert(source, faces.parent / "out", skip_bad=True, min_images=2, progress=False)
    assert not (faces.parent / "out").exists()


def test_tfrecords_compressed_as_a_whole_are_one_line_that_says_the_way(faces):
    data = faces.parent / "data"
    convert(faces, data, progress=False)
    plain = next(data.glob("*.tfrecord"))
    for name, packed in (
        ("x.tfrecord", gzip.compress(plain.read_bytes())),
        ("x.tfrecord.gz", gzip.compress(plain.read_bytes())),
        ("x.tfrecords", zlib.compress(plain.read_bytes())),
    ):
        folder = faces.parent / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(packed)
        for open_it in (open_source, open_records):
            for path in (folder, folder / name):
                with pytest.raises(
                    FaceError, match=r"is compressed with (gzip|zlib)\. Unpack the file: (gzip -dc|write)"
                ):
                    open_it(path)
    shutil.copy(plain, faces.parent / "x-tfrecord-gz" / "y.tfrecord")
    assert len(open_source(faces.parent / "x-tfrecord-gz")) == 2  # the compressed one beside it is its origin


def test_shards_open_within_the_limit_of_open_files(tmp_path, monkeypatch):
    paths = [tmp_path / str(k) for k in range(200)]
    for k, path in enumerate(paths):
        path.write_bytes(bytes([k]))
    used = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 60, hard))
    try:
        with monkeypatch.context() as limits:  # a user who may not raise it
            limits.setattr(resource, "setrlimit", lambda *_: (_ for _ in ()).throw(ValueError))
            files = LocalFiles(paths)
        for _ in range(2):
            assert [files.read(k, 1, 0) for k in range(200)] == [bytes([k]) for k in range(200)]
        assert len(os.listdir("/proc/self/fd")) < used + 60
        LocalFiles(paths)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(4096, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_file_left_to_open_is_one_line(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    files = LocalFiles([tmp_path / "x"])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(FaceError, match=r"Too many open files\. Raise the limit: ulimit -n 4096"):
            files.read(0, 1, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_bytes_after_the_end_of_a_png_do_not_matter(faces):
    png = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (112, 112, 3), np.uint8))[1].tobytes()
    (faces / "a" / "0.jpg").unlink()
    for k, tail in enumerate((bytes(20), b"\xff" * 500, b"\0\0\0\rIEND", png)):
        (faces / "a" / f"{k}.png").write_bytes(png + tail)

    assert convert(faces, faces.parent / "out", decode_all=True, progress=False).num_images == 5


@pytest.mark.parametrize("number", ["9" * 30, "9" * 5_000, "-9223372036854775809", "9223372036854775800", "x" * 300])
def test_numbers_and_names_of_lists_that_no_file_can_have_are_one_line(faces, number):
    (faces / "a.txt").write_text(f"a\t0\t{number}\t1\na\t{number}\t0\t1\n")
    (faces / "pairs.txt").write_text(f"a\t{number}\t2\n")
    (faces / "first.txt").write_text(f"{number}\na\t1\t2\n")
    write_rec(faces / "x.rec", [pack(JPEG, k, k) for k in range(2)])
    (faces / "x.idx").write_text(f"0\t0\n1\t{number}\n")

    for open_it in (
        lambda: open_source(faces / "a.txt"),
        lambda: find_sets(faces, faces / "pairs.txt")[0](),
        lambda: find_sets(faces, faces / "first.txt")[0](),
        lambda: open_source(faces / "x.rec"),
    ):
        with pytest.raises(FaceError) as caught:
            open_it()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 900


@pytest.mark.parametrize("name", ["../other/x", "/tmp/x", "..", ""])
def test_a_tface_index_names_shards_beside_it(tmp_path, name):
    (tmp_path / "x.txt").write_text(f"{name}\t0\t0\t1\n")

    with pytest.raises(FaceError, match="must be 'name TAB shard"):
        open_source(tmp_path / "x.txt")


def test_a_photo_above_the_largest_size_is_one_line_for_predict(tmp_path):
    from facelib.alignment.photos import FaceCutter
    from predict import read_faces

    (tmp_path / "large.jpg").write_bytes(JPEG)
    os.truncate(tmp_path / "large.jpg", 1 << 30)

    with pytest.raises(FaceError, match="an image can have at most"):
        read_faces(tmp_path / "large.jpg", FaceCutter())
