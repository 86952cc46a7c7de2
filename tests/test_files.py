"""The first checks of every reader. Truth: Python's own json, tomllib and NumPy, on the same bytes."""

import json
import os
import socket
from importlib import import_module

import numpy as np
import pytest

from facelib.errors import BadRecord, FaceError, short_repr
from facelib.files import (
    MAX_IMAGE_FILE_BYTES,
    make_folder,
    map_npy,
    parse_json,
    parse_toml,
    read_image_file,
    read_json,
    require_file,
    working_folder,
    write_bytes,
)

BRACKETS = "[" * 60_000
DIGITS = "9" * 5_000


@pytest.mark.parametrize("parse", [parse_json, lambda text: parse_toml(f"v = {text}")])
@pytest.mark.parametrize(
    ("text", "match"),
    [
        (BRACKETS, "64 deep"),
        (BRACKETS + "]" * 60_000, "64 deep"),
        ("[" * 70 + "]" * 70, "64 deep"),
        (DIGITS, "64 bits"),
        ("[[" + DIGITS[:30] + "]]", "64 bits"),
    ],
    ids=["brackets", "closed", "70", "digits", "30 digits"],
)
def test_json_and_toml_have_a_depth_and_whole_numbers_a_size(parse, text, match):
    with pytest.raises(ValueError, match=match):
        parse(text)


def test_a_hexadecimal_number_that_python_cannot_write_is_refused():
    with pytest.raises(ValueError, match="64 bits"):
        parse_toml("v = 0x" + "f" * 5_000)


def test_what_our_files_hold_is_read_as_python_reads_it():
    value = {"a": [1, -(2**63), 2.5, None, True, "x"], "b": [[[[[[[[2**64 - 1]]]]]]]]}

    assert parse_json(json.dumps(value)) == value
    assert parse_toml('a = [1, 2]\n[b.c]\nd = "[[["') == {"a": [1, 2], "b": {"c": {"d": "[[["}}}


@pytest.mark.parametrize("text", [BRACKETS, DIGITS, '{"a": ' + DIGITS + "}", "\x00", "[1]", '"text"'])
def test_a_json_file_that_is_no_object_is_one_line(tmp_path, text):
    (tmp_path / "a.json").write_text(text)

    with pytest.raises(FaceError, match=r"The report must be a JSON object\.") as caught:
        read_json(tmp_path / "a.json", "report")
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def laughs():
    value = [1]
    for _ in range(60):
        value = [value] * 10
    return value


def test_a_value_is_cut_before_its_text_is_made():
    itself = []
    itself.append(itself)

    for value in (laughs(), itself, 10**6_000, b"\xff" * 10**7, "x" * 10**7, {"a": laughs()}, (laughs(),)):
        assert len(short_repr(value)) <= 80
    assert short_repr(["a", 1]) == "['a', 1]" and short_repr(-3) == "-3"


# ------------------------------------------------------------------------------------------------ .npy


DTYPES = [(np.float16, (3, 4)), (np.dtype([("shard", "<u2"), ("label", "<i8")]), (5,)), (np.float16, (2, 2, 3))]


@pytest.mark.parametrize(("dtype", "shape"), DTYPES)
def test_a_npy_file_is_mapped_as_numpy_loads_it(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape)).astype(np.uint8).view().reshape(shape).astype(dtype)
    np.save(tmp_path / "a.npy", array)

    mapped = map_npy(tmp_path / "a.npy", dtype, len(shape))
    np.testing.assert_array_equal(mapped, array)
    assert mapped.dtype == dtype and not mapped.flags.writeable


@pytest.mark.parametrize(("dtype", "shape"), DTYPES)
def test_each_changed_byte_of_a_npy_header_is_an_error_or_the_same_array(tmp_path, dtype, shape):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(shape, dtype))
    data = path.read_bytes()
    for at in range(128):
        for byte in {data[at] ^ 1, 0, 0x28, 0x30, 0x39, 0xFF} - {data[at]}:
            path.write_bytes(data[:at] + bytes([byte]) + data[at + 1 :])
            with pytest.raises(ValueError, match=r"^it"):
                map_npy(path, dtype, len(shape))


@pytest.mark.parametrize("cut", [0, 4, 9, 20, 127, 128, 130])
def test_a_cut_npy_file_is_an_error(tmp_path, cut):
    np.save(tmp_path / "a.npy", np.ones((3, 4), np.float16))
    os.truncate(tmp_path / "a.npy", cut)

    with pytest.raises(ValueError, match=r"^it"):
        map_npy(tmp_path / "a.npy", np.float16, 2)


# ------------------------------------------------------------------------------------------------ regular files


def not_files(folder):
    """Paths that would hang or fill the memory, and what they are."""
    os.mkfifo(folder / "pipe.jpg")
    (folder / "link.jpg").symlink_to(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    (folder / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.jpg"))
    return sorted(folder.iterdir())


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    for path in [*not_files(tmp_path), "/dev/zero", "/dev/tty", tmp_path / ("x" * 300), tmp_path / "a\0b"]:
        with pytest.raises(FaceError, match=str(path)[:40].replace("\0", ".")):
            require_file(path, "recipe")
        with pytest.raises(BadRecord):
            read_image_file(path)


def test_an_image_file_has_a_largest_size(tmp_path):
    path = tmp_path / "large.jpg"
    path.write_bytes(b"\xff\xd8")
    assert read_image_file(path) == b"\xff\xd8"
    os.truncate(path, MAX_IMAGE_FILE_BYTES + 1)

    with pytest.raises(BadRecord, match="at most"):
        read_image_file(path)


def test_a_folder_is_written_where_its_link_points(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "out").symlink_to("target")

    with working_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")

    assert (tmp_path / "out").is_symlink() and (tmp_path / "target" / "a").read_text() == "1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "target"]


@pytest.mark.parametrize(("out", "what"), [(".", "current folder"), ("/proc", "mount point")])
def test_the_current_folder_and_a_mount_point_are_refused_before_the_work(out, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FaceError, match=what), working_folder(type(tmp_path)(out)):
        pytest.fail("work was begun")
    assert not list(tmp_path.iterdir())


def test_a_hidden_folder_that_is_a_link_empties_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo").write_text("1")
    (tmp_path / ".out.part").symlink_to("mine")

    with pytest.raises(FaceError, match="must not be a link"), working_folder(tmp_path / "out"):
        pytest.fail("work was begun")

    assert (tmp_path / "mine" / "photo").read_text() == "1"


def test_a_link_in_the_folder_of_a_killed_run_is_removed_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "link").symlink_to(tmp_path / "mine")

    with working_folder(tmp_path / "out"):
        pass

    assert (tmp_path / "mine").is_dir() and not list((tmp_path / "out").iterdir())


def test_a_link_to_itself_is_refused_before_the_work(tmp_path):
    (tmp_path / "out").symlink_to("out")
    with pytest.raises(FaceError, match="leads back to itself"), working_folder(tmp_path / "out"):
        pytest.fail("work was begun")
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("script", ["h5_2_pb", "facelib.export.optimize", "pb_2_tflite", "pb_2_onnx", "import_model"])
def test_a_conversion_into_a_folder_is_refused_before_the_work(tmp_path, script):
    (tmp_path / "model").write_bytes(b"no model")
    flags = [] if script in ("facelib.export.optimize", "import_model") else ["--out"]

    with pytest.raises(FaceError, match="is a folder: choose a file in this folder"):
        import_module(script).main([str(tmp_path / "model"), *flags, str(tmp_path)])


def test_a_file_below_a_link_whose_target_is_not_there_is_written_into_the_target(tmp_path):
    (tmp_path / "link").symlink_to("target")

    write_bytes(tmp_path / "link" / "a", b"1")

    assert (tmp_path / "target" / "a").read_bytes() == b"1" and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_folder_in_place_of_or_below_a_file_is_one_line(folder, tmp_path):
    (tmp_path / "file").write_text("mine")

    with pytest.raises(FaceError, match="a part of its path is a file"):
        make_folder(tmp_path / folder)

    assert (tmp_path / "file").read_text() == "mine"
