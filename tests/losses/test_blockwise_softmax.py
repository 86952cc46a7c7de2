"""The softmax over many classes, by blocks and by compiled tiles, against formulas in float64."""

import os

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from face_loss_k import make_head
from facelib.losses import blockwise_softmax, native_softmax
from facelib.losses.blockwise_softmax import own_and_others


def reference(x, centres, own, scale):
    """Cosine to the own class, ln of the sum of the others, highest other; and all cosines, unit rows, softmax."""
    unit = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-6)
    cosines = x @ unit.T
    is_own = np.arange(len(centres)) == own[:, None]
    others = np.where(is_own, -np.inf, cosines)
    highest = others.max(1)
    weights = np.exp(scale * (others - highest[:, None]))
    log_sum = scale * highest + np.log(weights.sum(1))
    return (cosines * is_own).sum(1), log_sum, highest, unit, weights / weights.sum(1, keepdims=True), is_own


def reference_gradients(x, centres, own, scale, of_cosine, of_log_sum):
    """By x and by the centres, from d cos(x, w) / d w = (x - cos w / |w|) / |w|."""
    _, _, _, unit, softmax, is_own = reference(x, centres, own, scale)
    by_cosine = is_own * of_cosine[:, None] + scale * softmax * of_log_sum[:, None]
    norms = np.linalg.norm(centres, axis=1, keepdims=True)
    pull = (by_cosine * (x @ unit.T)).sum(0)[:, None]
    return by_cosine @ unit, (by_cosine.T @ x - pull * unit) / norms


def unit_faces(rng, count, size):
    x = rng.standard_normal((count, size))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def tiles(monkeypatch):
    """Tiles for any number of classes."""
    monkeypatch.setattr(native_softmax, "_FEWEST", 0)
    if not native_softmax.has_tiles(2, 16):
        pytest.skip("tiles want a C++ compiler and no GPU")


@pytest.fixture(params=["blocks", "tiles"])
def way(request, monkeypatch):
    """Either way for any number of classes. Vectors of 16 values go by tiles, others never do."""
    if request.param == "tiles":
        request.getfixturevalue("tiles")
    else:
        monkeypatch.setattr(native_softmax, "_FEWEST", 1 << 60)


def check_against_formulas(x, centres, own, scale, num_classes, of_cosine, of_log_sum):
    tensors = [tf.constant(v, tf.float32) for v in (x, centres)]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        found = own_and_others(*tensors, tf.constant(own), scale, num_classes)
        total = tf.reduce_sum(found[0] * of_cosine.astype("f") + found[1] * of_log_sum.astype("f"))
    by_x, by_centres = tape.gradient(total, tensors)

    for value, expected in zip(found, reference(x, centres, own, scale), strict=False):
        np.testing.assert_allclose(value, expected, rtol=2e-6, atol=2e-6 * scale)
    for value, expected in zip(
        (by_x, by_centres), reference_gradients(x, centres, own, scale, of_cosine, of_log_sum), strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=4e-6 * scale * max(1, np.abs(expected).max()))


SCALES, DEVIATIONS = st.sampled_from([1.0, 64.0, 512.0]), st.sampled_from([1e-3, 1.0, 1e3])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), num_blocks=st.integers(1, 6), scale=SCALES, deviation=DEVIATIONS)
def test_values_and_gradients_by_blocks_are_those_of_the_formula(seed, num_blocks, scale, deviation):
    rng = np.random.default_rng(seed)
    num_classes, count, size = int(rng.integers(2 * num_blocks, 40)), int(rng.integers(1, 9)), 5
    x, centres = unit_faces(rng, count, size), deviation * rng.standard_normal((num_classes, size))
    own, upstream = rng.integers(-1, num_classes, count), rng.standard_normal((2, count))
    check_against_formulas(x, centres, own, scale, num_blocks * blockwise_softmax._WIDTH, *upstream)


@pytest.mark.usefixtures("tiles")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 999), num_classes=st.integers(2, 5000), count=st.integers(1, 140), lanes=st.integers(1, 12),
    scale=SCALES, deviation=DEVIATIONS,
)  # fmt: skip
def test_values_and_gradients_by_tiles_are_those_of_the_formula(seed, num_classes, count, lanes, scale, deviation):
    """Numbers of faces, classes and values that fill the last vector, block of rows, strip and tile, or do not."""
    rng, size = np.random.default_rng(seed), 16 * lanes
    x, centres = unit_faces(rng, count, size), deviation * rng.standard_normal((num_classes, size))
    own, upstream = rng.integers(-1, num_classes, count), rng.standard_normal((2, count))
    check_against_formulas(x, centres, own, scale, num_classes, *upstream)


@pytest.mark.parametrize("sampled", [False, True])
def test_a_head_in_many_blocks_or_in_tiles_is_one_in_one_block(sampled, tiles, monkeypatch):
    """The head as the trainer calls it, with its classes in one block, in seven, and in tiles."""
    rng = np.random.default_rng(0)
    faces, labels = rng.standard_normal((9, 16)).astype("float32"), tf.constant(rng.integers(0, 70, 9))
    results = []
    for width, fewest in ((blockwise_softmax._WIDTH, 100), (3 if sampled else 10, 100), (1, 0)):
        monkeypatch.setattr(blockwise_softmax, "_WIDTH", width)
        monkeypatch.setattr(native_softmax, "_FEWEST", fewest)
        head = make_head("arcface", 70)
        if sampled:
            head.split = type(head.split)(sample_rate=0.3)
        head.build((None, 16))
        head.centres.assign(np.random.default_rng(1).standard_normal((70, 16)))
        columns = head.columns(labels)
        with tf.GradientTape() as tape:
            tape.watch(columns.centres)
            loss, accuracy = head.loss_and_accuracy(faces, labels, columns=columns)
        results.append((loss, accuracy, tape.gradient(loss, columns.centres)))
    for one, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_own_class_may_be_far_ahead_and_its_margin_still_decides(way):
    """The others' sum, 1e-17 of the own term without margin, is more than the own term with it."""
    centres, face = np.eye(3, 16, dtype="float32"), tf.eye(1, 16)
    _, log_sum, highest = own_and_others(face, centres, tf.constant([0], tf.int64), 40.0, 3)
    assert float(log_sum[0]) == pytest.approx(np.log(2), abs=1e-6)
    assert float(highest[0]) == 0


def test_a_block_of_the_own_class_alone_adds_nothing():
    centres = tf.eye(2)
    face = tf.constant([[0.6, 0.8]])
    _, log_sum, highest = own_and_others(face, centres, tf.constant([1], tf.int64), 2.0, 2 * blockwise_softmax._WIDTH)
    assert float(log_sum[0]) == pytest.approx(1.2, abs=1e-6)
    assert float(highest[0]) == pytest.approx(0.6, abs=1e-6)


def test_a_tile_of_the_own_class_alone_adds_nothing(tiles):
    centres = tf.concat([tf.tile(tf.eye(1, 16), [126, 1]), tf.reverse(tf.eye(1, 16), [1])], 0)
    face = tf.constant([[0.6] + [0.0] * 14 + [0.8]])
    _, log_sum, highest = own_and_others(face, centres, tf.constant([126], tf.int64), 2.0, 127)
    assert float(log_sum[0]) == pytest.approx(1.2 + np.log(126), abs=1e-5)
    assert float(highest[0]) == pytest.approx(0.6, abs=1e-6)


@pytest.mark.parametrize("near_first", [True, False])
def test_a_class_far_ahead_of_those_before_or_behind_it_is_all_of_the_sum(way, near_first):
    """e^-2000 of the sum are the others: no float holds them beside it, and none may turn it into NaN."""
    face, far = tf.eye(1, 16), -tf.eye(1, 16)
    order = [face, tf.tile(far, [3000, 1])] if near_first else [tf.tile(far, [3000, 1]), face]
    centres, own = tf.concat(order, 0), tf.constant([5], tf.int64)
    with tf.GradientTape() as tape:
        tape.watch(centres)
        _, log_sum, highest = own_and_others(face, centres, own, 1000.0, 3001)
    assert float(log_sum[0]) == pytest.approx(1000, abs=1e-3)
    assert float(highest[0]) == pytest.approx(1)
    np.testing.assert_allclose(tape.gradient(log_sum, centres), tf.zeros_like(centres), atol=1e-3)


def test_what_is_not_a_number_is_not_lost(way):
    """The trainer goes back to a checkpoint where the loss is NaN."""
    centres = np.random.default_rng(0).standard_normal((300, 16)).astype("float32")
    centres[170, 3] = np.nan
    _, log_sum, _ = own_and_others(tf.eye(2, 16), tf.constant(centres), tf.constant([0, 299], tf.int64), 64.0, 300)
    assert np.isnan(log_sum).all()


def test_a_centre_of_zero_has_a_finite_gradient(way):
    centres = tf.concat([tf.zeros((1, 16)), tf.eye(1, 16)], 0)
    faces = tf.constant([[1.0, 0.0] + [0.0] * 14, [0.6, 0.8] + [0.0] * 14])
    with tf.GradientTape() as tape:
        tape.watch(centres)
        cosine, log_sum, _ = own_and_others(faces, centres, tf.constant([0, 1], tf.int64), 64.0, 2)
        total = tf.reduce_sum(cosine + log_sum)
    assert np.isfinite(tape.gradient(total, centres)).all()


def test_tiles_give_the_same_bits_with_any_number_of_threads(tiles, monkeypatch):
    rng = np.random.default_rng(5)
    faces, centres = (
        tf.constant(unit_faces(rng, 20, 32), tf.float32),
        tf.constant(rng.standard_normal((4000, 32)), "float32"),
    )
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(native_softmax, "_threads", lambda threads=threads: threads)
        with tf.GradientTape() as tape:
            tape.watch([faces, centres])
            _, log_sum, _ = own_and_others(faces, centres, tf.range(20, dtype=tf.int64), 64.0, 4000)
        results.append([log_sum, *tape.gradient(log_sum, [faces, centres])])
    for one, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("setting", "threads"), [("3", 3), ("-1", None), ("many", None), ("0", None)])
def test_a_worker_with_a_share_of_the_cores_takes_no_more(monkeypatch, setting, threads):
    """launch.py says so in the environment, where TensorFlow reads it too; neither takes what is no number."""
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", setting)
    assert native_softmax._threads() == (threads or len(os.sched_getaffinity(0)))


def test_a_number_of_threads_that_cannot_be_is_one_that_can(tiles, monkeypatch):
    x, centres, own = tf.eye(3, 16), tf.random.stateless_normal((900, 16), [0, 0]), tf.constant([1, 2, -1], tf.int64)
    expected = own_and_others(x, centres, own, 64.0, 900)
    for threads in (-1, 0, 1 << 40):
        monkeypatch.setattr(native_softmax, "_threads", lambda threads=threads: threads)
        np.testing.assert_allclose(own_and_others(x, centres, own, 64.0, 900), expected, rtol=1e-6)


def test_no_faces_have_no_gradient(tiles):
    centres = tf.random.stateless_normal((300, 16), [0, 0])
    with tf.GradientTape() as tape:
        tape.watch(centres)
        _, log_sum, _ = own_and_others(tf.zeros((0, 16)), centres, tf.zeros([0], tf.int64), 64.0, 300)
        total = tf.reduce_sum(log_sum)
    np.testing.assert_array_equal(tape.gradient(total, centres), tf.zeros((300, 16)))


def test_centres_of_a_width_that_is_known_later_go_by_blocks():
    specs = [tf.TensorSpec([None, None]), tf.TensorSpec([None, None]), tf.TensorSpec([None], tf.int64)]
    by_graph = tf.function(lambda *values: own_and_others(*values, 64.0, 5000), input_signature=specs)
    values = tf.eye(3, 16), tf.random.stateless_normal((300, 16), [0, 0]), tf.constant([1, 2, -1], tf.int64)
    np.testing.assert_allclose(by_graph(*values), own_and_others(*values, 64.0, 300), rtol=1e-5)


def test_reading_the_centres_copies_nothing():
    """Copied at every read, they would cost a step as much again as a product, and memory for a second table."""
    head = make_head("arcface", 50)
    head.build((None, 8))
    first, second = (head.centres.value.read_value() for _ in range(2))
    assert first._numpy().ctypes.data == second._numpy().ctypes.data


def test_two_losses_of_the_same_faces_in_one_graph_are_those_of_two_graphs(way):
    """As mixup has them. TensorFlow computes once what two of them share, so neither may write into it."""
    rng = np.random.default_rng(3)
    head = make_head("arcface", 40)
    head.build((None, 16))
    head.centres.assign(rng.standard_normal((40, 16)))
    faces = tf.constant(rng.standard_normal((9, 16)), tf.float32)
    labels = [tf.constant(rng.integers(0, 40, 9)) for _ in range(2)]

    def step(faces, *labels):
        columns = head.columns(tf.concat(labels, 0))  # a sampled head's are those of both
        with tf.GradientTape() as tape:
            tape.watch(columns.centres)
            losses = [head.loss_and_accuracy(faces, some, columns=columns)[0] for some in labels]
            loss = tf.add_n([(k + 1.0) * one for k, one in enumerate(losses)])
        return loss, tape.gradient(loss, columns.centres)

    together = tf.function(step)(faces, *labels)
    first, second = (tf.function(step)(faces, some) for some in labels)

    for both, one, two in zip(together, first, second, strict=True):
        np.testing.assert_allclose(both, one + 2.0 * two, rtol=1e-5, atol=1e-6)


def test_two_gradients_that_differ_in_the_own_class_alone_do_not_share_an_array(way):
    rng = np.random.default_rng(4)
    faces = tf.constant(unit_faces(rng, 5, 16), tf.float32)
    centres, own = tf.constant(rng.standard_normal((20, 16)), tf.float32), tf.constant(rng.integers(0, 20, 5))

    def gradients(*weights):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(centres)
            cosine, log_sum, _ = own_and_others(faces, centres, own, 8.0, 20)
            totals = [tf.reduce_sum(log_sum) + weight * tf.reduce_sum(cosine) for weight in weights]
        return [tape.gradient(total, centres) for total in totals]

    together = tf.function(gradients)(-8.0, 16.0)
    for found, weight in zip(together, (-8.0, 16.0), strict=True):
        np.testing.assert_allclose(found, gradients(weight)[0], rtol=1e-5, atol=1e-5)
