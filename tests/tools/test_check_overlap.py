"""check_overlap.py: identities in both sets are found, chance hits come as often as expected, the rest is one line."""

import csv
from pathlib import Path

import check_overlap
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelib.data.curation.overlap import Chance, find_hits, sample_records
from facelib.data.verification.bins import write_bin
from facelib.errors import FaceError
from tests.helpers.patches_onnx import write_model

DATA = Path(__file__).parents[3] / "shared" / "data"
LFW, CROPS = DATA / "faces_mix" / "lfw.bin", DATA / "raw" / "expected_crops"
PRETRAINED = DATA / "pretrained" / "mobilefacenet_relu6_128.onnx"
needs_faces = pytest.mark.needs_data(LFW, CROPS)
FLAGS = ["--color", "rgb", "--layout", "nchw"]


def unit_rows(rng, *shape):
    rows = rng.standard_normal(shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


# ---------------------------------------------------------------------------------------------------- arithmetic


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), distance=st.floats(0, 4), cells=st.sampled_from([1, 7, 10_000]))
def test_hits_are_those_of_a_double_loop(seed, distance, cells):
    rng = np.random.default_rng(seed)
    centres, images = unit_rows(rng, 5, 3), unit_rows(rng, 8, 3)
    expected = {(c, i): np.square(centres[c] - images[i]).sum() for c in range(5) for i in range(8)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facelib.data.curation.overlap._BLOCK_CELLS", cells)
        hits = find_hits(centres, images, distance)

    found = dict(zip(zip(hits.centres.tolist(), hits.images.tolist(), strict=True), hits.distances, strict=True))
    unsure = {pair for pair, d in expected.items() if abs(d - distance) < 1e-5}
    assert found.keys() - unsure == {pair for pair, d in expected.items() if d <= distance} - unsure
    assert all(abs(found[pair] - expected[pair]) < 1e-5 for pair in found)
    assert (np.diff(hits.distances) >= 0).all()


@pytest.mark.parametrize("num_hits", [100, 1000])
def test_chance_hits_come_as_often_as_expected(num_hits):
    rng = np.random.default_rng(5)
    centres, images = unit_rows(rng, 1500, 256), unit_rows(rng, 2500, 256)
    chance = Chance(centres, images)

    distance = chance.distance_for(num_hits)
    found = len(find_hits(centres, images, distance).distances)

    assert chance.hits_within(distance) == pytest.approx(num_hits, rel=1e-6)
    assert found == pytest.approx(num_hits, rel=0.3)  # of 3.75 million cosines of independent directions


def test_an_overlap_hardly_moves_what_is_learnt_about_chance():
    rng = np.random.default_rng(6)
    centres, images = unit_rows(rng, 500, 128), unit_rows(rng, 2000, 128)
    same = images.copy()
    same[:1000] = centres[rng.integers(500, size=1000)]

    alone, overlapping = Chance(centres, images).distance_for(1), Chance(centres, same).distance_for(1)

    assert overlapping == pytest.approx(alone, abs=0.03)


def test_too_few_comparisons_and_too_loose_a_threshold_are_refused(monkeypatch):
    rows = unit_rows(np.random.default_rng(0), 99, 4)

    with pytest.raises(FaceError, match="at least 20 comparisons"):
        Chance(rows[:3], rows[:6])
    monkeypatch.setattr("facelib.data.curation.overlap.MAX_HITS", 100)
    with pytest.raises(FaceError, match="More than 100 pairs"):
        find_hits(rows, rows, 4.0)


def test_the_sample_has_so_many_records_of_each_identity_and_follows_the_seed():
    labels = np.array([2, 0, 0, 2, 2, 2, 0, 5, 2])

    a, b = (sample_records(labels, 3, seed) for seed in (0, 0))
    others = {tuple(sample_records(labels, 3, seed)) for seed in range(20)}

    assert a.tolist() == b.tolist() == sorted(a.tolist()) and len(others) > 1
    assert np.bincount(labels[a]).tolist() == [3, 0, 3, 0, 0, 1]
    assert sample_records(labels, 99, 0).tolist() == list(range(9))


# ------------------------------------------------------------------------------------------------------- the script


def draw(identity, photo):
    """PNG bytes of 112x112: patches of the identity's colours, and a little noise of the photo."""
    patches = np.random.default_rng(identity).integers(20, 236, (4, 4, 3))
    noise = np.random.default_rng([identity, photo]).integers(-20, 21, (4, 4, 3))
    face = np.clip(patches + noise, 0, 255).astype(np.uint8).repeat(28, 0).repeat(28, 1)
    return cv2.imencode(".png", face)[1].tobytes()


SHARED = (3, 40, 77)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """80 training identities; a .bin and folders of 70 people, SHARED among them, the others 1000 and above."""
    root = tmp_path_factory.mktemp("overlap")
    write_model(root / "X.onnx")
    for identity in range(80):
        (root / "train" / f"p{identity:02d}").mkdir(parents=True)
        for photo in range(3):
            (root / "train" / f"p{identity:02d}" / f"{photo}.png").write_bytes(draw(identity, photo))
    people = [*SHARED, *range(1000, 1067)]
    images = [draw(person, photo) for person in people for photo in (50, 51, 51, 52)]
    write_bin(root / "v.bin", images, [True] * (len(images) // 2))
    for person in people:
        (root / "valid" / str(person)).mkdir(parents=True)
        for photo in (50, 51, 52):
            (root / "valid" / str(person) / f"{photo}.png").write_bytes(draw(person, photo))
    return root


def run(capsys, *words):
    assert check_overlap.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("valid", ["v.bin", "valid"])
def test_identities_in_both_sets_are_found_and_no_others(toy, tmp_path, capsys, valid):
    out = run(
        capsys, toy / "train", toy / valid, "--model", toy / "X.onnx", *FLAGS, "--chance-hits", 0.01,
        "--out", tmp_path / "o.csv", "--sheet", tmp_path / "o.png",
    )  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "o.csv").open()))

    assert "80 identities x 210 images = 16,800 comparisons" in out
    assert "3 identities of the training set, close to 9 verification images" in out and "about 0.01 hits" in out
    assert {row["identity"] for row in rows} == {"p03", "p40", "p77"} and len(rows) == 9
    distances = [float(row["distance"]) for row in rows]
    assert distances == sorted(distances) and {row["faces_in_centre"] for row in rows} == {"3"}
    place = rows[0]["verification_image"]
    assert place.startswith("v.bin record ") if valid == "v.bin" else f"/{int(rows[0]['identity'][1:])}/" in place
    sheet = cv2.imread(str(tmp_path / "o.png"))
    assert sheet.shape == (3 * (112 + 16 + 4) + 4, (3 + 1 + 3) * (112 + 4) + 4, 3)


def test_without_overlap_it_says_so_and_writes_an_empty_table(toy, tmp_path, capsys):
    write_bin(tmp_path / "w.bin", [draw(2000 + k, 0) for k in range(130)], [False] * 65)

    out = run(
        capsys, toy / "train", tmp_path / "w.bin", "--model", toy / "X.onnx", *FLAGS, "--chance-hits", 0.01,
        "--out", tmp_path / "o.csv", "--sheet", tmp_path / "o.png",
    )  # fmt: skip

    assert "no identity" in out and not (tmp_path / "o.png").exists()
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 1


def test_a_given_threshold_needs_no_chance_law(toy, tmp_path, capsys):
    write_bin(tmp_path / "w.bin", [draw(3, 60), draw(3, 61)], [True])

    out = run(capsys, toy / "train", tmp_path / "w.bin", "--model", toy / "X.onnx", *FLAGS, "--threshold", 0.1)

    assert "1 identity of" in out and "p03" in out


def test_a_calibrated_far_says_how_many_hits_chance_gives(toy, tmp_path, capsys):
    from facelib.model_input import Io
    from facelib.sidecar import write_sidecar

    (tmp_path / "Y.onnx").write_bytes((toy / "X.onnx").read_bytes())
    at = {"distance": 0.1, "cosine": 0.95, "distance_ci95": [0.1, 0.2], "far_ci95": [0, 1], "vr": 1, "vr_ci95": [1, 1]}
    write_sidecar(
        tmp_path / "Y.onnx", kind="onnx", made_from=None, io=Io(layout="nchw"),
        thresholds={"toy": {"sha256": "0", "impostors": 3000, "flip": True, "far": {"0.001": at}}},
    )  # fmt: skip

    out = run(capsys, toy / "train", toy / "v.bin", "--model", tmp_path / "Y.onnx", "--far", 0.001)

    assert "about 17 hits" in out and "3 identities" in out


@pytest.mark.parametrize("shared", [0, 1, 4])
def test_small_sets_are_compared_too(toy, tmp_path, capsys, shared):
    """12 identities and 20 images, of which up to a fifth of the people are in both sets."""
    (tmp_path / "train").mkdir()
    for identity in range(12):
        (tmp_path / "train" / f"p{identity:02d}").symlink_to(toy / "train" / f"p{identity:02d}")
    people = [*range(shared), *range(2000, 2020 - shared)]
    write_bin(tmp_path / "small.bin", [draw(person, 60) for person in people], [False] * 10)

    out = run(
        capsys, tmp_path / "train", tmp_path / "small.bin", "--model", toy / "X.onnx", *FLAGS, "--chance-hits", 0.01,
        "--out", tmp_path / "o.csv",
    )  # fmt: skip

    assert "12 identities x 20 images = 240 comparisons" in out and "about 0.01 hits" in out
    found = {row["identity"] for row in csv.DictReader((tmp_path / "o.csv").open())}
    assert found == {f"p{identity:02d}" for identity in range(shared)}


def test_images_that_are_the_same_byte_for_byte_are_named(toy, tmp_path, capsys):
    images = [draw(3, 0), draw(3, 1), draw(40, 2), *(draw(2000 + k, 0) for k in range(17))]
    write_bin(tmp_path / "v.bin", images, [False] * 10)

    out = run(capsys, toy / "train", tmp_path / "v.bin", "--model", toy / "X.onnx", *FLAGS, "--threshold", 0.001)

    assert "3 training images of 2 identities are in v.bin byte for byte: p03, p40" in out


def test_unreadable_images_are_listed_and_left_out(toy, tmp_path, capsys):
    (tmp_path / "train").symlink_to(toy / "train")
    (tmp_path / "valid/a").mkdir(parents=True)
    (tmp_path / "valid/a/1.png").write_bytes(draw(3, 60))
    (tmp_path / "valid/a/2.png").write_bytes(b"text")

    out = run(
        capsys, tmp_path / "train", tmp_path / "valid", "--model", toy / "X.onnx", *FLAGS, "--threshold", 0.1
    )  # fmt: skip

    assert "left out" in out and "2.png" in out and "80 identities x 1 images" in out


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["nope", "v.bin", "--model", "X.onnx"], "There are no face data at 'nope'"),
        (["train", "nope.bin", "--model", "X.onnx"], "No verification set at 'nope.bin'"),
        (["v.bin", "v.bin", "--model", "X.onnx"], "verification set"),
        (["train", "v.bin", "--model", "X.onnx", "--threshold", "-1"], "0 to 4"),
        (["train", "v.bin", "--model", "X.onnx", "--chance-hits", "0"], "above 0"),
        (["train", "v.bin", "--model", "X.onnx", "--chance-hits", "nan"], "above 0"),
        (["train", "v.bin", "--model", "X.onnx", "--max-images", "0"], "at least one face"),
        (["train", "v.bin", "--model", "X.onnx", "--sheet", "x.jpg"], ".png"),
        (["train", "v.bin", "--model", "X.onnx", "--out", "train"], "is a folder"),
        (["train", "v.bin", "--model", "X.onnx", "--far", "0.001"], "no calibrated threshold"),
        (["train", "broken", "--model", "X.onnx", "--threshold", "1"], "No verification image could be embedded"),
    ],
)
def test_bad_input_is_one_line(toy, monkeypatch, words, match):
    monkeypatch.chdir(toy)
    (toy / "broken/p").mkdir(parents=True, exist_ok=True)
    (toy / "broken/p/1.png").write_bytes(b"text")

    with pytest.raises(FaceError) as caught:
        check_overlap.main([*words, *FLAGS])
    assert match in str(caught.value) and "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- real faces


@needs_faces
def test_people_of_lfw_are_found_in_a_sample_of_lfw(tmp_path, capsys):
    from facelib.data.verification.bins import load_bin

    people = sorted(CROPS.iterdir())[:12]
    (tmp_path / "train").mkdir()
    for folder in people:
        (tmp_path / "train" / folder.name).symlink_to(folder)
    images = [min(folder.iterdir()).read_bytes() for folder in people[:3]]
    strangers = [image for image in load_bin(LFW).images[:42] if image not in images][:39]
    write_bin(tmp_path / "some.bin", [*images, *strangers], [True] * 21)

    out = run(
        capsys, tmp_path / "train", tmp_path / "some.bin", "--model", PRETRAINED, "--threshold", 0.7,
        *FLAGS, "--pixels", "imagenet",
    )  # fmt: skip

    assert all(folder.name in out for folder in people[:3]) and "3 identities of the training set" in out
