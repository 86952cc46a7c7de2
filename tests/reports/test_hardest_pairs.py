"""The faces of the hardest pairs are found where they are now, and only if they are the tested ones."""

import shutil

import cv2
import numpy as np
import pytest

from facelib.data.verification.bins import load_bin
from facelib.evaluation.embed_images import Embedded
from facelib.evaluation.evaluate_set import evaluate_set
from facelib.evaluation.verification_sets import find_sets
from facelib.reports.artefact_table import group_comparable
from facelib.reports.hardest_pairs import FaceFinder, FacesMissing, hardest_galleries, thumbnail
from facelib.reports.read_run import Artefact
from tests.helpers.simulated_runs import folder_result, pair_result, write_faces


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder)
    return folder


def result_of(measured, path):
    """A result as a report has it, with a path relative to the report's folder."""
    result = measured.as_dict()
    return {**result, "source": {**result["source"], "path": path}}


@pytest.fixture(scope="module")
def pairs(faces):
    return result_of(pair_result(faces, 0), "../toy.bin")


@pytest.fixture(scope="module")
def people(faces):
    return result_of(folder_result(faces, 0), "../people")


def test_a_bin_is_found_from_the_folder_of_the_report(faces, pairs):
    read = FaceFinder().find(pairs, faces / "run")

    assert read("3") == read(3) == load_bin(faces / "toy.bin").images[3]


def test_a_folder_is_found_from_the_folder_of_the_report(faces, people):
    read = FaceFinder().find(people, faces / "run")

    name = people["hardest"]["false_rejects"][0]["images"][0]
    assert read(name) == (faces / "people" / name).read_bytes()


@pytest.mark.parametrize("valid", ["", "toy.bin"])
def test_valid_says_where_the_set_is_now(faces, pairs, tmp_path, valid):
    with pytest.raises(FacesMissing, match="Say where it is: --valid"):
        FaceFinder().find(pairs, tmp_path / "run")

    assert FaceFinder(faces / valid).find(pairs, tmp_path / "run")(0) == load_bin(faces / "toy.bin").images[0]


def test_valid_names_the_folder_itself_or_the_one_above(faces, people, tmp_path):
    for valid in (faces, faces / "people"):
        assert FaceFinder(valid).find(people, tmp_path / "run")("no such") == b""


def test_a_different_bin_with_the_same_name_is_refused(faces, pairs, tmp_path):
    shutil.copy(faces / "toy.bin", tmp_path)
    with open(tmp_path / "toy.bin", "ab") as file:
        file.write(b"x")

    finder = FaceFinder()
    for _ in range(2):  # the second answer is remembered
        with pytest.raises(FacesMissing, match="sha256"):
            finder.find(pairs, tmp_path / "run")


def test_a_bin_may_have_any_name(faces, pairs, tmp_path):
    shutil.copy(faces / "toy.bin", tmp_path / "pairs.pickle")
    renamed = {**pairs, "source": {**pairs["source"], "path": "pairs.pickle"}}

    assert FaceFinder().find(renamed, tmp_path)("0") == load_bin(faces / "toy.bin").images[0]


def test_photos_of_a_pair_list_are_those_that_were_tested(faces, tmp_path):
    shots = [
        f"{k % 12:04d}\t{1 + k // 12}\t2" if k % 2 else f"{k % 12:04d}\t1\t{(k + 1) % 12:04d}\t3" for k in range(40)
    ]
    for file in sorted((faces / "people").rglob("*.jpg")):
        person = tmp_path / "people" / f"{sorted((faces / 'people').iterdir()).index(file.parent):04d}"
        person.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, person / f"{len(list(person.iterdir())) + 1}.jpg")
    (tmp_path / "pairs.txt").write_text("\n".join(shots), encoding="utf-8")
    (load,) = find_sets(tmp_path / "people", tmp_path / "pairs.txt")
    found = load()
    rows = np.random.default_rng(0).normal(size=(len(found.images), 8)).astype(np.float32)
    listed = result_of(evaluate_set(found, Embedded(rows, None, len(rows), 1.0)), "people")
    name, other = listed["hardest"]["false_accepts"][0]["images"]

    assert FaceFinder().find(listed, tmp_path)(name) == (tmp_path / "people" / name).read_bytes() != b""
    (tmp_path / "people" / other).write_bytes(b"a secret picture of the same name")
    assert FaceFinder().find(listed, tmp_path)(other) == b""
    assert FaceFinder().find(listed, tmp_path)("pairs.txt") == b""


def test_a_report_that_proves_nothing_shows_no_picture(faces, pairs, people):
    """Such a report may come from anybody and name any folder."""
    unproven = {**people["source"], "sha256": None}
    for result in (
        {**people, "protocol": "exact"},
        {**people, "source": unproven},
        {**pairs, "source": {**pairs["source"], "sha256": None}},
    ):
        with pytest.raises(FacesMissing, match="test the artefact again"):
            FaceFinder().find(result, faces / "run")


def test_a_folder_with_other_images_is_refused(faces, people, tmp_path):
    shutil.copytree(faces / "people", tmp_path / "people")
    next((tmp_path / "people").rglob("*.jpg")).write_bytes(b"")

    with pytest.raises(FacesMissing, match="sha256"):
        FaceFinder().find(people, tmp_path / "run")


def test_a_report_that_does_not_name_its_images_says_to_test_again(tmp_path):
    with pytest.raises(FacesMissing, match="test the artefact again"):
        FaceFinder().find({}, tmp_path)


def test_a_report_cannot_name_a_file_outside_of_the_set(faces, people):
    (faces / "secret.jpg").write_bytes(b"secret")
    read = FaceFinder().find(people, faces / "run")

    assert read("../secret.jpg") == read(str(faces / "secret.jpg")) == b""


@pytest.mark.parametrize(
    ("size", "expected"), [((112, 112), (112, 112)), ((400, 200), (112, 56)), ((20, 30), (20, 30))]
)
def test_thumbnails_are_small_jpegs_with_the_same_proportions(size, expected):
    photo = np.full((*size, 3), (200, 100, 30), np.uint8)

    small = thumbnail(cv2.imencode(".png", photo)[1].tobytes())

    decoded = cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_COLOR)
    assert small[:2] == b"\xff\xd8" and decoded.shape[:2] == expected
    assert np.abs(decoded.astype(int) - (200, 100, 30)).max() < 12  # red, green and blue are not swapped


def test_bytes_that_are_no_image_are_a_crossed_out_square():
    assert thumbnail(b"no image")[:2] == b"\xff\xd8" and thumbnail(b"") == thumbnail(b"no image")


def galleries_of(folder, *results):
    artefacts = [Artefact(f"{i}.pb", {"sets": {"toy": result}}, folder=folder) for i, result in enumerate(results)]
    (group,) = group_comparable(artefacts)
    return hardest_galleries(group, FaceFinder())


def test_artefacts_with_the_same_hardest_pairs_share_a_gallery(faces, pairs):
    others = {key: found[::-1] for key, found in pairs["hardest"].items()}

    galleries = galleries_of(faces / "run", pairs, {**pairs, "hardest": others}, pairs)

    assert [gallery.title for gallery in galleries] == ["Hardest pairs of 0.pb, 2.pb", "Hardest pairs of 1.pb"]
    assert [gallery.is_open for gallery in galleries] == [True, False]
    assert galleries[0].note.endswith("; distances are those of 0.pb.")


def test_a_verdict_is_bad_where_it_is_wrong(faces, pairs):
    def pair(distance):
        return {"images": ["0", "1"], "distance": distance}

    hardest = {"false_accepts": [pair(0.9), pair(1.1)], "false_rejects": [pair(1.1), pair(0.9)]}

    (gallery,) = galleries_of(faces / "run", {**pairs, "acc_threshold": 1.0, "hardest": hardest})

    (_, impostors), (_, genuine) = gallery.lists
    assert [(one.distance, one.verdict, one.kind) for one in impostors] == [
        ("0.900 ≤ 1.000", "accepted", "bad"), ("1.100 > 1.000", "rejected", "good")]  # fmt: skip
    assert [(one.verdict, one.kind) for one in genuine] == [("rejected", "bad"), ("accepted", "good")]
    assert impostors[0].names == "0 / 1"


def test_a_gallery_without_its_set_says_why_and_shows_nothing(tmp_path, pairs):
    (gallery,) = galleries_of(tmp_path, pairs)

    assert gallery.lists == [] and "no longer where it was tested" in gallery.note


def test_an_entry_that_the_bin_does_not_have_is_a_crossed_out_square(faces, pairs):
    hardest = {"false_accepts": [{"images": ["0", "99999"], "distance": 0.9}], "false_rejects": []}

    (gallery,) = galleries_of(faces / "run", {**pairs, "hardest": hardest})

    ((_, [pair]),) = gallery.lists
    assert pair.faces[1] == ("99999", thumbnail(b"")) and pair.faces[0][1] != pair.faces[1][1]


def test_a_report_without_hardest_pairs_has_no_gallery(faces, pairs):
    assert galleries_of(faces / "run", {**pairs, "hardest": None}) == []
