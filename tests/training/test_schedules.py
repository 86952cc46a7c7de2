"""Learning rate, margin, weight decay and the optimizer step, against formulas and NumPy."""

import math
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from facelib.training.optimizers import Updater, last_layers, make_optimizer, copy_state, weight_decays
from facelib.training.recipe.schema import Recipe, Stage
from facelib.training.schedules import Plateau, learning_rate_at, margin_share_at

# ------------------------------------------------------------------------------------------------ schedules

stages = st.builds(
    Stage,
    epochs=st.integers(1, 6),
    learning_rate=st.floats(1e-4, 1.0),
    final_learning_rate=st.floats(0, 1e-4),
    warmup_steps=st.integers(0, 30),
    schedule=st.sampled_from(["cosine", "step", "polynomial", "plateau", "constant"]),
    power=st.floats(0.5, 3.0),
    lr_drop_epochs=st.lists(st.floats(0, 8), max_size=4).map(tuple),
    lr_drop=st.floats(0.01, 1.0),
)


@given(stages, st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_the_rate_rises_only_while_warming_up(stage, steps_per_epoch):
    rates = np.array([learning_rate_at(stage, k, steps_per_epoch) for k in range(stage.epochs * steps_per_epoch + 3)])

    assert np.all(np.diff(rates[: stage.warmup_steps]) > 0)
    assert np.all(np.diff(rates[stage.warmup_steps :]) <= 1e-15)
    assert rates.min() >= 0
    assert rates.max() <= stage.learning_rate * (1 + 1e-12)


def test_the_warm_up_is_linear_and_ends_at_the_peak():
    stage = Stage(learning_rate=0.4, warmup_steps=4, epochs=10)

    rates = [learning_rate_at(stage, k, 10) for k in range(5)]

    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_the_cosine_begins_at_the_peak_is_half_way_in_the_middle_and_ends_at_the_final_rate():
    stage = Stage(learning_rate=0.3, final_learning_rate=0.1, warmup_steps=20, epochs=4)
    steps_per_epoch = 30  # 100 steps after the warm-up

    assert learning_rate_at(stage, 20, steps_per_epoch) == pytest.approx(0.3)
    assert learning_rate_at(stage, 45, steps_per_epoch) == pytest.approx(0.1 + 0.2 * (1 + math.cos(math.pi / 4)) / 2)
    assert learning_rate_at(stage, 70, steps_per_epoch) == pytest.approx(0.2)
    assert learning_rate_at(stage, 120, steps_per_epoch) == pytest.approx(0.1)
    assert learning_rate_at(stage, 500, steps_per_epoch) == pytest.approx(0.1)


def test_the_step_schedule_drops_where_an_epoch_begins():
    stage = Stage(learning_rate=1.0, schedule="step", lr_drop_epochs=(1, 2.5), lr_drop=0.1, epochs=4)

    rates = [learning_rate_at(stage, k, 10) for k in (0, 9, 10, 24, 25, 39)]

    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_polynomial_is_its_power_of_what_is_left(power):
    stage = Stage(
        learning_rate=0.3, final_learning_rate=0.1, schedule="polynomial", power=power, warmup_steps=20, epochs=4
    )

    rates = [learning_rate_at(stage, step, 30) for step in (20, 45, 95, 120)]

    assert rates == pytest.approx([0.1 + 0.2 * left**power for left in (1.0, 0.75, 0.25, 0.0)])


def test_the_warm_up_of_margin_and_scale_is_linear_and_stays():
    stage = Stage(margin_warmup_steps=400)

    assert [margin_share_at(stage, k) for k in (0, 100, 200, 400, 10_000)] == pytest.approx([0.0, 0.25, 0.5, 1.0, 1.0])
    assert margin_share_at(Stage(), 0) == 1.0


def test_a_plateau_drops_after_patience_epochs_without_a_better_score():
    stage = Stage(schedule="plateau", lr_drop=0.5, patience=2)
    plateau = Plateau()
    factors = []
    for score in (0.5, 0.6, 0.6, 0.55, 0.7, 0.7, 0.7, 0.7, 0.7):  # better, better, -, drop, better, -, drop, -, drop
        plateau = Plateau(**vars(plateau))  # as a resume does
        factors.append(plateau.end_epoch(stage, score))

    assert factors == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_an_absent_optimizer_is_the_one_of_the_stage_before():
    stages = (Stage(), Stage(optimizer="adam"), Stage(), Stage(optimizer="lion"), Stage())
    recipe = Recipe(stage=stages)

    assert [stage.optimizer_kind for stage in recipe.stage] == ["sgd", "adam", "adam", "lion", "lion"]
    assert recipe.stage == stages  # what the user wrote is not changed
    alone = replace(recipe, stage=recipe.stage[2:3])
    assert alone.stage[0].optimizer_kind == "sgd"


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
    optimizer.build(variables)
    update = Updater(optimizer, stage, variables, [], [])
    update.decays = decays
    for rate in rates or [stage.learning_rate]:
        optimizer.learning_rate = rate
        update([tf.constant(g, tf.float32) for g in gradients])
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
        made.build(variables)
        slow = Stage(optimizer=optimizer, learning_rate=0.1, weight_decay=0.1, backbone_rate=rate)
        Updater(made, slow, variables, [], variables[:1])([tf.constant(g, tf.float32) for g in GRADIENTS])
        return [v.numpy() - start for v, start in zip(variables, VALUES, strict=True)]

    np.testing.assert_allclose(moved(0.25)[0], 0.25 * moved(1.0)[0], rtol=1e-4)
    np.testing.assert_allclose(moved(0.25)[1], moved(1.0)[1], rtol=1e-6)


def test_what_an_optimizer_accumulated_is_taken_over_by_path():
    variables = [keras.Variable(v.astype("float32"), name=f"layer_{i}") for i, v in enumerate(VALUES)]
    old, new = (make_optimizer(Stage()) for _ in range(2))
    old.build(variables)
    new.build(variables[:1])
    old.apply([tf.constant(g, tf.float32) for g in GRADIENTS], variables)

    copy_state(new, old)

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
    scaling.build(variables)
    scaling.learning_rate = 0.1
    scale = float(scaling.scale_loss(tf.constant(1.0)))

    scaled = [tf.constant(g * scale, tf.float32) for g in GRADIENTS]
    update = Updater(scaling, stage, variables, [], [])
    update.decays = DECAYS
    update(scaled)

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
    scaling.build(variables)

    update = Updater(scaling, stage, variables, [], [])
    update.decays = [0.0]
    update([tf.constant([np.inf, 0.0, 0.0])])

    np.testing.assert_array_equal(variables[0].numpy(), VALUES[0].astype("float32"))
