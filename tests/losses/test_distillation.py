"""Distillation losses against NumPy formulas from the papers, gradients against finite differences; and the cache."""

import json

import numpy as np
import pytest
import tensorflow as tf

from facelib.data.readers.open_records import open_records
from facelib.data.synthetic.files import SyntheticSet, write_folders
from facelib.errors import FaceError
from facelib.losses.distillation import Distiller
from facelib.model_input import Io
from facelib.training import teacher as teacher_module
from facelib.training.teacher import open_teacher

KINDS = ("cosine", "l2", "kl", "relational")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(kind, e, t):
    e, t = unit(e), unit(t)
    num = len(e)
    if kind == "cosine":
        return np.mean(1 - np.sum(e * t, 1))
    if kind == "l2":
        return np.mean(np.linalg.norm(e - t, axis=1))
    if kind == "kl":
        total = 0.0
        for i in range(num):
            others = [j for j in range(num) if j != i]
            p, q = (np.exp([x[i] @ x[j] / 0.1 for j in others]) for x in (t, e))
            p, q = p / p.sum(), q / q.sum()
            total += np.sum(p * np.log(p / q))
        return total / num
    pairs = [(i, j) for i in range(num) for j in range(num) if i != j]
    mine, theirs = (np.array([np.linalg.norm(x[i] - x[j]) for i, j in pairs]) for x in (e, t))
    difference = np.abs(mine / mine.mean() - theirs / theirs.mean())
    return np.mean(np.where(difference < 1, difference**2 / 2, difference - 0.5))


def vectors(student_size, teacher_size, num=5):
    rng = np.random.default_rng(3)
    return rng.normal(size=(num, student_size)), rng.normal(size=(num, teacher_size))


@pytest.mark.parametrize("kind", KINDS)
def test_each_loss_is_its_formula(kind):
    e, t = vectors(6, 6)

    loss, _ = Distiller(kind, 6, 6)(tf.constant(e, tf.float32), tf.constant(unit(t), tf.float32))

    assert float(loss) == pytest.approx(reference(kind, e, t), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_each_gradient_is_that_of_finite_differences(kind):
    e, t = vectors(4, 4, num=4)
    variable = tf.Variable(e.astype(np.float32))

    with tf.GradientTape() as tape:
        loss, _ = Distiller(kind, 4, 4)(variable, tf.constant(unit(t), tf.float32))
    found = tape.gradient(loss, variable).numpy()

    step, expected = 1e-5, np.zeros_like(e)
    for index in np.ndindex(*e.shape):
        up, down = e.copy(), e.copy()
        up[index] += step
        down[index] -= step
        expected[index] = (reference(kind, up, t) - reference(kind, down, t)) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_is_its_teacher_has_no_loss_and_a_finite_gradient(kind):
    _, t = vectors(6, 6)
    variable = tf.Variable(t.astype(np.float32))

    with tf.GradientTape() as tape:
        loss, agreement = Distiller(kind, 6, 6)(variable, tf.constant(unit(t), tf.float32))

    assert float(loss) == pytest.approx(0.0, abs=2e-6)
    assert float(agreement) == 1.0
    assert np.isfinite(tape.gradient(loss, variable).numpy()).all()


@pytest.mark.parametrize("kind", ["cosine", "l2"])
def test_another_size_goes_through_a_learned_projection(kind):
    e, t = vectors(4, 6)
    distiller = Distiller(kind, 4, 6)

    loss, _ = distiller(tf.constant(e, tf.float32), tf.constant(unit(t), tf.float32))

    assert float(loss) == pytest.approx(reference(kind, e @ distiller.projection.numpy(), t), rel=1e-4)
    assert [v.name for v in distiller.trainable_variables] == ["kernel"]


@pytest.mark.parametrize("kind", ["kl", "relational"])
def test_relations_need_no_projection(kind):
    e, t = vectors(4, 6)
    distiller = Distiller(kind, 4, 6)

    loss, agreement = distiller(tf.constant(e, tf.float32), tf.constant(unit(t), tf.float32))

    assert float(loss) == pytest.approx(reference(kind, e, t), rel=1e-4)
    assert distiller.trainable_variables == []
    nearest = [np.argmax(unit(x) @ unit(x).T - 9 * np.eye(5), axis=1) for x in (e, t)]
    assert float(agreement) == pytest.approx(np.mean(nearest[0] == nearest[1]))


# --------------------------------------------------------------------------------------------- the cache


class MeanColour:
    """Stands for a runtime: the mean colour of each half of a face, so a mirrored face has another vector."""

    num_calls = 0

    def __call__(self, faces):
        MeanColour.num_calls += 1
        halves = [faces[:, :, :56], faces[:, :, 56:]]
        return unit(np.concatenate([h.mean((1, 2)) for h in halves], axis=1)).astype(np.float32)


@pytest.fixture
def records(tmp_path):
    from facelib.data.conversion.job import convert

    write_folders(tmp_path / "faces", SyntheticSet(3, 4))
    convert(tmp_path / "faces", tmp_path / "data")
    return open_records(tmp_path / "data")


@pytest.fixture(autouse=True)
def fake_runtime(monkeypatch):
    MeanColour.num_calls = 0
    monkeypatch.setattr("facelib.runtimes.open_embedder.open_embedder", lambda path, io, threads: MeanColour())
    monkeypatch.setattr(teacher_module, "CHUNK_IMAGES", 5)
    monkeypatch.setattr(teacher_module, "_KEEP_EVERY", 1)


def pixels(records, i):
    import cv2

    return cv2.imdecode(np.frombuffer(records.read(i)[0], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_the_cache_holds_every_face_and_its_mirror_image(records, tmp_path):
    (tmp_path / "t.onnx").write_bytes(b"teacher")

    teacher = open_teacher(tmp_path / "t.onnx", Io(), records)

    idx = np.array([7, 0, 11])
    for is_flipped in (False, True):
        faces = np.stack([pixels(records, i) for i in idx])[:, :, :: -1 if is_flipped else 1]
        found = teacher.targets(idx, np.full(3, is_flipped))
        np.testing.assert_allclose(found, MeanColour()(faces), atol=1e-3)
    assert (teacher.size, found.dtype) == (6, np.float32)


def test_the_cache_is_computed_once_for_a_teacher_its_io_and_the_records(records, tmp_path):
    model = tmp_path / "t.onnx"
    model.write_bytes(b"teacher")
    first = open_teacher(model, Io(), records)
    calls = MeanColour.num_calls

    assert open_teacher(model, Io(), records).path == first.path
    assert MeanColour.num_calls == calls > 0
    assert open_teacher(model, Io(colour="bgr"), records).path != first.path
    model.write_bytes(b"another")
    assert open_teacher(model, Io(), records).path != first.path
    assert MeanColour.num_calls == 3 * calls


def test_an_interrupted_computation_goes_on_where_it_was(records, tmp_path, monkeypatch):
    (tmp_path / "t.onnx").write_bytes(b"teacher")
    whole = np.load(open_teacher(tmp_path / "t.onnx", Io(), records).path)
    for file in (tmp_path / "data" / "teachers").iterdir():
        file.unlink()

    class Killed(MeanColour):
        def __call__(self, faces):
            if MeanColour.num_calls == 10:
                raise KeyboardInterrupt
            return super().__call__(faces)

    MeanColour.num_calls = 6
    monkeypatch.setattr("facelib.runtimes.open_embedder.open_embedder", lambda path, io, threads: Killed())
    with pytest.raises(KeyboardInterrupt):
        open_teacher(tmp_path / "t.onnx", Io(), records)
    monkeypatch.setattr("facelib.runtimes.open_embedder.open_embedder", lambda path, io, threads: MeanColour())
    MeanColour.num_calls = 0

    teacher = open_teacher(tmp_path / "t.onnx", Io(), records)

    assert MeanColour.num_calls == 2  # the third of three chunks, as it is and mirrored
    np.testing.assert_array_equal(np.load(teacher.path), whole)
    assert sorted(f.suffix for f in teacher.path.parent.iterdir()) == [".json", ".lock", ".npy"]
    assert json.loads(teacher.path.with_suffix(".json").read_text())["num_images"] == 12


def test_two_trainings_do_not_compute_one_cache_at_the_same_time(records, tmp_path):
    import fcntl
    import threading

    (tmp_path / "t.onnx").write_bytes(b"teacher")
    path = open_teacher(tmp_path / "t.onnx", Io(), records).path
    whole = path.read_bytes()
    path.unlink()
    MeanColour.num_calls = 0
    with open(path.with_suffix(".lock"), "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=open_teacher, args=(tmp_path / "t.onnx", Io(), records))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive() and MeanColour.num_calls == 0
        path.write_bytes(whole)  # the other one has finished it
    waiting.join(10)

    assert not waiting.is_alive()
    assert MeanColour.num_calls == 0


def test_a_damaged_cache_is_one_line(records, tmp_path):
    (tmp_path / "t.onnx").write_bytes(b"teacher")
    path = open_teacher(tmp_path / "t.onnx", Io(), records).path
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(FaceError, match=r"are damaged.*Delete this file"):
        open_teacher(tmp_path / "t.onnx", Io(), records)


def test_no_teacher_is_one_line(records, tmp_path):
    with pytest.raises(FaceError, match="No teacher at"):
        open_teacher(tmp_path / "nothing.onnx", Io(), records)
