"""Embeddings that leondgarse/Keras_insightface stored in TFRecords, as a teacher of our data."""

import numpy as np
import pytest

import train
from facelib.data.conversion.job import convert
from facelib.data.readers.open_records import open_records
from facelib.data.synthetic.files import SyntheticSet, write_folders
from facelib.data.tfrecord import frame
from facelib.errors import FaceError
from facelib.training.stored_teacher import open_stored_teacher
from tests.helpers.tf_example import encode_example

SIZE = 6


@pytest.fixture
def data(tmp_path):
    write_folders(tmp_path / "faces", SyntheticSet(3, 4))
    convert(tmp_path / "faces", tmp_path / "data", progress=False)
    return tmp_path / "data"


def store(folder, dtype=np.float16, leave_out=0, value=None):
    """teacher.tfrecord beside the faces, in another order than the data; {bytes of the image: embedding}."""
    images = sorted((folder / "faces").rglob("*.*"), reverse=True)[leave_out:]
    random, known = np.random.default_rng(0), {}
    head = {"classes": 3, "emb_shape": SIZE, "total": len(images), "use_fp16": int(dtype == np.float16)}
    frames = [frame(encode_example(head))]
    for number, image in enumerate(images):
        vector = (random.normal(size=SIZE) if value is None else np.full(SIZE, value)).astype(dtype)
        known[image.read_bytes()] = vector.astype(np.float32)
        name = str(image.relative_to(folder)).encode()
        features = {"image_names": name, "image_classes": number % 3, "embeddings": vector.tobytes()}
        frames.append(frame(encode_example(features)))
    (folder / "teacher.tfrecord").write_bytes(b"".join(frames))
    return known


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_each_face_learns_the_embedding_that_is_stored_for_its_image(data, tmp_path, dtype):
    known, records = store(tmp_path, dtype), open_records(data)

    teacher = open_stored_teacher(tmp_path / "teacher.tfrecord", records)

    for i in range(len(records)):
        expected = known[records.read(i)[0]]
        for is_flipped in (False, True):
            found = teacher.targets(np.array([i]), np.array([is_flipped]))[0]
            np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-3)
    assert open_stored_teacher(tmp_path / "teacher.tfrecord", records).path == teacher.path  # kept


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"leave_out": 2}, "has no embedding for 2 of 12 images, such as"),
        ({"value": np.nan}, "returned a non-finite embedding for .* in '"),
    ],
)
def test_a_face_without_an_embedding_is_one_line_and_nothing_is_kept(data, tmp_path, options, match):
    store(tmp_path, **options)

    with pytest.raises(FaceError, match=match):
        open_stored_teacher(tmp_path / "teacher.tfrecord", open_records(data))
    assert not list((data / "teachers").glob("*.npy"))


def test_a_recipe_names_the_file_as_its_teacher_and_data_may_be_the_same_file(data, tmp_path, monkeypatch):
    store(tmp_path)
    path = tmp_path / "teacher.tfrecord"

    records = open_records(path)
    recipe = train.Recipe(teacher=str(path))
    teacher = train.open_recipe_teacher(recipe, None, records, 1, train_alone())

    assert (teacher.size, len(records)) == (SIZE, 12)


def train_alone():
    class Alone:
        is_chief = True

        def wait(self):
            pass

    return Alone()
