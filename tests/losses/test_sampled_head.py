"""A head that uses a share of its classes in each step: which are drawn, and a training with it."""

import errno
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from facelib.distributed.workers import Workers
from facelib.losses.partial_fc import ClassSplit, initial_centres, sample_classes
from tests.helpers.training_runs import RECIPE, STAGE, STEPS, Data, fit, lines


def draw(split, num_classes, labels, step=0, sub_centres=1):
    first, last = split.bounds(num_classes)
    values = np.arange((last - first) * sub_centres * 2, dtype=np.float32).reshape(-1, 2)
    labels = tf.constant(labels, tf.int64)
    return sample_classes(split, keras.Variable(values), num_classes, labels, tf.constant(step, tf.int64)), values


@pytest.mark.slow
@given(
    num_classes=st.integers(3, 400),
    rate=st.floats(0.001, 0.999),
    count=st.integers(1, 3),
    seed=st.integers(0, 2**31),
    sub_centres=st.integers(1, 3),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_sample_has_all_classes_of_the_faces_once_and_finds_them(num_classes, rate, count, seed, sub_centres, data):
    labels = np.array(data.draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=20)))
    seen = []
    for rank in range(count):
        split = ClassSplit(Workers(rank, count), rate, seed)
        first, last = split.bounds(num_classes)
        sampled, values = draw(split, num_classes, labels, step=seed % 7, sub_centres=sub_centres)
        classes = sampled.classes.numpy()
        here = np.unique(labels[(labels >= first) & (labels < last)]) - first
        assert len(set(classes)) == len(classes) and classes.min() >= 0 and classes.max() < last - first
        assert set(here) <= set(classes)
        assert len(sampled.drawn) == split.num_sampled(num_classes)
        rows = values.reshape(last - first, sub_centres, 2)[classes]
        np.testing.assert_array_equal(sampled.centres.numpy(), rows.reshape(-1, 2))
        for label, place in zip(labels, sampled.find(tf.constant(labels)).numpy(), strict=True):
            assert classes[place] + first == label if first <= label < last else place == -1
        seen += (first + classes).tolist()
    assert set(labels) <= set(seen)


@pytest.mark.slow
def test_every_class_is_as_likely_and_a_step_decides_the_draw():
    split = ClassSplit(sample_rate=0.3, seed=3)
    draws = [draw(split, 11, [0], step)[0].drawn.numpy() for step in range(3000)]
    np.testing.assert_array_equal(draws[5], draw(split, 11, [0], 5)[0].drawn.numpy())
    counts = np.bincount(np.concatenate(draws), minlength=11) / 3000
    assert np.abs(counts - 3 / 11).max() < 4 * np.sqrt(0.3 * 0.7 / 3000) + 0.07  # parts of 3 and 4 classes
    assert not np.array_equal(draws[5], draw(replace(split, seed=4), 11, [0], 5)[0].drawn.numpy())


def test_classes_beyond_float32_and_int32_are_exact():
    sampled = sample_classes(ClassSplit(), keras.Variable(np.zeros((2, 2), np.float32)), 2, tf.constant([0]), 0)
    far = replace(sampled, first=2**40 + 1, num_held=2**40)
    assert far.find(tf.constant([2**40 + 1, 2**40 + 2**25 + 2, 2**40], tf.int64)).numpy().tolist() == [0, 2**25 + 1, -1]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_initial_centres_do_not_depend_on_the_workers(count):
    whole = initial_centres(7, 0, 10_000, 3)
    parts = [initial_centres(7, *ClassSplit(Workers(rank, count)).bounds(10_000), 3) for rank in range(count)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.std() == pytest.approx(0.01, rel=0.02) and abs(whole.mean()) < 3e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        replace(STAGE, sample_rate=0.5),
        replace(STAGE, sample_rate=0.5, optimizer="adamw", learning_rate=0.01),
        replace(STAGE, sample_rate=0.4, loss="curricularface", mixup=0.5, micro_batches=2),
    ],
    ids=["sgd", "adamw", "curricularface, mixup, in parts"],
)
def test_a_sampled_training_learns_and_resumes_as_if_never_stopped(tmp_path, stage):
    recipe = replace(RECIPE, deterministic=True, stage=(replace(stage, epochs=6), replace(stage, optimizer=None)))
    whole, is_complete = fit(tmp_path / "whole", recipe)
    with pytest.raises(OSError) as failure:
        fit(tmp_path / "run", recipe, Data(fails_at=4 * STEPS + 2))
    assert failure.value.errno == errno.ENOSPC
    resumed, _ = fit(tmp_path / "run", recipe)

    assert is_complete
    losses = [line["loss"] for line in lines(tmp_path / "whole", "step")]
    assert losses == [line["loss"] for line in lines(tmp_path / "run", "step")]
    for name, variable in whole.parts.variables().items():
        np.testing.assert_array_equal(resumed.parts.variables()[name].numpy(), variable.numpy(), err_msg=name)
    if not stage.mixup:
        assert np.mean(losses[-STEPS:]) < 0.9 * np.mean(losses[:STEPS])
