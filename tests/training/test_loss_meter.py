"""facelib/training/progress.py: means over images, and the error that names the records of a bad step."""

import math

import numpy as np
import pytest

from facelib.training.loss_meter import LossMeter, NonFiniteLoss


class Records:
    def describe(self, i):
        return f"shard 0 record {i}"


def test_means_are_over_images_not_over_steps():
    meter = LossMeter(Records())
    meter.add(1, np.array([0, 1]), 2, 4.0, 0.5)
    meter.add(2, np.array([2]), 1, 1.0, 1.0)

    assert meter.fetch(epoch=0) == (1.0, 1.0, 3)
    images, means = meter.means()
    assert images == 3
    assert means == pytest.approx({"loss": 3.0, "accuracy": 2 / 3})


def test_nothing_is_fetched_twice():
    meter = LossMeter(Records())
    meter.add(1, np.array([0]), 1, 4.0, 0.5)
    meter.fetch(epoch=0)

    assert meter.fetch(epoch=0) is None
    meter.add(2, np.array([1]), 1, 2.0, 0.5)
    meter.forget()
    assert meter.fetch(epoch=0) is None
    assert meter.means()[1]["loss"] == 4.0


def test_a_new_epoch_has_its_own_means():
    meter = LossMeter(Records())
    meter.add(1, np.array([0]), 1, 4.0, 0.5)
    meter.fetch(epoch=0)

    meter.begin_epoch()

    meter.add(2, np.array([1]), 1, 2.0, 0.25)
    meter.fetch(epoch=1)
    assert meter.means() == (1, {"loss": 2.0, "accuracy": 0.25})


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_names_step_epoch_and_records(loss):
    meter = LossMeter(Records())
    meter.add(6, np.array([1, 2]), 2, 1.0, 0.5)
    meter.add(7, np.array([30, 40, 50, 60, 70]), 5, loss, 0.5)

    with pytest.raises(NonFiniteLoss, match="The loss must stay finite") as caught:
        meter.fetch(epoch=2)

    assert f"Received: {loss} at step 7 (epoch 3), with records 30, 40, 50, 60, 70" in str(caught.value)
    assert "shard 0 record 30" in str(caught.value) and "shard 0 record 70" not in str(caught.value)
    assert meter.sums[0] == 2  # the step before it counts


def test_weights_that_are_not_finite_are_reported_after_the_last_step():
    meter = LossMeter(Records())
    meter.add(3, np.array([5]), 1, 1.0, 0.5)
    meter.fetch(epoch=0)

    error = meter.non_finite("weights", "conv/kernel", epoch=0)

    assert "The weights must stay finite. Received: conv/kernel at step 3 (epoch 1), with records 5" in str(error)
