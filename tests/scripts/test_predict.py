"""predict.py: the distance is the one of the formula, the gallery finds who was enrolled, bad input is one line."""

import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

import align_faces
import predict
from facelib.alignment.align_folders import _align_file
from facelib.alignment.detect import Face, FaceDetector
from facelib.alignment.photos import FaceCutter, UnusablePhotoError, decode_photo
from facelib.errors import FaceError
from facelib.evaluation.nearest import Nearest
from facelib.model_input import TEMPLATE_112, Io
from facelib.recognition import enrolment
from facelib.recognition.gallery import write_gallery
from facelib.recognition.photo_embeddings import unit_vectors
from facelib.sidecar import write_sidecar
from tests.helpers.patches_onnx import write_model

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
CROPS, PHOTOS = DATA / "raw" / "expected_crops", DATA / "raw" / "photos"
PRETRAINED = DATA / "pretrained" / "mobilefacenet_relu6_128.onnx"
needs_faces = pytest.mark.needs_data(CROPS, PRETRAINED)
THRESHOLD, STRICT = 0.05, 0.001  # of the FARs 0.01 and 0.001


def calibrate(model, flip=False):
    """A sidecar with thresholds, as the test scripts write it."""

    def at(distance):
        ends = {"distance_ci95": [distance / 2, distance * 2], "far_ci95": [1e-4, 5e-2], "vr": 0.9, "vr_ci95": [0.8, 1]}
        return {"distance": distance, "cosine": 1 - distance / 2, **ends}

    thresholds = {"0.01": at(THRESHOLD), "0.001": at(STRICT)}
    write_sidecar(
        model, kind="onnx", made_from=None, io=Io(layout="nchw", embedding_size=48),
        thresholds={"toy": {"sha256": "0", "impostors": 3000, "flip": flip, "far": thresholds}},
    )  # fmt: skip
    return model


def draw(identity, photo):
    """uint8 [112, 112, 3] RGB: patches of the identity's colours, and a little noise of the photo."""
    patches = np.random.default_rng(identity).integers(20, 236, (4, 4, 3))
    noise = np.random.default_rng([identity, photo]).integers(-20, 21, (4, 4, 3))
    return np.clip(patches + noise, 0, 255).astype(np.uint8).repeat(28, 0).repeat(28, 1)


def save(path, face):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(face[:, :, ::-1]))
    return path


def vector(face, flip=False):
    """The net in NumPy: float64 [48], of unit length."""
    total = vector_raw(face) + (vector_raw(face[:, ::-1]) if flip else 0)
    return total / np.linalg.norm(total)


def vector_raw(face):
    return (face.astype(np.float64).reshape(4, 28, 4, 28, 3).mean((1, 3)) - 128).transpose(2, 0, 1).ravel()


@pytest.fixture
def toy(tmp_path):
    """X.onnx, calibrated; folders of 6 people with 3 photos each; another photo of each beside them."""
    calibrate(write_model(tmp_path / "X.onnx"))
    for identity in range(6):
        for photo in range(3):
            save(tmp_path / "people" / f"p{identity}" / f"{photo}.png", draw(identity, photo))
        save(tmp_path / f"new{identity}.png", draw(identity, 99))
    save(tmp_path / "stranger.png", draw(77, 0))
    return tmp_path


def run(capsys, *words):
    assert predict.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------- 1:1


@pytest.mark.parametrize("flip", [False, True])
def test_the_distance_is_that_of_the_formula_and_embeds_as_the_calibration_did(toy, capsys, flip):
    calibrate(toy / "X.onnx", flip)
    expected = np.square(vector(draw(0, 0), flip) - vector(draw(0, 99), flip)).sum()

    out = run(capsys, toy / "people/p0/0.png", toy / "new0.png", "--model", toy / "X.onnx", "--far", 0.01)

    assert f"distance {expected:.4f}, cosine {1 - expected / 2:.4f}" in out


def test_the_verdict_is_taken_at_the_calibrated_threshold(toy, capsys):
    a, b, stranger, model = toy / "people/p0/0.png", toy / "new0.png", toy / "stranger.png", ("--model", toy / "X.onnx")

    assert run(capsys, a, b, *model, "--far", 0.01).startswith("same person")
    assert "threshold 0.0500 for FAR 0.01" in run(capsys, a, stranger, *model, "--far", 0.01)
    assert run(capsys, a, stranger, *model, "--far", 0.01).startswith("different people")
    by_default = run(capsys, a, b, *model)
    assert by_default.startswith("different people") and "0.0010 for FAR 0.001" in by_default
    assert run(capsys, a, stranger, *model, "--threshold", 4).startswith("same person")


def test_the_picture_shows_both_faces(toy, capsys):
    out = toy / "out.png"
    run(capsys, toy / "new0.png", toy / "new1.png", "--model", toy / "X.onnx", "--out", out)
    picture = cv2.imread(str(out), cv2.IMREAD_COLOR_RGB)

    for identity in (0, 1):
        colours = draw(identity, 99)[14::28, 14::28].reshape(-1, 3).astype(int)
        for colour in colours:
            assert (np.abs(picture.astype(int) - colour).max(2) <= 2).sum() > 1000, f"face {identity}: {colour}"


def test_a_model_without_sidecar_is_fed_by_flags_and_needs_a_threshold(toy, capsys):
    (toy / "X.onnx.json").unlink()
    words = [toy / "new0.png", toy / "new0.png", "--model", toy / "X.onnx"]

    out = run(capsys, *words, "--threshold", 0.5, "--layout", "nchw")

    assert out.startswith("same person: distance 0.0000") and "given" in out
    with pytest.raises(FaceError, match="no calibrated threshold"):
        predict.main([str(word) for word in [*words, "--layout", "nchw"]])


# --------------------------------------------------------------------------------------------------------- 1:N


def enrolled(toy, capsys, *words, fpir=None):
    threshold = ("--fpir", fpir) if fpir else ("--far", 0.01)
    return run(capsys, "enroll", toy / "people", toy / "g.npy", "--model", toy / "X.onnx", *threshold, *words)


def test_a_search_finds_who_was_enrolled_and_calls_others_unknown(toy, capsys):
    assert "6 people, 18 photos" in enrolled(toy, capsys)

    for identity in range(6):
        centre = np.mean([vector(draw(identity, photo)) for photo in range(3)], axis=0)
        expected = np.square(centre / np.linalg.norm(centre) - vector(draw(identity, 99))).sum()
        lines = run(capsys, "search", toy / f"new{identity}.png", toy / "g.npy", "--top", 3).splitlines()
        name, _, rest = lines[0].partition(": distance ")
        assert name == f"p{identity}" and float(rest.split(",")[0]) == pytest.approx(expected, abs=5e-4)
        assert len([line for line in lines if line.endswith("      3")]) == 3
    out = run(capsys, "search", toy / "stranger.png", toy / "g.npy")
    assert out.startswith("unknown: none of 6 people") and "  *" not in out


def test_a_model_that_is_replaced_while_people_are_enrolled_makes_no_gallery(toy, capsys, monkeypatch):
    def embed_and_replace(*args, **options):
        rows = embed_photos(*args, **options)
        calibrate(write_model(toy / "X.onnx", offset=-100.0))
        return rows

    embed_photos = enrolment.embed_photos
    monkeypatch.setattr(enrolment, "embed_photos", embed_and_replace)

    with pytest.raises(FaceError, match=r"X\.onnx' was replaced while this command ran"):
        enrolled(toy, capsys)
    assert not list(toy.glob("g.npy*"))


def test_people_are_listed_removed_renamed_and_added_without_new_enrolment(toy, capsys):
    enrolled(toy, capsys)
    whole = np.load(toy / "g.npy")
    save(toy / "more" / "p9" / "0.png", draw(9, 0))

    assert "p4 " in run(capsys, "gallery", toy / "g.npy")
    said = run(capsys, "gallery", toy / "g.npy", "--add", toy / "more", "--remove", "p0", "p3", "--rename", "p5", "Eve")

    assert "5 people, 6 before" in said
    np.testing.assert_array_equal(np.load(toy / "g.npy")[:4], whole[[1, 2, 4, 5]])
    assert run(capsys, "search", toy / "new5.png", toy / "g.npy").startswith("Eve: distance")
    assert run(capsys, "search", toy / "more/p9/0.png", toy / "g.npy").startswith("p9: distance 0.000")
    assert run(capsys, "search", toy / "new0.png", toy / "g.npy").startswith("unknown")
    files = {path: path.read_bytes() for path in toy.glob("g.npy*")}
    for words, message in (
        (["--add", toy / "more"], "already enrolled, the first one is 'p9'"),
        (["--remove", "p1", "--add", toy / "nowhere"], "nowhere"),
        (["--add", toy / "more", "--model", write_model(toy / "other.onnx", offset=-90.0)], "is a different|calibrate"),
    ):
        with pytest.raises(FaceError, match=message):
            predict.main(["gallery", str(toy / "g.npy"), *map(str, words)])
    assert {path: path.read_bytes() for path in toy.glob("g.npy*")} == files


def test_an_edit_does_not_undo_one_that_was_made_meanwhile(toy, capsys, monkeypatch):
    enrolled(toy, capsys)
    rename = predict.rename_person

    def slowly(*args):
        monkeypatch.setattr(predict, "rename_person", rename)
        run(capsys, "gallery", toy / "g.npy", "--rename", "p1", "Bo")
        return rename(*args)

    monkeypatch.setattr(predict, "rename_person", slowly)

    with pytest.raises(FaceError, match="was replaced while this command ran"):
        predict.main(["gallery", str(toy / "g.npy"), "--rename", "p2", "Cy"])
    assert "Bo" in run(capsys, "gallery", toy / "g.npy")


def test_a_search_says_what_chance_alone_gives(toy, capsys):
    enrolled(toy, capsys)

    assert "match a stranger with 0.06 people" in run(capsys, "search", toy / "new0.png", toy / "g.npy")
    assert "stranger" not in run(capsys, "search", toy / "new0.png", toy / "g.npy", "--far", 0.001)


def test_the_threshold_is_set_for_the_size_of_the_gallery(toy, capsys):
    assert "for FPIR 0.1 among 6 people, by FAR 0.01" in enrolled(toy, capsys, fpir=0.1)

    out = run(capsys, "search", toy / "new0.png", toy / "g.npy")
    assert f"within the threshold {THRESHOLD:.4f} for FPIR 0.1" in out and "6 people are too few" in out
    out = run(capsys, "search", toy / "new0.png", toy / "g.npy", "--fpir", 0.01)
    assert f"within the threshold {STRICT:.4f} for FPIR 0.01" in out and "match a stranger" not in out
    assert "too few" in run(capsys, "gallery", toy / "g.npy", "--remove", "p1")
    assert "for FPIR 0.1 among 5 people" in run(capsys, "search", toy / "new0.png", toy / "g.npy")


def gallery_of(toy, name, count, *first, flip=False):
    """A gallery of X.onnx: `first`, then random people, `count` in all."""
    rows = np.random.default_rng(count).standard_normal((count, 48))
    rows[: len(first)] = first or rows[:0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = [f"q{i}" for i in range(count)]
    write_gallery(toy / name, rows, names, [1] * count, model=toy / "X.onnx", io=Io(layout="nchw", embedding_size=48),
                  flip=flip, decision=None)  # fmt: skip
    return toy / name


def test_a_cohort_normalises_the_scores_of_a_search(toy, capsys):
    gallery, cohort = gallery_of(toy, "h.npy", 40, vector(draw(0, 0))), gallery_of(toy, "cohort.npy", 200)
    (toy / "people.npy").mkdir()
    gallery_of(toy, "flipped.npy", 200, flip=True)

    out = run(capsys, "search", toy / "people/p0/0.png", gallery, "--cohort", cohort, "--fpir", 0.3, "--top", 2)

    head, first = out.splitlines()[1:3]
    assert out.startswith("q0: distance 0.00") and head.endswith("score") and first.split()[:2] == ["*", "q0"]
    assert "of normalised scores for FPIR 0.3 among 40 people" in out and "cohort of 200 people" in out
    for words, match in [
        ([cohort], "must have an FPIR"),
        ([cohort, "--threshold", 1], "Leave out --far, --threshold"),
        ([gallery, "--fpir", 0.3], "must not be in the gallery"),
        ([toy / "people.npy", "--fpir", 0.3], "is a folder. Enrol it first"),
        ([toy / "flipped.npy", "--fpir", 0.3], "was enrolled differently"),
        ([cohort, "--fpir", 0.1], "needs a gallery of 100 people"),
    ]:
        with pytest.raises(FaceError, match=match):
            predict.main([str(word) for word in ["search", toy / "new0.png", gallery, "--cohort", *words]])


def test_a_large_gallery_answers_as_a_small_one(toy, capsys, monkeypatch):
    enrolled(toy, capsys)
    small = run(capsys, "search", toy / "new3.png", toy / "g.npy")
    monkeypatch.setattr(predict, "Nearest", partial(Nearest, large=1))

    assert run(capsys, "search", toy / "new3.png", toy / "g.npy") == small


def test_a_search_with_another_model_is_refused(toy, capsys):
    enrolled(toy, capsys)
    calibrate(write_model(toy / "Y.onnx", offset=-100.0))

    with pytest.raises(FaceError, match="searched with the model that made it"):
        predict.main(["search", str(toy / "new0.png"), str(toy / "g.npy"), "--model", str(toy / "Y.onnx")])


def test_a_gallery_enrolled_without_flip_is_not_searched_with_a_threshold_calibrated_with_it(toy, capsys):
    enrolled(toy, capsys)
    calibrate(toy / "X.onnx", flip=True)

    with pytest.raises(FaceError, match="Enrol the gallery again"):
        predict.main(["search", str(toy / "new0.png"), str(toy / "g.npy"), "--far", "0.001"])


def test_photos_and_people_without_a_face_are_listed_and_left_out(toy, capsys, monkeypatch):
    monkeypatch.setattr(FaceDetector, "detect", lambda self, photo: [])
    save(toy / "people/p0/large.png", np.zeros((200, 160, 3), np.uint8))
    save(toy / "people/faceless/1.png", np.zeros((200, 160, 3), np.uint8))
    (toy / "people/p1/broken.jpg").write_bytes(b"\xff\xd8 cut")

    out = enrolled(toy, capsys)

    assert "6 people, 18 photos" in out and "not enrolled: faceless" in out
    for name in ("p0/large.png", "faceless/1.png", "p1/broken.jpg"):
        assert any(line.startswith("left out:") and name in line for line in out.splitlines())


def test_a_model_without_threshold_can_enrol_and_says_what_a_search_needs(toy, capsys):
    (toy / "X.onnx.json").unlink()
    words = ["enroll", toy / "people", toy / "g.npy", "--model", toy / "X.onnx", "--layout", "nchw"]

    assert "search with --threshold" in run(capsys, *words)
    assert run(capsys, "search", toy / "new2.png", toy / "g.npy", "--threshold", 0.05).startswith("p2:")
    with pytest.raises(FaceError, match="no calibrated threshold"):
        predict.main(["search", str(toy / "new2.png"), str(toy / "g.npy")])


# ----------------------------------------------------------------------------------------------- photos, bad input


class Places:
    """In the detector's place: a face of 112x112 pixels at each of the corners."""

    corners = ((40, 50),)

    def detect(self, photo):
        return [Face((x + 11, y + 22, 90, 90), np.add(TEMPLATE_112, (x, y)), 0.9) for x, y in self.corners]


def group(path, monkeypatch, *people, size=(300, 1000)):
    """A photo with a crop of each of (identity, x, y), and the detector that finds them."""
    photo = np.zeros((*size, 3), np.uint8)
    for identity, x, y in people:
        photo[y : y + 112, x : x + 112] = draw(identity, 99)
    monkeypatch.setattr("facelib.alignment.detect.FaceDetector", Places)
    monkeypatch.setattr(Places, "corners", tuple((x, y) for _, x, y in people))
    return save(path, photo)


def test_a_photo_of_another_size_goes_through_alignment(toy, capsys, monkeypatch):
    photo = group(toy / "photo.png", monkeypatch, (4, 40, 50), size=(300, 200))

    out = run(capsys, photo, toy / "new4.png", "--model", toy / "X.onnx")

    assert out.startswith("same person: distance 0.0000")


# ------------------------------------------------------------------------------------------------- several faces


def test_of_two_people_side_by_side_predict_and_align_faces_take_the_same(tmp_path, monkeypatch):
    """The one at the edge is a little larger, the one in the middle is meant."""
    from tests.helpers.placed_faces import synthetic_photo

    people = [synthetic_photo(1, 0, 1.6)[0][:, 60:], synthetic_photo(3, 5, 1.4)[0], synthetic_photo(9, 0, 0.6)[0]]
    photo = save(tmp_path / "photos" / "p.png", np.concatenate(people, axis=1))
    detector = FaceDetector()
    monkeypatch.setattr("facelib.alignment.detect.FaceDetector", lambda: detector)

    by_predict = FaceCutter()(photo.read_bytes(), "'p.png'")
    rule = align_faces.parse_args(["a", "b"]).face
    assert _align_file(photo.parent, tmp_path, rule, 0.0, lambda: detector, "p.png", "p.jpg") == (None, 3)

    by_align = cv2.imread(str(tmp_path / "p.jpg"), cv2.IMREAD_COLOR_RGB)
    assert cv2.absdiff(by_predict, by_align).mean() < 3
    largest = FaceCutter("largest")(photo.read_bytes(), "'p.png'")
    assert cv2.absdiff(by_predict, largest).mean() > 10


def test_a_photo_with_several_faces_gets_a_note_that_says_which_was_taken(toy, capsys, monkeypatch):
    photo = group(toy / "group.png", monkeypatch, (4, 0, 50), (2, 450, 50), (3, 700, 50))

    out = run(capsys, photo, toy / "new2.png", "--model", toy / "X.onnx")

    assert out.startswith("same person: distance 0.0000")
    assert "note: 'group.png' shows 3 faces: the face that is large and near the middle was used (--face largest" in out
    assert "note:" not in run(capsys, toy / "new2.png", toy / "new2.png", "--model", toy / "X.onnx")


def test_two_photos_of_groups_say_which_pairs_match(toy, capsys, monkeypatch):
    a = group(toy / "a.png", monkeypatch, (4, 0, 50), (2, 450, 50))
    b = group(toy / "b.png", monkeypatch, (2, 0, 50), (3, 450, 50), (4, 800, 50))
    corners = iter([((0, 50), (450, 50)), ((0, 50), (450, 50), (800, 50))])
    detect = Places.detect
    monkeypatch.setattr(Places, "detect", lambda self, photo: detect(SimpleNamespace(corners=next(corners)), photo))

    out = run(capsys, a, b, "--model", toy / "X.onnx", "--face", "all", "--out", toy / "o.png")

    lines = out.splitlines()
    assert lines[0] == "2 of 6 pairs are the same person"
    assert lines[1] == "  a.png: A1 (90 pixels wide, at 506,117), A2 (90 pixels wide, at 56,117)"
    matches = {tuple(line.split()[1:3]) for line in lines if line.startswith("  *")}
    assert matches == {("A1", "B3"), ("A2", "B2")}
    assert lines[-1] == f"wrote {toy / 'o.png'}: the nearest pair" and (toy / "o.png").exists()


def test_a_search_with_all_faces_names_each(toy, capsys, monkeypatch):
    enrolled(toy, capsys)
    photo = group(toy / "group.png", monkeypatch, (4, 0, 50), (2, 450, 50), (77, 800, 50))

    lines = run(capsys, "search", photo, toy / "g.npy", "--face", "all").splitlines()

    answers = [line for line in lines if line.startswith("face ")]
    assert [line.partition("): ")[2].split(":")[0] for line in answers] == ["p2", "unknown", "p4"]
    assert run(capsys, "search", photo, toy / "g.npy").startswith("p2:")


def test_faces_of_low_quality_are_left_out_of_a_gallery_which_keeps_quality_and_norm(toy, capsys):
    enrolled(toy, capsys)
    kept = json.loads((toy / "g.npy.json").read_text())
    for photo in range(3):
        save(toy / "people/p0" / f"{photo}.png", cv2.GaussianBlur(draw(0, photo), (0, 0), 9))

    out = enrolled(toy, capsys, "--min-quality", 0.3)

    assert len(kept["quality"]) == len(kept["norms"]) == 6 and all(0.3 < value <= 1 for value in kept["quality"])
    norms = [np.mean([np.linalg.norm(vector_raw(draw(k, photo))) for photo in range(3)]) for k in range(6)]
    np.testing.assert_allclose(kept["norms"], norms, rtol=1e-3)
    assert "5 people, 15 photos" in out and "not enrolled: p0" in out
    assert "The quality of a face must be at least 0.3" in out and "(size 1.00, sharpness 0.1" in out


def test_a_photo_is_turned_upright_as_its_exif_tag_says():
    upright = Image.fromarray(np.concatenate([np.zeros((40, 60, 3), np.uint8), np.full((40, 60, 3), 255, np.uint8)]))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to show
    stored = upright.rotate(90, expand=True)
    buffer = io.BytesIO()
    stored.save(buffer, "JPEG", exif=exif)

    photo = decode_photo(buffer.getvalue(), "'photo'")

    assert photo.shape == (80, 60, 3) and photo[:30].max() < 20 and photo[50:].min() > 235


@pytest.mark.parametrize(
    "data", [b"", b"text", b"\xff\xd8\xff\xe0 cut", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"GIF89a" + b"\0" * 20]
)
def test_what_is_no_image_is_one_line(data):
    with pytest.raises(UnusablePhotoError) as caught:
        decode_photo(data, "'it.jpg'")
    assert "'it.jpg'" in str(caught.value) and "\n" not in str(caught.value)


def test_a_header_that_claims_a_gigabyte_of_pixels_is_not_decoded():
    _, png = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))
    png = bytearray(png.tobytes())
    png[16:24] = (40_000).to_bytes(4, "big") * 2

    with pytest.raises(UnusablePhotoError, match="40000x40000"):
        decode_photo(bytes(png), "'bomb.png'")


def spoil_gallery(toy):
    (toy / "g.npy").write_bytes((toy / "g.npy").read_bytes()[:-2])


@pytest.mark.parametrize(
    ("words", "match", "prepare"),
    [
        (["nope.jpg", "new0.png", "--model", "X.onnx"], "No photo at 'nope.jpg'", None),
        (["people", "new0.png", "--model", "X.onnx"], "'people' is a folder", None),
        (["X.onnx", "new0.png", "--model", "X.onnx"], "'X.onnx': neither JPEG nor PNG", None),
        (["grey.png", "new0.png", "--model", "X.onnx"], "returned a zero embedding for 'grey.png'", None),
        (["new0.png", "new0.png", "--model", "nope.onnx"], "nope.onnx", None),
        (["new0.png", "new0.png", "--model", "new0.png"], "A model must be a .h5", lambda t: calibrate(t / "new0.png")),
        (["new0.png", "new1.png", "--model", "X.onnx", "--far", "1e-6"], "gave no threshold for FAR=1e-06", None),
        (["new0.png", "new1.png", "--model", "X.onnx", "--threshold", "4.1"], "0 to 4", None),
        (["new0.png", "new1.png", "--model", "X.onnx", "--threshold", "nan"], "0 to 4", None),
        (["new0.png", "new1.png", "--model", "X.onnx", "--out", "x.jpg"], "must end in .png", None),
        (["new0.png", "new1.png", "--model", "X.onnx", "--threads", "0"], "--threads must be at least 1", None),
        (
            ["enroll", "empty", "h.npy", "--model", "X.onnx"],
            "has no folders with images",
            lambda t: (t / "empty").mkdir(),
        ),
        (["enroll", "nope", "h.npy", "--model", "X.onnx"], "'nope'", None),
        (["enroll", "people", "new0.png", "--model", "X.onnx"], "not overwritten", None),
        (["enroll", "one", "h.npy", "--model", "X.onnx"], "returned a zero embedding", None),
        (["enroll", "blank", "h.npy", "--model", "X.onnx"], "None of the people in 'blank' could be enrolled", None),
        (["search", "new0.png", "new1.png"], "is not a gallery", None),
        (["search", "new0.png", "g.npy"], "SHA-256", spoil_gallery),
        (["search", "new0.png", "g.npy", "--top", "0"], "at least one person", None),
        (["search", "new0.png", "g.npy", "--fpir", "1"], "above 0 and below 1", None),
        (["search", "new0.png", "g.npy", "--fpir", "0.001"], "needs a gallery of 10,000 people", None),
        (["enroll", "people", "h.npy", "--model", "X.onnx", "--fpir", "0.001"], "needs a gallery of 10,000", None),
        (["search", "g.npy", "new0.png"], "is not a gallery", None),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(toy, capsys, monkeypatch, words, match, prepare):
    monkeypatch.chdir(toy)
    enrolled(toy, capsys)
    save(toy / "grey.png", np.full((112, 112, 3), 128, np.uint8))
    save(toy / "one/p/grey.png", np.full((112, 112, 3), 128, np.uint8))
    (toy / "blank/p").mkdir(parents=True)
    (toy / "blank/p/empty.jpg").write_bytes(b"")
    if prepare:
        prepare(toy)
    before = {path: path.stat().st_mtime_ns for path in toy.rglob("*")}

    with pytest.raises(FaceError) as caught:
        predict.main(words)

    assert match in str(caught.value) and "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in toy.rglob("*")} == before


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_an_embedding_that_is_zero_or_not_finite_names_its_photo(value):
    def embed(faces):
        rows = np.ones((len(faces), 4), np.float32)
        rows[1] = value
        return rows

    embed.name = "toy"
    with pytest.raises(FaceError, match="for b"):
        unit_vectors(embed, np.zeros((3, 112, 112, 3), np.uint8), False, ["a", "b", "c"])


def test_help_names_the_three_commands_and_errors_have_no_traceback(tmp_path):
    def call(*words):
        return subprocess.run([sys.executable, ROOT / "predict.py", *words], capture_output=True, text=True, timeout=60)

    shown, failed = call("--help"), call("search", tmp_path / "a.jpg", tmp_path / "g.npy")

    assert shown.returncode == 0 and all(word in shown.stdout for word in ("enroll FOLDERS", "search PHOTO", "--out"))
    assert failed.returncode == 1 and failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1


# ---------------------------------------------------------------------------------------------------- real faces


@needs_faces
def test_two_photos_of_one_person_are_found_and_a_stranger_is_not(tmp_path, capsys):
    people = [folder for folder in sorted(CROPS.iterdir()) if len(list(folder.iterdir())) > 1][:6]
    for folder in people[:5]:
        save(tmp_path / "people" / folder.name / "1.png", cv2.imread(str(min(folder.iterdir())))[:, :, ::-1])
    flags = ["--color", "rgb", "--pixels", "imagenet", "--layout", "nchw"]
    run(capsys, "enroll", tmp_path / "people", tmp_path / "g.npy", "--model", PRETRAINED, *flags)
    description = json.loads((tmp_path / "g.npy.json").read_text())

    firsts = [
        run(capsys, "search", max(folder.iterdir()), tmp_path / "g.npy", "--threshold", 1.2).split(":")[0]
        for folder in people
    ]

    assert firsts == [*(folder.name for folder in people[:5]), "unknown"]
    assert description["names"] == [folder.name for folder in people[:5]] and description["decision"] is None


@needs_faces
@pytest.mark.needs_data(PHOTOS)
def test_a_photo_that_is_no_crop_is_found_by_the_crops_of_that_person(tmp_path, capsys):
    people = [folder for folder in sorted(CROPS.iterdir()) if len(list(folder.iterdir())) > 1][:4]
    for folder in people:
        save(tmp_path / "people" / folder.name / "1.png", cv2.imread(str(max(folder.iterdir())))[:, :, ::-1])
    flags = ["--color", "rgb", "--pixels", "imagenet", "--layout", "nchw"]
    run(capsys, "enroll", tmp_path / "people", tmp_path / "g.npy", "--model", PRETRAINED, *flags)
    photo = min((PHOTOS / people[0].name).iterdir())

    out = run(capsys, "search", photo, tmp_path / "g.npy", "--threshold", 1.2)

    assert decode_photo(photo.read_bytes(), "").shape[:2] != (112, 112) and out.startswith(f"{people[0].name}:")
