"""Weight decay, clipping and one step of every optimizer, against NumPy; the rows of a sampled head against Keras."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from facelib.losses.partial_fc import rows_of
from facelib.training.optimizers import RowOptimizer, copy_state, make_optimizer
from facelib.training.recipe.schema import ROW_OPTIMIZERS, Stage
from facelib.training.weight_update import Updater, last_layers, weight_decays

# ----------------------------------------------------------------------------------------------- weight decay


def test_decay_is_on_the_kernels_alone_and_tenfold_on_the_last_layers():
    from face_loss_k import ArcFace
    from mobilefacenet import mobilefacenet

    model = mobilefacenet(width=0.25, image_size=(32, 32))
    head = ArcFace(10)
    head.build((None, 128), (None,))
    variables = [*model.trainable_variables, *head.trainable_variables]
    last = [*last_layers(model), *head.trainable_variables]

    decays = weight_decays(variables, last, Stage(weight_decay=4e-5, last_layer_decay=10.0))

    found = {v.path: d for v, d in zip(variables, decays, strict=True) if d}
    # Table 1: stem conv and depthwise, 15 bottlenecks of 3, conv1x1, GDConv, linear conv1x1; and the class centres.
    assert len(found) == 2 + 15 * 3 + 3 + 1
    tenfold = {path for path, d in found.items() if d == pytest.approx(4e-4)}
    assert tenfold == {"embedding_conv/kernel", head.centres.path}
    assert all(d == pytest.approx(4e-5) for path, d in found.items() if path not in tenfold)
    assert not any(word in path for path in found for word in ("gamma", "beta", "alpha", "bias"))


# ------------------------------------------------------------------------------------------- one optimizer step


def kernel(values):
    return keras.Variable(np.asarray(values, "float32"), name="kernel")


def run(stage, values, gradients, decays, rates=None):
    """The variables after steps with the same gradients, as NumPy arrays."""
    variables = [kernel(v) for v in values]
    optimizer = make_optimizer(stage)
    update = Updater(optimizer, stage, variables, decays, [])
    for rate in rates or [stage.learning_rate]:
        optimizer.learning_rate = rate
        update(update.join([tf.constant(g, tf.float32) for g in gradients]))
    return [v.numpy() for v in variables]


VALUES = [np.array([1.0, -2.0, 3.0]), np.array([[0.5, -0.25]])]
GRADIENTS = [np.array([0.1, 0.2, -0.3]), np.array([[-0.4, 0.5]])]
DECAYS = [0.01, 0.0]


def test_sgd_adds_the_decay_to_the_gradient_and_keeps_momentum():
    stage = Stage(optimizer="sgd", momentum=0.9, clip_norm=0.0)
    rates = [0.1, 0.1, 0.05]

    found = run(stage, VALUES, GRADIENTS, DECAYS, rates)

    for value, gradient, decay, ours in zip(VALUES, GRADIENTS, DECAYS, found, strict=True):
        velocity = 0.0
        for rate in rates:
            velocity = 0.9 * velocity - rate * (gradient + decay * value)
            value = value + velocity
        np.testing.assert_allclose(ours, value, rtol=1e-5)


def test_adamw_decays_the_weight_and_not_the_gradient():
    stage = Stage(optimizer="adamw", clip_norm=0.0)
    rates = [0.01, 0.02, 0.01]

    found = run(stage, VALUES, GRADIENTS, DECAYS, rates)

    for value, gradient, decay, ours in zip(VALUES, GRADIENTS, DECAYS, found, strict=True):
        first = second = 0.0  # Loshchilov & Hutter, algorithm 2, with the rate as its schedule multiplier
        for t, rate in enumerate(rates, 1):
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            adam = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-7)
            value = value - rate * (adam + decay * value)
        np.testing.assert_allclose(ours, value, rtol=1e-4)


def test_nesterov_looks_ahead():
    stage = Stage(optimizer="sgd", momentum=0.9, nesterov=True, clip_norm=0.0)

    found = run(stage, VALUES, GRADIENTS, [0.0, 0.0], [0.1, 0.1])

    for value, gradient, ours in zip(VALUES, GRADIENTS, found, strict=True):
        velocity = 0.0
        for _ in range(2):  # Sutskever et al., http://proceedings.mlr.press/v28/sutskever13.pdf, in Keras's form
            velocity = 0.9 * velocity - 0.1 * gradient
            value = value + 0.9 * velocity - 0.1 * gradient
        np.testing.assert_allclose(ours, value, rtol=1e-5)


def test_adam_takes_the_decay_into_the_gradient_and_its_epsilon_from_the_stage():
    stage = Stage(optimizer="adam", epsilon=0.1, clip_norm=0.0, learning_rate=0.01)

    found = run(stage, VALUES, GRADIENTS, DECAYS)

    for value, gradient, decay, ours in zip(VALUES, GRADIENTS, DECAYS, found, strict=True):
        whole = gradient + decay * value
        # The first step with the epsilon-hat of Kingma & Ba, section 2, which Keras 1 to 3 take.
        root = np.sqrt(0.001)
        np.testing.assert_allclose(ours, value - 0.01 * root * whole / (root * np.abs(whole) + 0.1), rtol=1e-4)


def test_lion_moves_by_the_sign_and_decays_apart():
    stage = Stage(optimizer="lion", clip_norm=0.0, learning_rate=0.01)

    found = run(stage, VALUES, GRADIENTS, DECAYS)

    for value, gradient, decay, ours in zip(VALUES, GRADIENTS, DECAYS, found, strict=True):
        np.testing.assert_allclose(ours, value * (1 - 0.01 * decay) - 0.01 * np.sign(gradient), rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "nadam", "lion"])
def test_the_backbone_moves_by_its_share_of_the_step(optimizer):
    stage = Stage(optimizer=optimizer, learning_rate=0.1, weight_decay=0.1)

    def moved(rate):
        variables = [kernel(v) for v in VALUES]
        made = make_optimizer(stage)
        slow = Stage(optimizer=optimizer, learning_rate=0.1, weight_decay=0.1, backbone_rate=rate)
        update = Updater(made, slow, variables, weight_decays(variables, [], slow), variables[:1])
        update(update.join([tf.constant(g, tf.float32) for g in GRADIENTS]))
        return [v.numpy() - start for v, start in zip(variables, VALUES, strict=True)]

    np.testing.assert_allclose(moved(0.25)[0], 0.25 * moved(1.0)[0], rtol=1e-4)
    np.testing.assert_allclose(moved(0.25)[1], moved(1.0)[1], rtol=1e-6)


def test_the_state_of_an_optimizer_is_copied_by_path():
    variables = [keras.Variable(v.astype("float32"), name=f"layer_{i}") for i, v in enumerate(VALUES)]
    old, new = (make_optimizer(Stage()) for _ in range(2))
    old.build(variables)
    new.build(variables[:1])
    old.apply([tf.constant(g, tf.float32) for g in GRADIENTS], variables)

    copy_state(new.variables, old.variables)

    by_path = {v.path: v.numpy() for v in old.variables}
    assert any(np.any(v.numpy()) for v in new.variables if "momentum" in v.path)
    for variable in new.variables:
        np.testing.assert_array_equal(variable.numpy(), by_path[variable.path])


def test_gradients_are_clipped_by_their_norm_together_and_before_the_decay():
    stage = Stage(optimizer="sgd", momentum=0.0, learning_rate=1.0, clip_norm=0.5)
    norm = math.sqrt(sum((10 * g**2).sum() * 10 for g in GRADIENTS))

    found = run(stage, VALUES, [10 * g for g in GRADIENTS], DECAYS)

    assert norm > 0.5
    for value, gradient, decay, ours in zip(VALUES, GRADIENTS, DECAYS, found, strict=True):
        np.testing.assert_allclose(ours, value - 10 * gradient * 0.5 / norm - decay * value, rtol=1e-5)


def test_small_gradients_are_not_clipped():
    stage = Stage(optimizer="sgd", momentum=0.0, learning_rate=1.0, clip_norm=5.0)

    found = run(stage, VALUES, GRADIENTS, [0.0, 0.0])

    for value, gradient, ours in zip(VALUES, GRADIENTS, found, strict=True):
        np.testing.assert_allclose(ours, value - gradient, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_loss_scaling_changes_nothing_but_the_range(optimizer):
    stage = Stage(optimizer=optimizer, clip_norm=0.5, momentum=0.0, learning_rate=0.1)
    plain = run(stage, VALUES, GRADIENTS, DECAYS)
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        scaling = make_optimizer(stage)
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    variables = [kernel(v) for v in VALUES]
    update = Updater(scaling, stage, variables, DECAYS, [])
    scaling.learning_rate = 0.1
    scale = float(scaling.scale_loss(tf.constant(1.0)))

    update(update.join([tf.constant(g * scale, tf.float32) for g in GRADIENTS]))

    assert scale > 1
    for ours, expected in zip(variables, plain, strict=True):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_overflow_under_loss_scaling_skips_the_step(optimizer):
    stage = Stage(optimizer=optimizer, clip_norm=5.0)
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        scaling = make_optimizer(stage)
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    variables = [kernel(VALUES[0])]

    update = Updater(scaling, stage, variables, [0.0], [])
    update([tf.constant([np.inf, 0.0, 0.0])])

    np.testing.assert_array_equal(variables[0].numpy(), VALUES[0].astype("float32"))


# ----------------------------------------------------------------------------------------- rows of a sampled head

STAGES = {
    "sgd": Stage(optimizer="sgd", momentum=0.9),
    "nesterov": Stage(optimizer="sgd", momentum=0.8, nesterov=True),
    "adam": Stage(optimizer="adam", epsilon=1e-3),
    "adamw": Stage(optimizer="adamw"),
    "lion": Stage(optimizer="lion"),
}


def test_every_row_optimizer_is_tested():
    assert {stage.optimizer for stage in STAGES.values()} == set(ROW_OPTIMIZERS)


@pytest.mark.parametrize("name", STAGES)
def test_with_all_rows_it_is_kerass_optimizer(name):
    stage, rng = STAGES[name], np.random.default_rng(0)
    start = rng.normal(size=(40, 3)).astype(np.float32)
    theirs, mine = (keras.Variable(start, name="centres") for _ in range(2))
    optimizer = make_optimizer(stage)
    optimizer.build([theirs])
    rows = RowOptimizer(mine, stage)
    assert len(rows.variables) == ROW_OPTIMIZERS[stage.optimizer]
    order = tf.constant(rng.permutation(40), tf.int64)
    for step in range(1, 6):
        gradient, rate = rng.normal(size=(40, 3)).astype(np.float32), 0.02 / step
        optimizer.learning_rate = rate
        decoupled = stage.optimizer in ("adamw", "lion")
        if decoupled:  # as `Updater` does
            theirs.assign(theirs.value * (1 - rate * 0.1))
        optimizer.apply([gradient if decoupled else gradient + 0.1 * theirs.numpy()], [theirs])
        rows.apply(order, tf.gather(gradient, order), rate, 0.1, tf.constant(step, tf.float32))
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", STAGES)
def test_rows_that_were_not_drawn_keep_value_and_state_bit_for_bit(name, monkeypatch):
    monkeypatch.setattr("facelib.training.optimizers._BLOCK", 4)  # several blocks
    stage, rng = STAGES[name], np.random.default_rng(1)
    table = keras.Variable(rng.normal(size=(30, 2)).astype(np.float32), name="centres")
    rows = RowOptimizer(table, stage)
    for variable in rows.variables:
        variable.assign(np.abs(rng.normal(size=(30, 2))).astype(np.float32))
    before = [np.array(v.numpy()) for v in (table, *rows.variables)]
    drawn = rows_of(tf.constant([3, 11, 0, 7, 9, 12], tf.int64), 2)
    rows.apply(drawn, tf.constant(rng.normal(size=(12, 2)), tf.float32), 0.1, 0.01, tf.constant(1.0))
    others = np.setdiff1d(np.arange(30), drawn.numpy())
    for old, variable in zip(before, (table, *rows.variables), strict=True):
        np.testing.assert_array_equal(variable.numpy()[others], old[others])
        assert (variable.numpy()[drawn.numpy()] != old[drawn.numpy()]).all()
    now = np.array(table.numpy())
    rows.apply(drawn, tf.ones([12, 2]), 0.1, 0.01, tf.constant(2.0), is_wanted=tf.constant(False))
    np.testing.assert_array_equal(table.numpy(), now)
