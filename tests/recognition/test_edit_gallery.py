"""Editing a gallery: the others stay bit for bit, a refusal changes nothing, a kill leaves the old or the new one."""

import json

import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.model_input import Io
from facelib.recognition.edit_gallery import add_people, people_table, remove_people, rename_person
from facelib.recognition.gallery import open_gallery, save_gallery, write_gallery
from tests.helpers.killed_replace import kill_at_replace

NAMES = ["Ada", "Bo", "Çelik"]


def unit(rows, seed):
    drawn = np.random.default_rng(seed).standard_normal((rows, 8))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def write(path, names, seed=0, **more):
    model = path.parent / "x.onnx"
    model.write_bytes(b"weights")
    vectors = unit(len(names), seed)
    counts = list(range(1, len(names) + 1))
    write_gallery(path, vectors, names, counts, model=model, io=Io(), flip=True, decision=None, **more)
    return open_gallery(path)


@pytest.fixture
def gallery(tmp_path):
    return write(tmp_path / "g.npy", NAMES, quality=[0.5, 0.6, 0.7], norms=[5.0, 6.0, 7.0])


def test_a_removed_person_is_gone_and_the_others_are_the_same_bits(gallery):
    before = np.array(gallery.vectors)

    save_gallery(remove_people(gallery, ["Bo"]))

    after = open_gallery(gallery.path)
    assert (after.names, after.num_photos, after.quality, after.norms) == (
        ["Ada", "Çelik"], [1, 3], [0.5, 0.7], [5.0, 7.0],
    )  # fmt: skip
    np.testing.assert_array_equal(after.vectors, before[[0, 2]])
    assert (after.io, after.flip, after.model_sha256) == (gallery.io, True, gallery.model_sha256)


def test_removing_needs_no_model(gallery):
    gallery.model.unlink()

    save_gallery(rename_person(remove_people(gallery, ["Bo", "Ada"]), "Çelik", "Ç. Yılmaz"))

    assert open_gallery(gallery.path).names == ["Ç. Yılmaz"]


def test_added_people_come_last_and_what_is_not_known_of_all_is_not_kept(gallery, tmp_path):
    more = write(tmp_path / "more.npy", ["Di"], seed=1, norms=[9.0])

    after = add_people(gallery, more)

    assert (after.names, after.num_photos, after.quality, after.norms) == (
        [*NAMES, "Di"], [1, 2, 3, 1], None, [5.0, 6.0, 7.0, 9.0],
    )  # fmt: skip
    np.testing.assert_array_equal(after.vectors, np.concatenate([gallery.vectors, more.vectors]))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda g: remove_people(g, ["Ada", "Eve"]), ".*g.npy' has no person with the name 'Eve'"),
        (lambda g: remove_people(g, NAMES), "at least one person"),
        (lambda g: rename_person(g, "Eve", "Ada"), ".* has no person with the name 'Eve'"),
        (lambda g: rename_person(g, "Bo", "Ada"), "'Ada' is already used"),
        (lambda g: save_gallery(rename_person(g, "Bo", "two\nlines")), "printable text"),
        (lambda g: add_people(g, g), "3 of the new people are already enrolled, the first one is 'Ada'"),
    ],
)
def test_a_refusal_is_one_line_and_changes_nothing(gallery, edit, message):
    files = {path: path.read_bytes() for path in gallery.path.parent.iterdir()}

    with pytest.raises(FaceError, match=message) as refusal:
        edit(gallery)

    assert "\n" not in str(refusal.value)
    assert {path: path.read_bytes() for path in gallery.path.parent.iterdir()} == files


@pytest.mark.parametrize("killed_at", range(3))
def test_a_killed_edit_leaves_the_old_gallery_or_the_new_one(gallery, monkeypatch, killed_at):
    replaced = kill_at_replace(monkeypatch, killed_at)
    with pytest.raises(KeyboardInterrupt):
        save_gallery(remove_people(gallery, ["Ada"]))
    monkeypatch.undo()

    assert len(replaced) == killed_at
    assert open_gallery(gallery.path).names == (NAMES if killed_at < 2 else NAMES[1:])
    save_gallery(remove_people(open_gallery(gallery.path), ["Bo"]))
    assert "Bo" not in open_gallery(gallery.path).names
    assert sorted(path.name for path in gallery.path.parent.iterdir() if "new" in path.name) == []


def test_the_list_shows_photos_quality_and_norm(gallery):
    lines = people_table(gallery).splitlines()

    assert lines[0].split("|")[0].strip() == "identity" and len(lines) == 5
    assert [cell.strip() for cell in lines[3].split("|")] == ["Bo", "2", "0.60", "6.00"]
    value = json.loads(gallery.path.with_name("g.npy.json").read_text())
    assert value["quality"] == [0.5, 0.6, 0.7]
