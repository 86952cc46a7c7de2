"""One training step against NumPy: a linear network under a quadratic loss, whose gradient is a short formula."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from facelib.training.optimizers import make_optimizer
from facelib.training.recipe.schema import Stage
from facelib.training.step import Objective, make_step
from facelib.training.weight_update import Updater, weight_decays

SIDE, SIZE, BATCH, RATE = 2, 3, 6, 0.01
GOALS = np.random.default_rng(1).normal(size=(4, SIZE))  # where the loss pulls the embeddings of each class
IMAGES = np.random.default_rng(2).integers(0, 3, (BATCH, SIDE, SIDE, 3), np.uint8)
LABELS = np.array([0, 1, 2, 3, 1, 0])
PLAIN = Stage(loss="softmax", momentum=0.0, clip_norm=0.0, weight_decay=0.0, learning_rate=RATE)


class Quadratic:
    """A `Loss`: mean over the faces of |x - goal of its class|^2 / 2; the accuracy is 0.25."""

    has_class_centres = False

    def loss_and_accuracy(self, embeddings, labels, margin_share=1.0, label_smoothing=0.0, sampled=None):
        difference = tf.cast(embeddings, tf.float32) - tf.gather(GOALS.astype("float32"), labels)
        return margin_share * tf.reduce_mean(tf.reduce_sum(tf.square(difference), -1)) / 2, tf.constant(0.25)


def linear_embedder():
    faces = keras.Input((SIDE, SIDE, 3), name="input_1")
    dense = keras.layers.Dense(SIZE, use_bias=False, kernel_initializer="glorot_uniform", name="embeddings")
    model = keras.Model(faces, dense(keras.layers.Flatten(name="flat")(faces)))
    dense.kernel.assign(np.random.default_rng(3).normal(size=dense.kernel.shape))
    return model, dense.kernel


def quadratic(kernel, images, labels):
    """(loss, gradient by the kernel), float64."""
    rows = images.reshape(len(images), -1).astype(float)
    difference = rows @ kernel - GOALS[labels]
    return np.mean(np.sum(difference**2, 1)) / 2, rows.T @ difference / len(rows)


def take_step(stage, mix=1.0, margin_share=1.0, images=IMAGES, labels=LABELS):
    """(loss, accuracy, the kernel before, the kernel after) of one step with SGD."""
    model, kernel = linear_embedder()
    before = kernel.numpy().astype(float)
    optimizer = make_optimizer(stage)
    variables = [] if stage.freeze_backbone else [kernel]
    update = Updater(optimizer, stage, variables, weight_decays(variables, [], stage), [])
    step = make_step(model, Objective(stage, Quadratic(), None, None), update, stage, teacher_size=0)
    no_teacher = np.zeros((len(images), 0), np.float32)
    loss, accuracy = step(images, labels, no_teacher, np.float32(margin_share), np.float32(mix), np.int64(0))
    return float(loss), float(accuracy), before, kernel.numpy()


def test_a_step_of_sgd_moves_the_kernel_against_its_gradient():
    loss, accuracy, before, after = take_step(PLAIN)

    expected, gradient = quadratic(before, IMAGES, LABELS)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert accuracy == 0.25
    np.testing.assert_allclose(after, before - RATE * gradient, rtol=1e-5)


def test_the_margin_share_reaches_the_loss():
    loss, _, before, _ = take_step(PLAIN, margin_share=0.5)

    assert loss == pytest.approx(0.5 * quadratic(before, IMAGES, LABELS)[0], rel=1e-5)


@pytest.mark.parametrize("num_parts", [2, 3, 4])
def test_micro_batches_of_unequal_size_give_the_gradient_of_the_whole_batch(num_parts):
    loss, _, before, after = take_step(replace(PLAIN, micro_batches=num_parts), images=IMAGES[:5], labels=LABELS[:5])

    expected, gradient = quadratic(before, IMAGES[:5], LABELS[:5])
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(after, before - RATE * gradient, rtol=1e-5)


def test_mixup_mixes_opposite_images_and_the_losses_of_both_labels():
    loss, _, before, after = take_step(replace(PLAIN, mixup=0.4), mix=0.7)

    mixed = 0.7 * IMAGES + 0.3 * IMAGES[::-1].astype(float)
    (one, by_one), (other, by_other) = (quadratic(before, mixed, labels) for labels in (LABELS, LABELS[::-1]))
    assert loss == pytest.approx(0.7 * one + 0.3 * other, rel=1e-5)
    np.testing.assert_allclose(after, before - RATE * (0.7 * by_one + 0.3 * by_other), rtol=1e-5)


def test_sam_steps_from_the_old_weights_with_the_gradient_of_the_worst_neighbour():
    loss, _, before, after = take_step(replace(PLAIN, sam=0.5))

    expected, gradient = quadratic(before, IMAGES, LABELS)
    _, worst = quadratic(before + 0.5 * gradient / np.linalg.norm(gradient), IMAGES, LABELS)
    assert loss == pytest.approx(expected, rel=1e-5)  # the loss at the old weights
    np.testing.assert_allclose(after, before - RATE * worst, rtol=1e-5)


def test_a_frozen_backbone_does_not_move():
    _, _, before, after = take_step(replace(PLAIN, freeze_backbone=True))

    np.testing.assert_array_equal(after, before.astype("float32"))


def test_batches_of_two_sizes_compile_one_step():
    model, kernel = linear_embedder()
    optimizer = make_optimizer(PLAIN)
    update = Updater(optimizer, PLAIN, [kernel], [0.0], [])
    step = make_step(model, Objective(PLAIN, Quadratic(), None, None), update, PLAIN, teacher_size=0)

    for count in (BATCH, BATCH - 1):
        step(
            IMAGES[:count], LABELS[:count], np.zeros((count, 0), np.float32), np.float32(1), np.float32(1), np.int64(0)
        )

    assert step.experimental_get_tracing_count() == 1


def test_a_variable_that_no_term_uses_stays():
    model, kernel = linear_embedder()
    unused = keras.Variable(np.ones(2, "float32"), name="kernel")
    optimizer = make_optimizer(PLAIN)
    update = Updater(optimizer, PLAIN, [kernel, unused], [0.0, 0.0], [])
    step = make_step(model, Objective(PLAIN, Quadratic(), None, None), update, PLAIN, teacher_size=0)

    step(IMAGES, LABELS, np.zeros((BATCH, 0), np.float32), np.float32(1), np.float32(1), np.int64(0))

    np.testing.assert_array_equal(unused.numpy(), np.ones(2))


# ------------------------------------------------------------------------------------------------ the objective


EMBEDDINGS = tf.constant(np.random.default_rng(4).normal(size=(BATCH, SIZE)), tf.float32)
NO_TEACHER = tf.zeros((BATCH, 0))


def center_loss(embeddings, labels, training):
    assert training
    return tf.constant(3.0)


def distiller(embeddings, teacher_vectors):
    return tf.constant(2.0), tf.constant(0.75)


def test_the_terms_are_added_with_their_weights():
    stage = Stage(center_loss=0.5, distill_weight=0.25, norm_penalty=0.1)
    alone, _ = Objective(Stage(), Quadratic(), None, None)(EMBEDDINGS, LABELS, NO_TEACHER, 1.0)

    loss, accuracy = Objective(stage, Quadratic(), center_loss, distiller)(EMBEDDINGS, LABELS, NO_TEACHER, 1.0)

    norms = np.abs(EMBEDDINGS.numpy()).sum(1).mean()
    assert float(loss) == pytest.approx(float(alone) + 0.5 * 3.0 + 0.25 * 2.0 + 0.1 * norms, rel=1e-6)
    assert float(accuracy) == 0.25


def test_without_a_head_the_accuracy_is_the_agreement_with_the_teacher():
    loss, accuracy = Objective(Stage(loss="distill"), None, None, distiller)(EMBEDDINGS, LABELS, NO_TEACHER, 1.0)

    assert (float(loss), float(accuracy)) == (2.0, 0.75)


def test_only_a_head_with_class_centres_is_sampled():
    from facelib.losses.partial_fc import ClassSplit
    from facelib.losses.registry import make_head

    head = make_head("arcface", 5)
    assert Objective(Stage(), head, None, None).sampled_head is None
    head.split = ClassSplit(sample_rate=0.5)
    assert Objective(Stage(), head, None, None).sampled_head is head
    assert Objective(Stage(), make_head("batch_hard_triplet", 5), None, None).sampled_head is None
    assert Objective(Stage(loss="distill"), None, None, distiller).sampled_head is None
