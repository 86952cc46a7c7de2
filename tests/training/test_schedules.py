"""Learning rate, margin share and the optimizer of each stage, against formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelib.training.recipe.schema import Recipe, Stage
from facelib.training.schedules import Plateau, learning_rate_at, margin_at, margin_share_at, scale_at

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


@pytest.mark.parametrize("warmup_steps", [1, 3, 7, 200, 23_000])
def test_the_linear_warm_up_keeps_its_bits(warmup_steps):
    stage = Stage(learning_rate=0.1, warmup_steps=warmup_steps, epochs=3)

    rates = [learning_rate_at(stage, k, 10**5) for k in range(min(warmup_steps, 1000))]

    assert rates == [0.1 * (k + 1) / warmup_steps for k in range(len(rates))]


def test_a_quadratic_warm_up_over_epochs_begins_at_a_share_of_the_peak():
    stage = Stage(learning_rate=0.4, warmup_epochs=2, warmup_start=0.25, warmup_power=2, epochs=10)

    rates = [learning_rate_at(stage, k, 2) for k in range(5)]

    assert rates == pytest.approx([0.1 + 0.3 * (k / 4) ** 2 for k in (1, 2, 3, 4)] + [0.4])


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_the_final_rate_is_reached_at_the_final_epoch_and_stays(schedule):
    stage = Stage(learning_rate=0.3, final_learning_rate=0.1, schedule=schedule, epochs=10, final_epoch=6)

    rates = [learning_rate_at(stage, k, 4) for k in (0, 12, 23, 24, 39)]

    assert rates[0] == pytest.approx(0.3) and rates[1] == pytest.approx(0.2) and rates[2] > 0.1
    assert rates[3:] == pytest.approx([0.1, 0.1])


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


def test_a_plateau_does_not_drop_below_the_final_rate():
    stage = Stage(schedule="plateau", learning_rate=1e-3, final_learning_rate=1e-6, lr_drop=0.2)
    plateau = Plateau()

    factors = [plateau.end_epoch(stage, 0.5) for _ in range(7)]

    assert factors == pytest.approx([1, 0.2, 0.04, 0.008, 0.0016, 1e-3, 1e-3])


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


@pytest.mark.parametrize(
    ("stage", "margins", "scales"),
    [
        (Stage(margin=0.4, scale=32.0), [0, 0.2, 0.4], [32, 32, 32]),
        (Stage(loss="combined", warmup_scale=16.0), [0, 0.15, 0.3], [16, 40, 64]),
        (Stage(loss="magface"), [0, 0.4, 0.8], [64, 64, 64]),
        (Stage(loss="semi_hard_triplet"), [0, 0.175, 0.35], [None] * 3),
        (Stage(loss="softmax"), [None] * 3, [None] * 3),
        (Stage(loss="distill"), [None] * 3, [None] * 3),
    ],
)
def test_the_margin_of_the_moment_and_the_scale_rise_together(stage, margins, scales):
    stage = replace(stage, margin_warmup_steps=10)

    assert [margin_at(stage, k) for k in (0, 5, 10)] == [m if m is None else pytest.approx(m) for m in margins]
    assert [scale_at(stage, k) for k in (0, 5, 10)] == scales
