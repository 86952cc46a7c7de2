"""The softmax over many classes, block by block, against formulas in float64."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from face_loss_k import make_head
from facelib.losses import blockwise_softmax
from facelib.losses.blockwise_softmax import target_and_others


def reference(x, centres, target_idx, scale):
    """Cosine to the target class, ln of the sum of the others, highest other; and all cosines, unit rows, softmax."""
    unit = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-6)
    cosines = x @ unit.T
    is_target = np.arange(len(centres)) == target_idx[:, None]
    others = np.where(is_target, -np.inf, cosines)
    highest = others.max(1)
    weights = np.exp(scale * (others - highest[:, None]))
    log_sum = scale * highest + np.log(weights.sum(1))
    return (cosines * is_target).sum(1), log_sum, highest, unit, weights / weights.sum(1, keepdims=True), is_target


def reference_gradients(x, centres, target_idx, scale, of_cosine, of_log_sum):
    """By x and by the centres, from d cos(x, w) / d w = (x - cos w / |w|) / |w|."""
    _, _, _, unit, softmax, is_target = reference(x, centres, target_idx, scale)
    by_cosine = is_target * of_cosine[:, None] + scale * softmax * of_log_sum[:, None]
    norms = np.linalg.norm(centres, axis=1, keepdims=True)
    pull = (by_cosine * (x @ unit.T)).sum(0)[:, None]
    return by_cosine @ unit, (by_cosine.T @ x - pull * unit) / norms


def unit_faces(rng, count, size):
    x = rng.standard_normal((count, size))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def check_against_formulas(x, centres, target_idx, scale, num_classes, of_cosine, of_log_sum):
    tensors = [tf.constant(v, tf.float32) for v in (x, centres)]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        found = target_and_others(*tensors, tf.constant(target_idx), scale, num_classes)
        total = tf.reduce_sum(found[0] * of_cosine.astype("f") + found[1] * of_log_sum.astype("f"))
    by_x, by_centres = tape.gradient(total, tensors)

    for value, expected in zip(found, reference(x, centres, target_idx, scale), strict=False):
        np.testing.assert_allclose(value, expected, rtol=2e-6, atol=2e-6 * scale)
    for value, expected in zip(
        (by_x, by_centres), reference_gradients(x, centres, target_idx, scale, of_cosine, of_log_sum), strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=4e-6 * scale * max(1, np.abs(expected).max()))


SCALES, DEVIATIONS = st.sampled_from([1.0, 64.0, 512.0]), st.sampled_from([1e-3, 1.0, 1e3])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), num_blocks=st.integers(1, 6), scale=SCALES, deviation=DEVIATIONS)
def test_values_and_gradients_by_blocks_are_those_of_the_formula(seed, num_blocks, scale, deviation):
    rng = np.random.default_rng(seed)
    num_classes, count, size = int(rng.integers(2 * num_blocks, 40)), int(rng.integers(1, 9)), 5
    x, centres = unit_faces(rng, count, size), deviation * rng.standard_normal((num_classes, size))
    target_idx, upstream = rng.integers(-1, num_classes, count), rng.standard_normal((2, count))
    check_against_formulas(x, centres, target_idx, scale, num_blocks * blockwise_softmax._BLOCK, *upstream)


@pytest.mark.parametrize("is_sampled", [False, True])
def test_a_head_in_many_blocks_is_one_in_one_block(is_sampled, monkeypatch):
    """The head as the trainer calls it, with its classes in one block, in seven, and in as many as there may be."""
    rng = np.random.default_rng(0)
    faces, labels = rng.standard_normal((9, 16)).astype("float32"), tf.constant(rng.integers(0, 70, 9))
    results = []
    for width in (blockwise_softmax._BLOCK, 3 if is_sampled else 10, 1):
        monkeypatch.setattr(blockwise_softmax, "_BLOCK", width)
        head = make_head("arcface", 70)
        if is_sampled:
            head.split = type(head.split)(sample_rate=0.3)
        head.build((None, 16))
        head.centres.assign(np.random.default_rng(1).standard_normal((70, 16)))
        sampled = head.sample(labels)
        with tf.GradientTape() as tape:
            tape.watch(sampled.centres)
            loss, accuracy = head.loss_and_accuracy(faces, labels, sampled=sampled)
        results.append((loss, accuracy, tape.gradient(loss, sampled.centres)))
    for one, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_target_far_ahead_of_the_others_is_still_decided_by_its_margin():
    """The sum of the others is 1e-17 of the target term without margin, and more than the target term with it."""
    centres, face = np.eye(3, 16, dtype="float32"), tf.eye(1, 16)
    _, log_sum, highest = target_and_others(face, centres, tf.constant([0], tf.int64), 40.0, 3)
    assert float(log_sum[0]) == pytest.approx(np.log(2), abs=1e-6)
    assert float(highest[0]) == 0


def test_a_block_with_only_the_target_class_adds_nothing():
    centres = tf.eye(2)
    face = tf.constant([[0.6, 0.8]])
    _, log_sum, highest = target_and_others(
        face, centres, tf.constant([1], tf.int64), 2.0, 2 * blockwise_softmax._BLOCK
    )
    assert float(log_sum[0]) == pytest.approx(1.2, abs=1e-6)
    assert float(highest[0]) == pytest.approx(0.6, abs=1e-6)


@pytest.mark.parametrize("near_first", [True, False])
def test_a_class_far_ahead_of_those_before_or_behind_it_is_all_of_the_sum(near_first):
    """e^-2000 of the sum are the others: no float holds them beside it, and none may turn it into NaN."""
    face, far = tf.eye(1, 16), -tf.eye(1, 16)
    order = [face, tf.tile(far, [3000, 1])] if near_first else [tf.tile(far, [3000, 1]), face]
    centres, target_idx = tf.concat(order, 0), tf.constant([5], tf.int64)
    with tf.GradientTape() as tape:
        tape.watch(centres)
        _, log_sum, highest = target_and_others(face, centres, target_idx, 1000.0, 3001)
    assert float(log_sum[0]) == pytest.approx(1000, abs=1e-3)
    assert float(highest[0]) == pytest.approx(1)
    np.testing.assert_allclose(tape.gradient(log_sum, centres), tf.zeros_like(centres), atol=1e-3)


def test_nan_stays_nan():
    """The trainer goes back to a checkpoint when the loss is NaN."""
    centres = np.random.default_rng(0).standard_normal((300, 16)).astype("float32")
    centres[170, 3] = np.nan
    _, log_sum, _ = target_and_others(tf.eye(2, 16), tf.constant(centres), tf.constant([0, 299], tf.int64), 64.0, 300)
    assert np.isnan(log_sum).all()


def test_a_centre_of_zero_has_a_finite_gradient():
    centres = tf.concat([tf.zeros((1, 16)), tf.eye(1, 16)], 0)
    faces = tf.constant([[1.0, 0.0] + [0.0] * 14, [0.6, 0.8] + [0.0] * 14])
    with tf.GradientTape() as tape:
        tape.watch(centres)
        cosine, log_sum, _ = target_and_others(faces, centres, tf.constant([0, 1], tf.int64), 64.0, 2)
        total = tf.reduce_sum(cosine + log_sum)
    assert np.isfinite(tape.gradient(total, centres)).all()


def test_the_number_of_classes_and_the_width_may_be_known_later():
    specs = [tf.TensorSpec([None, None]), tf.TensorSpec([None, None]), tf.TensorSpec([None], tf.int64)]
    by_graph = tf.function(lambda *values: target_and_others(*values, 64.0, 5000), input_signature=specs)
    values = tf.eye(3, 16), tf.random.stateless_normal((300, 16), [0, 0]), tf.constant([1, 2, -1], tf.int64)
    np.testing.assert_allclose(by_graph(*values), target_and_others(*values, 64.0, 300), rtol=1e-5)


def test_reading_the_centres_copies_nothing():
    """Copied at every read, they would cost a step as much again as a product, and memory for a second table."""
    head = make_head("arcface", 50)
    head.build((None, 8))
    first, second = (head.centres.value.read_value() for _ in range(2))
    assert first._numpy().ctypes.data == second._numpy().ctypes.data


@pytest.mark.slow
def test_two_losses_of_the_same_faces_in_one_graph_are_those_of_two_graphs():
    """As mixup has them. TensorFlow computes once what two of them share, so neither may write into it."""
    rng = np.random.default_rng(3)
    head = make_head("arcface", 40)
    head.build((None, 16))
    head.centres.assign(rng.standard_normal((40, 16)))
    faces = tf.constant(rng.standard_normal((9, 16)), tf.float32)
    labels = [tf.constant(rng.integers(0, 40, 9)) for _ in range(2)]

    def step(faces, *labels):
        sampled = head.sample(tf.concat(labels, 0))  # a sampled head's are those of both
        with tf.GradientTape() as tape:
            tape.watch(sampled.centres)
            losses = [head.loss_and_accuracy(faces, some, sampled=sampled)[0] for some in labels]
            loss = tf.add_n([(k + 1.0) * one for k, one in enumerate(losses)])
        return loss, tape.gradient(loss, sampled.centres)

    together = tf.function(step)(faces, *labels)
    first, second = (tf.function(step)(faces, some) for some in labels)

    for both, one, two in zip(together, first, second, strict=True):
        np.testing.assert_allclose(both, one + 2.0 * two, rtol=1e-5, atol=1e-6)


def test_two_gradients_that_differ_in_the_target_class_alone_do_not_share_an_array():
    rng = np.random.default_rng(4)
    faces = tf.constant(unit_faces(rng, 5, 16), tf.float32)
    centres, target_idx = tf.constant(rng.standard_normal((20, 16)), tf.float32), tf.constant(rng.integers(0, 20, 5))

    def gradients(*weights):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(centres)
            cosine, log_sum, _ = target_and_others(faces, centres, target_idx, 8.0, 20)
            totals = [tf.reduce_sum(log_sum) + weight * tf.reduce_sum(cosine) for weight in weights]
        return [tape.gradient(total, centres) for total in totals]

    together = tf.function(gradients)(-8.0, 16.0)
    for found, weight in zip(together, (-8.0, 16.0), strict=True):
        np.testing.assert_allclose(found, gradients(weight)[0], rtol=1e-5, atol=1e-5)
