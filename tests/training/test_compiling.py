"""The step compiled by XLA against the plain one, and the choice between the two."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from facelib.losses.registry import make_head
from facelib.models.layers import FusedBatchNorm, PixelScale, PReLU
from facelib.training import compiling
from facelib.training.compiling import CompiledStep, FasterStep, compiled_step
from facelib.training.recipe.schema import Recipe
from facelib.training.stage_setup import StageParts
from tests.helpers.training_runs import BATCH, CLASSES, IMAGES, LABELS, STAGE

SCALAR = [tf.TensorSpec([], tf.float32)]


def small_net():
    """The layers of a MobileFaceNet, one of each, with the same weights each time."""
    keras.utils.set_random_seed(0)
    faces = keras.Input((6, 6, 3), name="input_1")
    x = PReLU(name="prelu")(FusedBatchNorm(name="bn")(keras.layers.Conv2D(8, 3, name="conv")(PixelScale()(faces))))
    x = keras.layers.DepthwiseConv2D(4, use_bias=False, name="global")(x)
    return keras.Model(
        faces, keras.layers.Dense(4, name="embeddings")(keras.layers.Flatten(name="flat")(x)), name="net"
    )


def losses_of(recipe, say=print):
    parts = StageParts(recipe, small_net(), make_head, CLASSES, 0, say=say)
    parts.begin(0)
    no_teacher, one = np.zeros((BATCH, 0), np.float32), np.float32(1)
    return [
        float(parts.step(IMAGES[:BATCH], LABELS[:BATCH], no_teacher, one, one, np.int32(number))[0])
        for number in range(4)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_losses_with_xla_are_those_without(optimizer):
    recipe = Recipe(stage=(replace(STAGE, optimizer=optimizer, loss="arcface"),))

    np.testing.assert_allclose(losses_of(replace(recipe, compile="xla")), losses_of(recipe), rtol=1e-4)


@pytest.mark.slow
def test_a_sampled_head_is_not_left_to_xla_and_that_is_said():
    said = []
    recipe = Recipe(stage=(replace(STAGE, sample_rate=0.5),))

    assert losses_of(replace(recipe, compile="xla"), said.append) == losses_of(recipe)
    assert said == ["compile: without XLA, which needs the number of sampled classes beforehand"]


def test_on_a_cpu_auto_is_the_plain_step():
    step = compiled_step(lambda x: (x,), SCALAR, "auto")

    assert not isinstance(step, FasterStep) and not step._jit_compile


def test_each_compilation_with_xla_is_said_with_its_seconds(monkeypatch):
    clock, said = [0.0], []
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: clock[0])
    step = CompiledStep(timed(clock, 42.0, []), said.append)

    for size in (4, 3, 4, 3):
        step(np.zeros(size))

    assert said == [
        f"compile: the first step with {size} images, including the compilation with XLA, took 42 s" for size in (4, 3)
    ]


def timed(clock, seconds, calls):
    def step(x):
        clock[0] += seconds
        calls.append(seconds)
        return np.sum(x), None

    return step


@pytest.mark.parametrize(("compiled", "word"), [(0.5, "with"), (0.99, "without"), (2.0, "without")])
def test_on_a_gpu_the_first_steps_choose(compiled, word, monkeypatch):
    clock, calls, said = [0.0], [], []
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: clock[0])
    step = FasterStep(timed(clock, 1.0, calls), timed(clock, compiled, calls), said.append)

    found = [float(step(number)[0]) for number in range(20)]

    assert found == list(range(20))  # each call is one step of the training
    assert calls[:4] == [1.0, compiled] * 2
    assert set(calls[12:]) == {min(compiled, 1.0) if word == "with" else 1.0}
    assert len(said) == 1 and said[0].startswith(f"compile = 'auto': {word} XLA (")


def test_a_step_that_xla_refuses_is_taken_without_it():
    said, calls = [], []

    def refuse(x):
        raise tf.errors.InvalidArgumentError(None, None, "no kernel\nmore")

    step = FasterStep(timed([0.0], 1.0, calls), refuse, said.append)

    assert [step(number)[0] for number in range(3)] == [0, 1, 2]
    assert said == ["compile = 'auto': without XLA, which cannot compile this step (no kernel)"]
