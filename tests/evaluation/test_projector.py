"""The files of TensorBoard's projector: its message reads them, and so do we."""

import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.evaluation.face_map import SIDE, FaceMap, MappedFace
from facelib.evaluation.projector import CONFIG, check_map_folder, map_folder, read_map, write_maps


def draw_map(name="lfw", num_faces=5, seed=0):
    random = np.random.default_rng(seed)
    faces = [MappedFace(f"{i}.jpg", 'Zoë "Z"', ("right", "confused")[i % 2], ("", "a/b.jpg")[i % 2])
             for i in range(num_faces)]  # fmt: skip
    return FaceMap(
        name, "ab", faces, random.normal(size=(num_faces, 8)).astype(np.float32),
        random.random((num_faces, 2), np.float32), random.integers(0, 256, (num_faces, SIDE, SIDE, 3), np.uint8), 99,
    )  # fmt: skip


def test_a_map_is_read_back_as_it_was_written(tmp_path):
    folder = map_folder(tmp_path / "model.tflite.report.json")
    assert folder == tmp_path / "model.tflite.map"
    one, other = draw_map(), draw_map("people", num_faces=17)

    write_maps(folder, [one, other], "cd")

    for written in (one, other):
        found = read_map(folder, written.name, "cd", "ab")
        assert (found.faces, found.num_faces) == (written.faces, 99)
        np.testing.assert_allclose(found.vectors, written.vectors, rtol=1e-5)
        np.testing.assert_allclose(found.places, written.places, atol=1e-4)
        np.testing.assert_array_equal(found.pictures, written.pictures)
    assert read_map(folder, "lfw", "another artefact", "ab") is None
    assert read_map(folder, "lfw", "cd", "another set") is None
    assert read_map(folder, "cfp", "cd", "ab") is None
    assert read_map(folder, "../x.map/lfw", "cd", "ab") is None


def test_tensorboard_finds_vectors_texts_and_pictures_of_every_set(tmp_path):
    pb2 = pytest.importorskip("tensorboard.plugins.projector.projector_config_pb2")
    from google.protobuf import text_format

    write_maps(tmp_path / "x.map", [draw_map('é "quoted" \\'), draw_map("people", num_faces=17)], None)

    config = text_format.Parse((tmp_path / "x.map" / CONFIG).read_text(), pb2.ProjectorConfig())

    assert [one.tensor_name for one in config.embeddings] == ['é "quoted" \\', "people"]
    for one, num_faces in zip(config.embeddings, (5, 17), strict=True):
        vectors = np.loadtxt(tmp_path / "x.map" / one.tensor_path, delimiter="\t")
        assert list(one.tensor_shape) == list(vectors.shape) == [num_faces, 8]
        lines = (tmp_path / "x.map" / one.metadata_path).read_text().splitlines()
        assert len(lines) == num_faces + 1 and lines[0].split("\t")[:3] == ["image", "identity", "verdict"]
        assert len({len(line.split("\t")) for line in lines}) == 1
        assert list(one.sprite.single_image_dim) == [SIDE, SIDE]
        assert (tmp_path / "x.map" / one.sprite.image_path).read_bytes().startswith(b"\x89PNG")


def test_names_with_tabs_and_line_ends_stay_in_their_column(tmp_path):
    one = draw_map(num_faces=1)
    one.faces[0] = MappedFace("a\tb.jpg", "c\nd", "right", "")

    write_maps(tmp_path / "x.map", [one], "cd")

    assert read_map(tmp_path / "x.map", "lfw", "cd", "ab").faces == [MappedFace("a\\tb.jpg", "c\\nd", "right", "")]


def test_a_map_replaces_a_map_and_nothing_else(tmp_path):
    folder = tmp_path / "x.map"
    write_maps(folder, [draw_map("old")], "cd")

    write_maps(folder, [draw_map("new")], "cd")

    assert {file.name.split(".")[0] for file in folder.iterdir()} == {"new", "map", "projector_config"}
    (tmp_path / "y.map").mkdir()
    check_map_folder(tmp_path / "y.map")  # empty
    (tmp_path / "y.map" / "letters.txt").write_text("mine")
    with pytest.raises(FaceError, match="something else is at this path"):
        write_maps(tmp_path / "y.map", [draw_map()], "cd")
    assert (tmp_path / "y.map" / "letters.txt").exists()


@pytest.mark.parametrize(("name", "content"), [
    ("map.json", b'{"sets": {"lfw": {"sha256": "ab"}}, "artifact_sha256": "cd"}'), ("map.json", b'{"sets": 3}'),
    ("lfw.vectors.tsv", b"1\t2\n"), ("lfw.metadata.tsv", b"image\n0.jpg\tx\n"), ("lfw.sprite.png", b"\x89PNG"),
    ("lfw.metadata.tsv", b"image\n" + b"0\t1\teaten\t\t0.5\t0.5\n" * 5),
    ("lfw.metadata.tsv", b"image\n" + b"0\t1\tright\t\t0.5\tnan\n" * 5)])  # fmt: skip
def test_a_damaged_map_is_one_line_that_says_what_to_do(tmp_path, name, content):
    write_maps(tmp_path / "x.map", [draw_map()], "cd")
    (tmp_path / "x.map" / name).write_bytes(content)

    with pytest.raises(FaceError, match="Test again with --map") as error:
        read_map(tmp_path / "x.map", "lfw", "cd", "ab")
    assert "\n" not in str(error.value)
