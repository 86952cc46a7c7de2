"""The table, the curves and the warnings of a schedule that is not trained yet, and their picture."""

import cv2
import numpy as np
import pytest

from facelib.reports.schedule_plot import plot_schedule
from facelib.training.recipe.schema import Recipe, Stage
from facelib.training.schedule_view import CURVES, schedule_curves, schedule_warnings, stage_rows

SOFTMAX = Stage(loss="softmax", epochs=1, schedule="constant", learning_rate=0.01, optimizer="adam")
ARC = Stage(
    epochs=4, scale=32.0, warmup_scale=16.0, margin=0.2, margin_warmup_steps=150, learning_rate=0.1, warmup_steps=40
)
STEPS = (10, 75)


def test_the_table_says_each_stage_in_a_row():
    first, second = stage_rows(Recipe(stage=(SOFTMAX, ARC)), STEPS)

    assert first == ("0", "softmax", "adam", "1", "1-10", "0.01", "-", "-")
    assert second[:5] == ("1", "arcface", "adam", "4", "11-310")
    rate, margin, scale = second[5:]
    assert rate.startswith("0.0025, 0.1 at step 40, ") and rate.endswith(" at the end")
    assert (margin, scale) == ("0, from step 151 0.2", "16, from step 151 32")


def test_the_curves_are_those_of_the_training_with_gaps_where_a_stage_has_none():
    curves = schedule_curves(Recipe(stage=(SOFTMAX, ARC)), STEPS)

    assert list(curves) == list(CURVES)
    steps, rates = curves["learning rate"]
    assert (steps[0], steps[-1], rates.max()) == (1, 310, 0.1)
    assert rates[steps <= 10].tolist() == [0.01] * 10
    steps, margins = curves["margin"]
    assert np.isnan(margins[steps <= 10]).all() and not np.isnan(margins[steps > 10]).any()
    assert margins[steps == 11 + 75] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("stage", "warning"),
    [
        (Stage(warmup_steps=300), "stage.0.warmup_steps: the warm-up takes 300 steps, the stage has 200 steps"),
        (Stage(warmup_epochs=2.0), "stage.0.warmup_epochs: the warm-up takes 200 steps"),
        (Stage(margin_warmup_steps=200), "margin_warmup_steps = 200, the stage has 200 steps"),
        (Stage(schedule="step", lr_drop_epochs=(1.0, 2.0, 5.5)), "the drop at 2, 5.5 comes after the end, epoch 2"),
        (Stage(lr_drop_epochs=(1.0,)), "works only with schedule = 'step', and has no effect with 'cosine'"),
        (Stage(schedule="step"), "without lr_drop_epochs"),
        (Stage(schedule="plateau", patience=2), "patience = 2, but the stage has 2 epochs: the rate never drops"),
        (Stage(final_epoch=3.0), "final_epoch = 3 comes after the end, epoch 2"),
        (Stage(schedule="step", lr_drop_epochs=(1.5,), warmup_steps=199, margin_warmup_steps=199), None),
    ],
)  # fmt: skip
def test_what_never_happens_is_a_warning(stage, warning):
    object.__setattr__(stage, "epochs", 2)

    found = schedule_warnings(Recipe(stage=(stage,)), [100])

    assert len(found) == (warning is not None)
    assert warning is None or warning in found[0]


@pytest.mark.parametrize("stages", [(SOFTMAX,), (SOFTMAX, ARC)])
def test_the_picture_has_a_row_for_each_curve_with_numbers(stages):
    curves = schedule_curves(Recipe(stage=stages), STEPS[: len(stages)])

    picture = plot_schedule(curves, [(1, "softmax"), (11, "arcface")][: len(stages)])

    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape[0] == pytest.approx((1 if len(stages) == 1 else 3) * 1.7 * 160, abs=2)
