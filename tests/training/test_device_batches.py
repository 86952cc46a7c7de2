"""Batches that are copied ahead to a GPU; here to the CPU, in place of one."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from facelib.training import device_batches
from facelib.training.device_batches import AHEAD, copied_ahead
from tests.helpers.training_runs import RECIPE, STEPS, Data, fit, lines


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(device_batches, "has_gpu", lambda: True)
    monkeypatch.setattr(device_batches, "_DEVICE", "CPU:0")


def batches_of(count, log, fails_at=None):
    """Batches whose values are their numbers; `log` gets each number, and 'closed' at the end."""
    try:
        for step in range(count):
            if step == fails_at:
                raise OSError("unreadable")
            log.append(step)
            number = np.full(2, step)
            images = np.full((2, 3, 3, 3), step, np.uint8)
            yield SimpleNamespace(images=images, labels=number, record_idx=number, is_flipped=number > 0, step=step)
    finally:
        log.append("closed")


def test_on_a_cpu_the_batches_are_not_touched():
    batches = batches_of(1, [])

    assert copied_ahead(batches) is batches


def test_the_batches_are_the_same_ones_as_bytes_on_the_device(on_gpu):
    log = []

    found = list(copied_ahead(batches_of(5, log)))

    assert log == [0, 1, 2, 3, 4, "closed"]
    for step, batch in enumerate(found):
        assert isinstance(batch.images, tf.Tensor) and batch.images.dtype == tf.uint8
        assert batch.step == step and len(batch.labels) == 2
        for values in (batch.images, batch.labels, batch.record_idx):
            assert np.unique(values) == step


def test_a_few_batches_are_read_ahead_and_those_left_are_given_up(on_gpu):
    log = []
    ahead = copied_ahead(batches_of(100, log))

    next(ahead)
    ahead.close()

    assert log[-1] == "closed" and len(log) - 1 <= 1 + AHEAD
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("copy")]


def test_an_error_of_a_batch_comes_in_its_place(on_gpu):
    log, found = [], []

    with pytest.raises(OSError, match="unreadable"):
        found += (batch.step for batch in copied_ahead(batches_of(5, log, fails_at=2)))

    assert found == [0, 1] and log == [0, 1, "closed"]


@pytest.mark.slow
def test_a_training_with_batches_on_the_device_is_the_same_one_and_resumes_exactly(tmp_path, on_gpu, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(device_batches, "has_gpu", lambda: False)
        fit(tmp_path / "cpu")
    with pytest.raises(OSError):
        fit(tmp_path / "gpu", data=Data(fails_at=STEPS + 2))

    _, is_complete = fit(tmp_path / "gpu", RECIPE)

    assert is_complete
    cpu, gpu = ([(x["step"], x["loss"]) for x in lines(tmp_path / name, "step")] for name in ("cpu", "gpu"))
    assert gpu == cpu
