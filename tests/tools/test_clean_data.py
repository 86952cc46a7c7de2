"""Cleaning: planted errors are found, the rest stays; by geometry, and on faces whose colour is their vector."""

import json

import clean_data
import cv2
import numpy as np
import pytest
from clean_data import check_sizes

from facelib.data.curation.cleaning import (
    DROPPED,
    KEPT,
    RELABELLED,
    TOO_FEW,
    dominant_centres,
    judge,
    merged_identities,
    robust_centres,
)
from facelib.data.readers.open_records import open_records
from facelib.errors import FaceError
from facelib.model_input import Io
from facelib.sidecar import write_sidecar


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def people(num=8, each=20, size=32, spread=0.1, seed=0):
    """Unit vectors around random directions, which are nearly at right angles."""
    rng = np.random.default_rng(seed)
    truth = unit(rng.normal(size=(num, size)))
    labels = np.repeat(np.arange(num), each)
    return unit(truth[labels] + spread * rng.normal(size=(len(labels), size))), labels, truth


def degrees(a, b):
    return np.degrees(np.arccos(np.clip(np.sum(a * b, -1), -1, 1)))


def test_a_minority_of_wrong_faces_does_not_pull_the_centre():
    vectors, labels, truth = people(spread=0.05)
    vectors[:8] = truth[5]  # 8 of the first identity's 20 are one other person

    centres = robust_centres(vectors, labels, 8)

    assert degrees(centres, truth).max() < 8
    assert degrees(unit(vectors[:20].mean(0)), truth[0]) > 30  # the plain mean is pulled


def test_an_identity_without_faces_has_no_direction():
    vectors, labels, _ = people(num=3)
    assert not robust_centres(vectors[labels != 1], labels[labels != 1], 3)[1].any()


@pytest.mark.parametrize("nearer_by, reason", [(None, DROPPED), (20.0, RELABELLED)])
def test_planted_errors_are_found_and_nothing_else(nearer_by, reason):
    vectors, labels, _ = people()
    wrong = np.arange(0, len(labels), 10)  # one in ten faces belongs to the next person
    planted = labels.copy()
    planted[wrong] = (labels[wrong] + 1) % 8
    stranger = unit(np.random.default_rng(9).normal(size=(1, 32)))
    vectors, planted = np.concatenate([vectors, stranger]), np.append(planted, 3)

    verdict = judge(
        vectors, planted, robust_centres(vectors, planted, 8), max_angle=60, nearer_by=nearer_by, min_images=1
    )

    changed = np.flatnonzero(verdict.reason != KEPT)
    assert changed.tolist() == [*wrong, len(labels)]
    assert set(verdict.reason[wrong]) == {reason}
    expected = labels[wrong] if nearer_by else np.full(len(wrong), -1)
    np.testing.assert_array_equal(verdict.labels[wrong], expected)
    np.testing.assert_array_equal(verdict.nearest[wrong], labels[wrong])
    assert (verdict.labels[-1], verdict.reason[-1]) == (-1, DROPPED)  # nobody's face moves nowhere
    np.testing.assert_allclose(
        verdict.angle[:5], degrees(vectors[:5], robust_centres(vectors, planted, 8)[planted[:5]]), atol=0.1
    )


def test_no_face_moves_to_an_identity_that_has_none():
    vectors = np.array([[1, 0, 0]] * 4 + [[-1, 0, 0]], np.float32)
    labels = np.zeros(5, int)

    verdict = judge(vectors, labels, robust_centres(vectors, labels, 2), max_angle=95, nearer_by=20.0, min_images=1)

    assert (verdict.labels[-1], verdict.reason[-1]) == (-1, DROPPED)


def test_what_is_left_of_a_small_identity_goes_too():
    vectors, labels, truth = people(num=3, each=4, spread=0.02)
    vectors[:2] = -truth[0]  # half: the centre may be either, two stay

    verdict = judge(vectors, labels, robust_centres(vectors, labels, 3), max_angle=60, nearer_by=None, min_images=3)

    assert sorted(verdict.reason[:4]) == [DROPPED, DROPPED, TOO_FEW, TOO_FEW]
    assert set(verdict.reason[4:]) == {KEPT}


def test_identities_that_are_one_person_merge_into_the_largest_through_others():
    angle = np.radians([0, 20, 40, 100, 200])
    centres = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)

    merged = merged_identities(centres, np.array([3, 5, 9, 4, 0]), 25)

    assert merged.tolist() == [2, 2, 2, 3, 4]
    assert merged_identities(centres, np.array([3, 3, 3, 4, 1]), 25).tolist() == [0, 0, 0, 3, 4]
    assert merged_identities(centres, np.ones(5, int), 10).tolist() == [0, 1, 2, 3, 4]


def test_the_groups_of_merged_identities_are_those_of_a_search_from_neighbour_to_neighbour():
    rng = np.random.default_rng(5)
    centres, counts = unit(rng.normal(size=(300, 3))), rng.integers(0, 4, 300)
    centres[counts == 0] = 0
    is_close = (centres @ centres.T >= np.cos(np.radians(6))) & (counts[:, None] > 0) & (counts[None] > 0)
    expected, groups = np.arange(300), 0
    for start in range(300):
        reached, waiting = {start}, [start]
        while waiting:
            near = set(np.flatnonzero(is_close[waiting.pop()]).tolist()) - reached
            reached |= near
            waiting += near
        expected[start] = min(reached, key=lambda i: (-counts[i], i))
        groups += expected[start] == start

    assert 20 < groups < 280
    np.testing.assert_array_equal(merged_identities(centres, counts, 6), expected)


def test_the_dominant_sub_centre_is_that_of_most_faces():
    vectors, labels, truth = people(num=4)
    vectors[:6] = truth[3]
    subs = np.stack([unit(np.random.default_rng(1).normal(size=(4, 32))), truth, truth[::-1]], axis=1)

    np.testing.assert_array_equal(dominant_centres(vectors, labels, subs), truth)


# ---------------------------------------------------------------------------------------------- the command

COLOURS = {"ann": (200, 30, 30), "bob": (30, 200, 30), "cid": (30, 30, 200), "bob2": (36, 200, 30)}


class MeanColour:
    """Stands for a model: the mean colour about gray, so that colours are directions."""

    def __call__(self, faces):
        return unit(faces.mean((1, 2)) - 90)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Twelve faces of each colour; one face of ann's folder is cid's."""
    for name, colour in COLOURS.items():
        (tmp_path / "faces" / name).mkdir(parents=True)
        for i in range(12):
            rng = np.random.default_rng([*colour, i])
            own = COLOURS["cid"] if (name, i) == ("ann", 3) else colour
            pixels = np.clip(np.array(own) + rng.integers(-15, 16, (112, 112, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "faces" / name / f"{i:02d}.png"), pixels[..., ::-1])
    (tmp_path / "m.onnx").write_bytes(b"model")
    write_sidecar(tmp_path / "m.onnx", kind="onnx", made_from=None, io=Io())
    monkeypatch.setattr(clean_data, "open_embedder", lambda *args: MeanColour())
    return tmp_path


def run(tmp_path, *flags, out="out"):
    return clean_data.main([str(tmp_path / "faces"), str(tmp_path / out), "--model", str(tmp_path / "m.onnx"), *flags])


def counts(path):
    records = open_records(path)
    return dict(zip(records.class_names, np.bincount(records.labels).tolist(), strict=True))


def test_the_command_drops_and_says_so(folders, capsys):
    sheet = folders / "sheet.png"
    assert run(folders, "--sheet", str(sheet), "--max-angle", "60") == 0

    assert counts(folders / "out") == {"ann": 11, "bob": 12, "bob2": 12, "cid": 12}
    note = json.loads((folders / "out" / "clean.json").read_text())
    (decision,) = note["decisions"]
    assert (decision["from"], decision["to"], decision["why"]) == ("ann", None, DROPPED)
    assert "03.png" in decision["record"]
    assert decision["angle"] > 60
    printed = capsys.readouterr().out
    assert "dropped                 1" in printed
    assert cv2.imread(str(sheet)).shape[0] > 112


def test_the_command_relabels_and_merges(folders):
    run(folders, "--relabel", "--merge-angle", "15", "--max-angle", "60")

    assert counts(folders / "out") == {"ann": 11, "bob": 24, "cid": 13}
    decisions = json.loads((folders / "out" / "clean.json").read_text())["decisions"]
    assert {(d["from"], d["to"], d["why"]) for d in decisions} == {
        ("ann", "cid", RELABELLED),
        ("bob2", "bob", "merged"),
    }


def test_faces_that_stay_keep_their_bytes(folders):
    run(folders)
    files = {file.read_bytes() for file in (folders / "faces").rglob("*.png")}
    records = open_records(folders / "out")
    assert all(records.read(i)[0] in files for i in range(len(records)))


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--max-angle", "0"], "--max-angle must be between 0 and 180 degrees. Received: 0"),
        (["--merge-angle", "95"], "--merge-angle must be between 0 and 90 degrees. Received: 95"),
        (["--min-images", "0"], "--min-images must be at least 1"),
        (["--min-images", "50"], "After cleaning, no identity has at least 50 faces"),
        (["--head", "x.h5", "--merge-angle", "5"], "--merge-angle cannot be used with --head"),
        (["--sheet", "x.jpg"], "png"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_left(folders, flags, message):
    with pytest.raises(FaceError, match=message):
        run(folders, *flags)
    assert not (folders / "out").exists()


def test_an_existing_out_is_not_touched(folders):
    (folders / "out").mkdir()
    with pytest.raises(FaceError, match="exists: choose a different name"):
        run(folders)


def test_a_finished_cleaning_is_not_repeated(folders, capsys, monkeypatch):
    sheet = folders / "sheet.png"
    run(folders, "--sheet", str(sheet), "--max-angle", "60")
    first = {path.name: path.read_bytes() for path in (folders / "out").iterdir()}
    drawn = sheet.read_bytes()
    sheet.unlink()  # as after a kill between the data and the sheet
    run(folders, "--sheet", str(sheet), "--max-angle", "60")
    assert sheet.read_bytes() == drawn

    monkeypatch.setattr(clean_data, "open_embedder", lambda *args: pytest.fail("it was done again"))
    capsys.readouterr()
    assert run(folders, "--sheet", str(sheet), "--max-angle", "60") == 0
    assert "already there, nothing to do" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (folders / "out").iterdir()} == first
    with pytest.raises(FaceError, match=r"was made with --max-angle 60\.0") as caught:
        run(folders, "--max-angle", "70")
    assert "different face data" not in str(caught.value)
    (folders / "faces" / "ann" / "00.png").unlink()
    with pytest.raises(FaceError, match="different face data"):
        run(folders, "--sheet", str(sheet), "--max-angle", "60")


def test_dominant_sub_centres_come_from_the_head_of_a_run(folders):
    import keras

    from face_loss_k import make_head
    from facelib.runtimes.keras_h5 import save_h5
    from facelib.training.init_from import write_classes

    names = ["cid", "bob2", "bob", "ann"]  # another order than that of the data
    inputs, labels = keras.Input((3,), name="e"), keras.Input((), dtype="int32", name="l")
    head = make_head("arcface", 4, {"sub_centres": 2})
    model = keras.Model([inputs, labels], head(inputs, labels)[0])
    centres = [c for name in names for c in (np.array(COLOURS[name]) - 90.0, [-1.0, -1.0, -1.0])]
    head.centres.assign(centres)
    save_h5(model, folders / "run" / "epoch-001.h5")
    write_classes(folders / "run", names)

    run(folders, "--head", str(folders / "run" / "epoch-001.h5"), "--max-angle", "60")

    assert counts(folders / "out") == {"ann": 11, "bob": 12, "bob2": 12, "cid": 12}
    with pytest.raises(FaceError, match="3 values in the vectors of --model, 5 in the centres"):
        check_sizes(np.zeros((4, 3)), np.zeros((4, 2, 5)))
    write_classes(folders / "run", names[:3])
    with pytest.raises(FaceError, match="8 centres for 3 identities"):
        run(folders, "--head", str(folders / "run" / "epoch-001.h5"), out="other")
    write_classes(folders / "run", ["cid", "bob2", "bob", "eve"])
    with pytest.raises(FaceError, match="has no class centre for 'ann'"):
        run(folders, "--head", str(folders / "run" / "epoch-001.h5"), out="other")
