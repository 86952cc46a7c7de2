"""The faces behind a report: found where they are now, only when they are those that were tested."""

import shutil

import cv2
import numpy as np
import pytest

from facelib.data.verification.bins import load_bin
from facelib.reports.hardest_pairs import FaceFinder, FacesMissing, thumbnail
from tests.helpers.simulated_runs import folder_result, pair_result, write_faces


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder)
    return folder


def result_of(measured, path):
    """As the report says it: the path relative to the report's folder."""
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


def test_another_bin_of_that_name_is_refused(faces, pairs, tmp_path):
    shutil.copy(faces / "toy.bin", tmp_path)
    with open(tmp_path / "toy.bin", "ab") as file:
        file.write(b"x")

    finder = FaceFinder()
    for _ in range(2):  # the second time it is remembered
        with pytest.raises(FacesMissing, match="sha256"):
            finder.find(pairs, tmp_path / "run")


def test_a_bin_may_have_any_name(faces, pairs, tmp_path):
    shutil.copy(faces / "toy.bin", tmp_path / "pairs.pickle")
    renamed = {**pairs, "source": {**pairs["source"], "path": "pairs.pickle"}}

    assert FaceFinder().find(renamed, tmp_path)("0") == load_bin(faces / "toy.bin").images[0]


def test_photos_of_a_pair_list_are_found_by_their_names(faces, people):
    listed = {**people, "protocol": "exact", "source": {"path": "people", "sha256": "of the list"}}
    name = people["hardest"]["false_accepts"][0]["images"][1]

    assert FaceFinder().find(listed, faces)(name) == (faces / "people" / name).read_bytes()


def test_a_folder_with_other_images_is_refused(faces, people, tmp_path):
    shutil.copytree(faces / "people", tmp_path / "people")
    next((tmp_path / "people").rglob("*.jpg")).write_bytes(b"")

    with pytest.raises(FacesMissing, match="sha256"):
        FaceFinder().find(people, tmp_path / "run")


def test_a_report_that_does_not_say_where_is_no_error_of_the_page(tmp_path):
    with pytest.raises(FacesMissing, match="test the artefact again"):
        FaceFinder().find({}, tmp_path)


def test_a_report_cannot_name_a_file_outside_of_the_set(faces, people):
    (faces / "secret.jpg").write_bytes(b"secret")
    read = FaceFinder().find(people, faces / "run")

    assert read("../secret.jpg") == read(str(faces / "secret.jpg")) == b""


@pytest.mark.parametrize(
    ("size", "expected"), [((112, 112), (112, 112)), ((400, 200), (112, 56)), ((20, 30), (20, 30))]
)
def test_thumbnails_are_small_jpegs_of_the_same_shape(size, expected):
    photo = np.full((*size, 3), (200, 100, 30), np.uint8)

    small = thumbnail(cv2.imencode(".png", photo)[1].tobytes())

    decoded = cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_COLOR)
    assert small[:2] == b"\xff\xd8" and decoded.shape[:2] == expected
    assert np.abs(decoded.astype(int) - (200, 100, 30)).max() < 12  # colours are where they were


def test_what_cannot_be_decoded_is_a_crossed_out_square():
    assert thumbnail(b"no image")[:2] == b"\xff\xd8" and thumbnail(b"") == thumbnail(b"no image")
