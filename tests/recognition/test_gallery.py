"""Galleries: what was enrolled comes back, and anything changed, cut or mismatched is one line."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facelib.errors import FaceError
from facelib.evaluation.thresholds import Calibrated
from facelib.files import sha256_of
from facelib.model_input import Io
from facelib.recognition.decision import Decision, OpenSet
from facelib.recognition.gallery import check_gallery_model, check_gallery_path, open_gallery, write_gallery
from tests.helpers.killed_replace import kill_at_replace

DECISION = Decision(1.25, Calibrated("lfw", 3000, 1e-3, 1.25, 0.375, (1.2, 1.3), (3e-4, 3e-3), True), OpenSet(0.01, 3))
NAMES = ["Ada", "Zoë/Ωmega", 'bob\'s, "x"']


@pytest.fixture
def gallery(tmp_path):
    """A gallery of three, its model in a folder beside its own."""
    model = tmp_path / "models" / "x.onnx"
    model.parent.mkdir()
    model.write_bytes(b"weights")
    path = tmp_path / "people" / "g.npy"
    write_gallery(
        path, vectors(), NAMES, [1, 2, 3], model=model, io=Io(layout="nchw", size=(112, 96)), flip=True,
        decision=DECISION,
    )  # fmt: skip
    return path


def vectors():
    rows = np.random.default_rng(0).standard_normal((3, 16))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def change(gallery, **keys):
    path = gallery.with_name("g.npy.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_a_gallery_comes_back_as_it_was_written(gallery):
    again = open_gallery(gallery)

    assert again.names == NAMES and again.num_photos == [1, 2, 3] and len(again) == 3
    assert again.io == Io(layout="nchw", size=(112, 96)) and again.flip and again.decision == DECISION
    assert isinstance(again.vectors, np.memmap) and again.vectors.dtype == np.float16
    np.testing.assert_array_equal(np.load(gallery), vectors().astype(np.float16))  # any NumPy reads it


def test_half_precision_moves_a_squared_distance_by_3e_5_as_a_rule():
    rng = np.random.default_rng(3)
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.standard_normal((2, 5000, 128)))

    moved = 2.0 * np.abs((a * b).sum(1) - (a * b.astype(np.float16).astype(np.float64)).sum(1))

    assert np.median(moved) < 3e-5 and moved.max() < 2**-10


def test_a_gallery_finds_its_model_after_both_moved_together(gallery, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("models", "people"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    moved = open_gallery(tmp_path / "elsewhere" / "people" / "g.npy")

    assert check_gallery_model(moved, None)[0].read_bytes() == b"weights"


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_enroll_killed_between_its_two_files_can_be_run_again(gallery, monkeypatch, there_before, killed_at):
    model = gallery.parent / "../models/x.onnx"
    if not there_before:
        gallery.unlink()
        gallery.with_name("g.npy.json").unlink()

    def enroll():
        check_gallery_path(gallery)
        write_gallery(gallery, -vectors(), NAMES, [1, 1, 1], model=model, io=Io(), flip=False, decision=None)

    kill_at_replace(monkeypatch, killed_at)
    with pytest.raises(KeyboardInterrupt):
        enroll()
    monkeypatch.undo()
    enroll()

    assert open_gallery(gallery).num_photos == [1, 1, 1]


def test_another_model_is_refused_and_a_copy_is_not(gallery, tmp_path):
    opened = open_gallery(gallery)
    (tmp_path / "copy.onnx").write_bytes(b"weights")
    (tmp_path / "other.onnx").write_bytes(b"other weights")

    assert check_gallery_model(opened, tmp_path / "copy.onnx") == (tmp_path / "copy.onnx", None)
    with pytest.raises(FaceError, match="searched with the model that made it"):
        check_gallery_model(opened, tmp_path / "other.onnx")
    opened.model.unlink()
    with pytest.raises(FaceError, match="--model X"):
        check_gallery_model(opened, None)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda g: g.write_bytes(g.read_bytes()[:-1]),
        lambda g: g.write_bytes(g.read_bytes()[:-1] + b"\xff"),
        lambda g: g.write_bytes(b""),
        lambda g: g.unlink(),
        lambda g: g.with_name("g.npy.json").unlink(),
        lambda g: g.with_name("g.npy.json").write_text("{"),
        lambda g: g.with_name("g.npy.json").write_text("[]"),
        lambda g: change(g, kind="h5"),
        lambda g: change(g, format_version=2),
        lambda g: change(g, names=["a", "b"]),
        lambda g: change(g, names=None),
        lambda g: change(g, names=[1, 2, 3]),
        lambda g: change(g, num_photos=[1]),
        lambda g: change(g, model={"path": "x"}),
        lambda g: change(g, decision={"distance": 1}),
        lambda g: change(g, model={"path": "x", "sha256": "0", "io": None}),
    ],
)
def test_a_damaged_gallery_is_refused_in_one_line(gallery, spoil):
    spoil(gallery)

    with pytest.raises(FaceError) as caught:
        open_gallery(gallery)
    assert "g.npy" in str(caught.value) and "\n" not in str(caught.value)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_is_refused_or_leaves_a_gallery(gallery, data):
    file = gallery.with_name(data.draw(st.sampled_from(["g.npy", "g.npy.json"])))
    whole = file.read_bytes()
    at, byte = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    file.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
    try:
        again = open_gallery(gallery)
    except FaceError as error:
        assert "g.npy" in str(error) and "\n" not in str(error)
    else:  # the same byte, or a letter of a name
        assert again.vectors.shape == (3, 16) and len(again.names) == 3 and all(map(str.strip, again.names))
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("rows", [np.zeros((3, 4), np.float32), np.zeros(3, np.float16), np.zeros((0, 4), np.float16)])
def test_rows_of_another_type_or_number_are_refused(gallery, rows):
    np.save(gallery, rows)
    change(gallery, sha256=sha256_of(gallery))

    with pytest.raises(FaceError, match="damaged"):
        open_gallery(gallery)


def test_every_key_of_the_description_may_hold_anything(gallery):
    file = gallery.with_name("g.npy.json")
    good = json.loads(file.read_text())
    places = [(good, key) for key in good] + [(good["model"], key) for key in good["model"]]
    places += [(good["decision"], key) for key in good["decision"]]
    places += [(good["decision"]["calibrated"], key) for key in good["decision"]["calibrated"]]
    for parent, key in places:
        kept = parent[key]
        for wrong in (..., None, -1, float("nan"), 1e300, "x", "a\0b", "x" * 300, [], [[]], {}, {"a": 1}):
            parent[key] = wrong
            if wrong is ...:
                del parent[key]
            file.write_text(json.dumps(good))
            try:
                found = open_gallery(gallery)
                str(found.decision), check_gallery_model(found, None)
            except FaceError as error:
                assert "\n" not in str(error) and len(str(error)) < 900
        parent[key] = kept


@pytest.mark.parametrize("at", range(128))
def test_a_changed_byte_of_the_npy_header_is_one_line_when_its_hash_is_right(gallery, at):
    data = gallery.read_bytes()
    for byte in {data[at] ^ 1, 0, 0x28, 0x39, 0xFF} - {data[at]}:
        gallery.write_bytes(data[:at] + bytes([byte]) + data[at + 1 :])
        change(gallery, sha256=sha256_of(gallery))
        with pytest.raises(FaceError, match="damaged"):
            open_gallery(gallery)


def test_a_run_killed_before_its_description_is_written_leaves_the_old_gallery(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr("facelib.recognition.gallery.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_gallery(
            gallery, -vectors(), NAMES, [1, 1, 1], model=tmp_path / "models" / "x.onnx", io=Io(), flip=False,
            decision=None,
        )  # fmt: skip

    assert open_gallery(gallery).num_photos == [1, 2, 3]


def test_enrolling_overwrites_galleries_alone(gallery, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"precious")

    check_gallery_path(gallery)
    check_gallery_path(tmp_path / "new.npy")
    np.save(tmp_path / "photo.jpg", np.ones((2, 16), np.float16))  # no unit vectors
    (tmp_path / "photo.jpg.npy").rename(tmp_path / "photo.jpg")
    with pytest.raises(FaceError, match="not overwritten"):
        check_gallery_path(tmp_path / "photo.jpg")
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(FaceError, match="not overwritten"):
        check_gallery_path(tmp_path / "photo.jpg")
    with pytest.raises(FaceError, match="folder"):
        check_gallery_path(tmp_path)


@pytest.mark.parametrize("name", ["two\nlines", "\udcff", "\x1b[31m"])
def test_a_name_that_could_not_be_printed_is_refused_before_anything_is_written(tmp_path, name):
    (tmp_path / "m").write_bytes(b"m")

    with pytest.raises(FaceError, match="printable"):
        write_gallery(
            tmp_path / "g.npy", np.eye(1), [name], [1], model=tmp_path / "m", io=Io(), flip=False, decision=None
        )
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
