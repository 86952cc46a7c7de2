"""The softmax over blocks of classes, against formulas in float64."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from face_loss_k import make_head
from facelib import class_blocks
from facelib.class_blocks import own_and_others


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


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999), num_blocks=st.integers(1, 6), scale=st.sampled_from([1.0, 64.0, 512.0]),
    deviation=st.sampled_from([1e-3, 1.0, 1e3]),
)  # fmt: skip
def test_values_and_gradients_are_those_of_the_formula(seed, num_blocks, scale, deviation):
    rng = np.random.default_rng(seed)
    num_classes, count, size = int(rng.integers(2 * num_blocks, 40)), int(rng.integers(1, 9)), 5
    x, centres = unit_faces(rng, count, size), deviation * rng.standard_normal((num_classes, size))
    own = rng.integers(-1, num_classes, count)
    of_cosine, of_log_sum = rng.standard_normal((2, count))

    tensors = [tf.constant(v, tf.float32) for v in (x, centres)]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        found = own_and_others(*tensors, tf.constant(own), scale, num_blocks * class_blocks._WIDTH)
        total = tf.reduce_sum(found[0] * of_cosine.astype("f") + found[1] * of_log_sum.astype("f"))
    by_x, by_centres = tape.gradient(total, tensors)

    for value, expected in zip(found, reference(x, centres, own, scale), strict=False):
        np.testing.assert_allclose(value, expected, rtol=2e-6, atol=2e-6 * scale)
    for value, expected in zip(
        (by_x, by_centres), reference_gradients(x, centres, own, scale, of_cosine, of_log_sum), strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=4e-6 * scale * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("sampled", [False, True])
def test_many_blocks_of_a_head_are_one(sampled, monkeypatch):
    """The head as the trainer calls it, with its classes in one block and in seven."""
    rng = np.random.default_rng(0)
    faces, labels = rng.standard_normal((9, 6)).astype("float32"), tf.constant(rng.integers(0, 70, 9))
    results = []
    for width in (class_blocks._WIDTH, 3 if sampled else 10):
        monkeypatch.setattr(class_blocks, "_WIDTH", width)
        head = make_head("arcface", 70)
        if sampled:
            head.split = type(head.split)(sample_rate=0.3)
        head.build((None, 6))
        head.centres.assign(np.random.default_rng(1).standard_normal((70, 6)))
        columns = head.columns(labels)
        with tf.GradientTape() as tape:
            tape.watch(columns.centres)
            loss, accuracy = head.loss_and_accuracy(faces, labels, columns=columns)
        results.append((loss, accuracy, tape.gradient(loss, columns.centres)))
    for one, many in zip(*results, strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-5, atol=1e-6)


def test_the_own_class_may_be_far_ahead_and_its_margin_still_decides():
    """The others' sum, 1e-17 of the own term without margin, is more than the own term with it."""
    centres = np.eye(3, 4, dtype="float32")
    face = tf.constant([[1.0, 0.0, 0.0, 0.0]])
    _, log_sum, highest = own_and_others(face, centres, tf.constant([0], tf.int64), 40.0, 3)
    assert float(log_sum[0]) == pytest.approx(np.log(2), abs=1e-6)
    assert float(highest[0]) == 0


def test_a_block_of_the_own_class_alone_adds_nothing():
    centres = tf.constant(np.eye(2, dtype="float32"))
    face = tf.constant([[0.6, 0.8]])
    _, log_sum, highest = own_and_others(face, centres, tf.constant([1], tf.int64), 2.0, 2 * class_blocks._WIDTH)
    assert float(log_sum[0]) == pytest.approx(1.2, abs=1e-6)
    assert float(highest[0]) == pytest.approx(0.6, abs=1e-6)


def test_a_centre_of_zero_has_a_finite_gradient():
    centres = tf.constant([[0.0, 0.0], [1.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(centres)
        cosine, log_sum, _ = own_and_others(
            tf.constant([[1.0, 0.0], [0.6, 0.8]]), centres, tf.constant([0, 1], tf.int64), 64.0, 2
        )
        total = tf.reduce_sum(cosine + log_sum)
    assert np.isfinite(tape.gradient(total, centres)).all()


def test_reading_the_centres_copies_nothing():
    """Copied at every read, they would cost a step as much again as a product, and memory for a second table."""
    head = make_head("arcface", 50)
    head.build((None, 8))
    first, second = (head.centres.value.read_value() for _ in range(2))
    assert first._numpy().ctypes.data == second._numpy().ctypes.data


def test_two_losses_of_the_same_faces_in_one_graph_are_those_of_two_graphs():
    """As mixup has them. TensorFlow computes once what two of them share, so neither may write into it."""
    rng = np.random.default_rng(3)
    head = make_head("arcface", 40)
    head.build((None, 6))
    head.centres.assign(rng.standard_normal((40, 6)))
    faces = tf.constant(rng.standard_normal((9, 6)), tf.float32)
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


def test_two_gradients_that_differ_in_the_own_class_alone_do_not_share_an_array():
    rng = np.random.default_rng(4)
    faces = tf.constant(unit_faces(rng, 5, 6), tf.float32)
    centres, own = tf.constant(rng.standard_normal((20, 6)), tf.float32), tf.constant(rng.integers(0, 20, 5))

    def gradients(*weights):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(centres)
            cosine, log_sum, _ = own_and_others(faces, centres, own, 8.0, 20)
            totals = [tf.reduce_sum(log_sum) + weight * tf.reduce_sum(cosine) for weight in weights]
        return [tape.gradient(total, centres) for total in totals]

    together = tf.function(gradients)(-8.0, 16.0)
    for found, weight in zip(together, (-8.0, 16.0), strict=True):
        np.testing.assert_allclose(found, gradients(weight)[0], rtol=1e-5, atol=1e-5)
