"""Distillation losses against NumPy formulas from the papers, gradients against finite differences."""

import numpy as np
import pytest
import tensorflow as tf

from facelib.losses.distillation import Distiller

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
