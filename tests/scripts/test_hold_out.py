"""People of a verification set stay out of training: held out by chance, or left out because the set has them."""

import cv2
import numpy as np
import pytest

import make_bin
import prepare_data
from facelib.data.curation.same_images import same_images_notes
from facelib.data.readers.open_records import open_records
from facelib.data.readers.sources import open_source
from facelib.data.verification.bins import load_bin, write_bin
from facelib.errors import FaceError
from facelib.evaluation.verification_sets import find_sets, named_images
from facelib.model_input import Io
from facelib.sidecar import write_sidecar
from tests.helpers.patches_onnx import write_model

SHARED = (3, 17)


def draw(identity, photo):
    """PNG bytes of 112x112: patches of the identity's colours, and a little noise of the photo."""
    patches = np.random.default_rng(identity).integers(20, 236, (4, 4, 3))
    noise = np.random.default_rng([identity, photo]).integers(-20, 21, (4, 4, 3))
    face = np.clip(patches + noise, 0, 255).astype(np.uint8).repeat(28, 0).repeat(28, 1)
    return cv2.imencode(".png", face)[1].tobytes()


@pytest.fixture
def faces(tmp_path):
    """30 identities of 3 images, and one of a single image."""
    for identity in range(30):
        (tmp_path / "faces" / f"p{identity:02d}").mkdir(parents=True)
        for photo in range(3):
            (tmp_path / "faces" / f"p{identity:02d}" / f"{photo}.png").write_bytes(draw(identity, photo))
    (tmp_path / "faces" / "single").mkdir()
    (tmp_path / "faces" / "single" / "0.png").write_bytes(draw(500, 0))
    return tmp_path / "faces"


def prepare(*words):
    assert prepare_data.main([*map(str, words), "--no-progress"]) == 0


def people(data):
    return set(open_source(data).class_names)


# ------------------------------------------------------------------------------------------------------- hold out


def test_identities_are_held_out_into_folders_that_make_bin_takes(faces, tmp_path, capsys):
    prepare(faces, tmp_path / "data", "--hold-out", 20)
    said = capsys.readouterr().out
    held = tmp_path / "data-held-out"

    assert len(people(held)) == 20 and len(people(tmp_path / "data")) == 11 and "single" in people(tmp_path / "data")
    assert people(held) | people(tmp_path / "data") == people(faces) and len(open_source(held)) == 60
    assert f"wrote held-out identities: 20 identities in {held}" in said
    assert f"next: python make_bin.py {held} valid_dataset/data-held-out.bin" in said
    assert make_bin.main([str(held), str(tmp_path / "held.bin")]) == 0
    trained = {open_records(tmp_path / "data").read(i)[0] for i in range(31)}
    assert not trained & set(load_bin(tmp_path / "held.bin").images)


def test_a_hold_out_follows_the_seed_and_is_not_repeated(faces, tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare(faces, tmp_path / name, "--hold-out", 5, "--seed", seed)
    again = (tmp_path / "a-held-out").stat().st_mtime_ns
    capsys.readouterr()

    prepare(faces, tmp_path / "a", "--hold-out", 5)

    assert "already there, nothing to do" in capsys.readouterr().out
    assert (tmp_path / "a-held-out").stat().st_mtime_ns == again
    assert people(tmp_path / "a-held-out") == people(tmp_path / "b-held-out") != people(tmp_path / "c-held-out")
    with pytest.raises(FaceError, match="was made with --hold-out 5"):
        prepare(faces, tmp_path / "a")


def test_a_conversion_that_was_killed_after_the_hold_out_goes_on(faces, tmp_path):
    prepare(faces, tmp_path / "data", "--hold-out", 5)
    before = people(tmp_path / "data-held-out"), people(tmp_path / "data")
    (tmp_path / "data" / "meta.json").rename(tmp_path / "meta.json")
    (tmp_path / "data").rename(tmp_path / "gone")

    prepare(faces, tmp_path / "data", "--hold-out", 5)

    assert (people(tmp_path / "data-held-out"), people(tmp_path / "data")) == before


def test_bad_images_are_not_held_out(faces, tmp_path):
    for folder in faces.iterdir():
        (folder / "9.png").write_bytes(b"text")

    prepare(faces, tmp_path / "data", "--hold-out", 29, "--skip-bad")

    assert len(open_source(tmp_path / "data-held-out")) == sum(
        1 if name == "single" else 3 for name in people(tmp_path / "data-held-out")
    )


# ------------------------------------------------------------------------------------------------------ leave out


@pytest.fixture
def verification(tmp_path):
    """A .bin of 40 images: of two people of the training set other photos, of one the same bytes, and of strangers."""
    images = [draw(identity, 50 + k) for identity in SHARED for k in range(2)]
    images += [draw(25, 0), draw(25, 1), *(draw(2000 + k, 0) for k in range(34))]
    write_bin(tmp_path / "v.bin", images, [True] * 20)
    return tmp_path / "v.bin"


def model_of(tmp_path):
    model = write_model(tmp_path / "X.onnx")
    write_sidecar(model, kind="onnx", made_from=None, io=Io(layout="nchw", embedding_size=48))
    return model


def test_people_with_the_same_image_bytes_are_left_out(faces, tmp_path, verification, capsys):
    prepare(faces, tmp_path / "data", "--leave-out", verification)

    assert people(faces) - people(tmp_path / "data") == {"p25"}
    assert "left out: 1 identity with images that are in v.bin byte for byte: p25" in capsys.readouterr().out


def test_with_a_model_people_with_other_photos_are_left_out_too(faces, tmp_path, verification, capsys):
    model = model_of(tmp_path)

    prepare(faces, tmp_path / "data", "--leave-out", verification, "--model", model)

    assert {"p03", "p17", "p25"} <= people(faces) - people(tmp_path / "data")
    assert len(people(tmp_path / "data")) >= 26  # one pair of strangers is expected to come as near
    assert "identities within distance" in capsys.readouterr().out
    prepare(faces, tmp_path / "data", "--leave-out", verification, "--model", model)
    assert "already there, nothing to do" in capsys.readouterr().out
    with pytest.raises(FaceError, match="was made with --leave-out"):
        prepare(faces, tmp_path / "data")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--hold-out", 0], "--hold-out N needs"),
        (["--hold-out", 31], "31; 31 identities, 30 of them with two or more images"),
        (["--hold-out", 3, "--shard", "1/2"], "cannot be used with --shard"),
        (["--model", "X.onnx"], "without --leave-out"),
        (["--leave-out", "nope.bin"], "verification set at 'nope.bin'"),
        (["--leave-out", "v.bin", "--model", "nope.onnx"], "nope.onnx"),
        (
            ["--leave-out", "v.bin", "--model", "bare.onnx"],
            "has no sidecar: find the people with tools/check_overlap.py",
        ),
    ],
)
def test_bad_flags_are_one_line_and_write_nothing(faces, tmp_path, verification, monkeypatch, words, match):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "bare.onnx")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(FaceError) as caught:
        prepare("faces", "data", *words)

    assert match in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


# ----------------------------------------------------------------------------------------------------------- train


def test_train_says_which_verification_images_it_trains_on(faces, tmp_path, verification, monkeypatch):
    prepare(faces, tmp_path / "data")
    records, sets = open_records(tmp_path / "data"), find_sets(verification)

    (note,) = same_images_notes(records, named_images(sets))

    assert note.startswith(
        "2 training images are in v byte for byte, so the accuracy on this set would be too high: leave"
    )
    monkeypatch.setattr("facelib.data.curation.same_images.LOOKED_AT", 90)
    (some,) = same_images_notes(records, named_images(sets))
    assert "of the first 90" in some
    prepare(faces, tmp_path / "clean", "--leave-out", verification)
    assert same_images_notes(open_records(tmp_path / "clean"), named_images(sets)) == []
