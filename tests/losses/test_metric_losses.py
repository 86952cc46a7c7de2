"""Triplet and center losses against loops over all triplets, and the paper's update rule."""

import numpy as np
import pytest
import tensorflow as tf

from face_loss_k import make_head
from facelib.losses.metric_losses import CenterLoss

KINDS = ("batch_hard_triplet", "batch_all_triplet", "semi_hard_triplet")
MARGIN = 0.35


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def faces(seed=0, num=12, classes=4):
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % classes
    return rng.normal(size=(num, 5)) + 0.8 * rng.normal(size=(classes, 5))[labels], labels


def triplet_losses(kind, x, labels):
    cos, num = unit(x) @ unit(x).T, len(labels)
    losses = []
    for a in range(num):
        positives = [p for p in range(num) if labels[p] == labels[a] and p != a]
        negatives = [n for n in range(num) if labels[n] != labels[a]]
        if not positives or not negatives:
            continue
        if kind == "batch_hard_triplet":
            losses.append(max(0, max(cos[a, n] for n in negatives) - min(cos[a, p] for p in positives) + MARGIN))
        elif kind == "batch_all_triplet":
            each = [max(0, cos[a, n] - cos[a, p] + MARGIN) for p in positives for n in negatives]
            losses += [value for value in each if value > 0]
        else:
            for p in positives:
                farther = [cos[a, n] for n in negatives if cos[a, n] < cos[a, p]]
                negative = max(farther) if farther else min(cos[a, n] for n in negatives)
                losses.append(max(0, negative - cos[a, p] + MARGIN))
    return np.mean(losses) if losses else 0.0


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_each_loss_is_the_mean_over_its_triplets(kind, seed):
    x, labels = faces(seed)

    loss, accuracy = make_head(kind, 4).loss_and_accuracy(x.astype("float32"), tf.constant(labels, tf.int32))

    assert float(loss) == pytest.approx(triplet_losses(kind, x, labels), rel=1e-5)
    nearest = (unit(x) @ unit(x).T - 9 * np.eye(len(x))).argmax(1)
    assert float(accuracy) == pytest.approx(np.mean(labels[nearest] == labels))


@pytest.mark.parametrize("kind", KINDS)
def test_each_gradient_is_that_of_finite_differences(kind):
    x, labels = faces()
    variable = tf.Variable(x.astype("float32"))
    with tf.GradientTape() as tape:
        loss, _ = make_head(kind, 4).loss_and_accuracy(variable, tf.constant(labels, tf.int32))
    found = tape.gradient(loss, variable).numpy()

    expected, h = np.zeros_like(x), 1e-6
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += h
        down[index] -= h
        expected[index] = (triplet_losses(kind, up, labels) - triplet_losses(kind, down, labels)) / (2 * h)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_a_batch_without_triplets_has_no_loss_and_a_finite_gradient(kind, labels):
    variable = tf.Variable(np.ones((3, 4), "float32"))
    with tf.GradientTape() as tape:
        loss, _ = make_head(kind, 3).loss_and_accuracy(variable, tf.constant(labels))

    assert float(loss) == 0.0
    assert np.isfinite(tape.gradient(loss, variable)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_triplets_have_no_weights_of_their_own(kind):
    assert make_head(kind, 3).variables == []


# ------------------------------------------------------------------------------------------------ center loss


def test_the_centres_follow_their_faces_as_equation_4_says():
    rng = np.random.default_rng(0)
    layer = CenterLoss(5, 3, alpha=0.5)
    start = rng.normal(size=(5, 3))
    layer.means.assign(start)
    x, labels = rng.normal(size=(6, 3)) * 4, np.array([0, 2, 2, 4, 2, 0])

    loss = layer(x.astype("float32"), tf.constant(labels), training=True)

    expected = start.copy()
    for j in range(5):
        mine = unit(x)[labels == j]
        expected[j] -= 0.5 * sum((start[j] - face for face in mine), np.zeros(3)) / (1 + len(mine))
    np.testing.assert_allclose(layer.means.numpy(), expected, atol=1e-6)
    assert float(loss) == pytest.approx(np.mean(np.sum((unit(x) - start[labels]) ** 2, 1)) / 2, rel=1e-5)
    assert layer.trainable_variables == []


def test_outside_training_the_centres_stay_and_the_gradient_is_towards_them():
    layer = CenterLoss(2, 2)
    layer.means.assign([[1.0, 0.0], [0.0, 1.0]])
    x = tf.Variable([[0.6, 0.8]])
    with tf.GradientTape() as tape:
        loss = layer(x, tf.constant([0]))

    np.testing.assert_array_equal(layer.means.numpy(), np.eye(2))
    # |x| = 1, so the gradient is (x - c) without its part along x: -(c - <c, x> x)
    np.testing.assert_allclose(tape.gradient(loss, x), [[-(1 - 0.36), 0.48]], rtol=1e-5)
