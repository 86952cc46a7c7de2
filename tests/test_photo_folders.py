"""Who is a person in a tree of folders, what is left out, and that every script says so."""

import os

import cv2
import numpy as np
import pytest

import make_bin
import predict
import prepare_data
from facelib.alignment.align import whole_crop
from facelib.alignment.photos import FaceCutter, PhotoFaces
from facelib.data.readers.calibration_crops import load_crops
from facelib.data.readers.folder_source import FolderSource
from facelib.files import write_bytes
from facelib.model_input import Io
from facelib.photo_folders import NOT_PEOPLE, find_photos
from tests.helpers.mean_colour import MeanColour, draw_face, run_main


def picture(seed):
    random = np.random.default_rng(seed)
    return draw_face(random, random.integers(40, 200, 3))


def grow(root, **images):
    """Folders with images: grow(root, ann=2) writes ann/0.png and ann/1.png."""
    for k, (name, count) in enumerate(images.items()):
        for i in range(count):
            write_bytes(root / name / f"{i}.png", picture(100 * k + i))
    return root


def names_of(root):
    return [folder.name for folder in find_photos(root) if folder.photos]


@pytest.fixture
def odd(tmp_path):
    """Three people; thumbnails, a folder below a person, links, a photo of two people, and other files."""
    root = grow(tmp_path / "odd", ann=4, bob=4, eve=4, **{"ann/profile": 2, "bob/@eaDir": 2, "__MACOSX": 2, ".hid": 1})
    write_bytes(root / "eve" / "same.png", (root / "bob" / "1.png").read_bytes())
    (root / "bob" / "notes.txt").write_text("x")
    (root / "eve" / "up").symlink_to(root)
    (root / "alias").symlink_to(root / "ann")
    return root


def test_a_folder_of_the_system_is_nobody(tmp_path):
    root = grow(tmp_path, **{"ann": 1, **{name.upper(): 1 for name in NOT_PEOPLE}, "ann/@eaDir/0.png": 1})
    assert names_of(root) == ["ann"]


@pytest.mark.parametrize(
    "link, to", [("a/up", ".."), ("a/self", "."), ("c", "b"), ("a/b", "../b"), ("c", "."), ("a/up", "../../tree")]
)
def test_a_link_to_a_folder_of_the_tree_adds_nobody(tmp_path, link, to):
    root = grow(tmp_path / "tree", a=1, b=1)
    (root / link).symlink_to(to)
    assert names_of(root) == ["a", "b"]
    assert any("link" in note and f"'{link}'" in note for note in FolderSource(root).notes)


def test_links_that_lead_elsewhere_are_followed_once(tmp_path):
    grow(tmp_path, **{"store/p": 1, "tree/q": 1, "tree/.hidden/r": 1})
    for name, to in (("p", "../store/p"), ("again", "../store/p"), ("r", ".hidden/r")):
        (tmp_path / "tree" / name).symlink_to(to)
    assert names_of(tmp_path / "tree") == ["q", "again", "r"]  # the tree itself, then its links in the order of names


def test_a_jpeg_by_any_name_is_read_and_another_kind_is_named(tmp_path):
    pixels = np.full((112, 112, 3), 99, np.uint8)
    for name in ("a/1.jfif", "a/2.JPE", "a/3.jpeg"):
        write_bytes(tmp_path / name, cv2.imencode(".jpg", pixels)[1].tobytes())
    write_bytes(tmp_path / "a" / "4.avif", b"\0\0\0\x1cftypavif")
    source = FolderSource(tmp_path)
    assert len(source) == 4
    with pytest.raises(SystemExit, match=r"4\.avif.*neither JPEG nor PNG"):
        prepare(tmp_path, tmp_path.parent / "out")


def prepare(*words):
    try:
        return prepare_data.main([str(word) for word in (*words, "--no-progress")])
    except Exception as error:
        raise SystemExit(str(error)) from error


def test_what_counts_and_what_is_left_out_is_noted(odd):
    source = FolderSource(odd)
    assert list(source.class_names) == ["ann", "ann/profile", "bob", "eve"]
    said = "\n".join(source.notes)
    assert "counts as a separate person" in said and "1 of 4 identities, such as 'ann/profile'" in said
    assert "1 file that is not an image skipped" in said
    assert "4 system folders or links to other folders skipped, such as '__MACOSX'" in said
    assert "several people" not in said
    for i in range(len(source)):
        source.read(i)
    assert "1 image in the folders of several people, such as 'bob/1.png' and 'eve/same.png'" in source.notes[-1]


def test_a_tidy_tree_has_no_notes(tmp_path):
    source = FolderSource(grow(tmp_path, ann=2, bob=2))
    assert [source.read(i) for i in range(4)] and source.notes == []


@pytest.mark.parametrize("script", ["prepare", "export", "make_bin", "evaluate", "enroll"])
def test_every_script_prints_the_notes_of_its_source(odd, tmp_path, script, capsys, monkeypatch):
    if script == "prepare":
        prepare(odd, tmp_path / "data")
    elif script == "export":
        prepare("export", odd, tmp_path / "again")
    elif script == "make_bin":
        grow(odd, **{f"p{k}": 4 for k in range(20)})
        make_bin.main([str(odd), str(tmp_path / "x.bin"), "--num-pairs", "20"])
    elif script == "evaluate":
        (tmp_path / "m.fake").write_bytes(b"weights")
        run_main(tmp_path / "m.fake", "--valid", odd, "--color", "rgb")
    else:
        (tmp_path / "m.fake").write_bytes(b"weights")
        monkeypatch.setattr(predict, "open_model", lambda args: (MeanColour(None, Io(), 1), Io(), None))
        colours = iter(np.random.default_rng(0).integers(0, 256, (99, 3)))
        monkeypatch.setattr(
            FaceCutter,
            "cut",
            lambda self, *_: PhotoFaces([whole_crop(np.full((112, 112, 3), next(colours), np.uint8))], 1),
        )
        predict.main(["enroll", str(odd), str(tmp_path / "g.npy"), "--model", str(tmp_path / "m.fake")])
    said = capsys.readouterr().out
    assert "note: each folder with images counts as a separate person" in said
    assert "note: 4 system folders" in said
    if script in ("prepare", "export", "evaluate", "enroll"):
        assert "note: 1 image in the folders of several people" in said


def test_calibration_tells_the_notes_of_its_source(odd):
    notes = []
    load_crops(odd, 3, 0, notes=notes)
    assert "counts as a separate person" in notes[0]


def test_a_pipe_is_not_a_photo(tmp_path):
    os.mkfifo(grow(tmp_path, ann=1) / "ann" / "pipe.jpg")
    assert len(FolderSource(tmp_path)) == 1
