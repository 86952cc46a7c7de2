"""Parts of a batch side by side: the step against NumPy and stock Keras, for any number of lanes, and its resume."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from face_loss_k import make_head
from facelib.models.layers import FusedBatchNorm
from facelib.training import stage_setup
from facelib.training.lanes import Lanes
from facelib.training.optimizers import make_optimizer
from facelib.training.recipe.schema import DataConfig, Recipe, Stage, TrainConfig
from facelib.training.step import Objective, make_step
from facelib.training.trainer import Trainer
from facelib.training.weight_update import Updater
from tests.helpers.training_runs import CLASSES, Data, Records
from tests.training.test_step import IMAGES, LABELS, PLAIN, Quadratic, linear_embedder, quadratic

SIDE, CHANNELS, SIZE, EPSILON = 4, 5, 3, 1e-3


def normalised_embedder(norm):
    """A convolution, batch normalisation, and a dense layer, with the same weights each time."""
    rng = np.random.default_rng(4)
    faces = keras.Input((SIDE, SIDE, 3), name="input_1")
    x = keras.layers.Conv2D(CHANNELS, 1, use_bias=False, name="conv")(faces)
    x = norm(x)
    model = keras.Model(faces, keras.layers.Dense(SIZE, use_bias=False, name="embeddings")(keras.layers.Flatten()(x)))
    for variable in (model.get_layer("conv").kernel, model.get_layer("embeddings").kernel):
        variable.assign(rng.normal(size=variable.shape) / 10)
    return model


def images(count):
    return np.random.default_rng(5).integers(0, 9, (count, SIDE, SIDE, 3), np.uint8)


def step_of(model, lanes, variables=None, stage=PLAIN):
    variables = model.trainable_variables if variables is None else variables
    update = Updater(make_optimizer(stage), stage, variables, [0.0] * len(variables), [])
    return make_step(model, Objective(stage, Quadratic(), None, None), update, stage, teacher_size=0, lanes=lanes)


def take(step, pixels, labels):
    one = np.float32(1)
    return step(pixels, labels, np.zeros((len(pixels), 0), np.float32), one, one, np.int32(0))


@pytest.mark.parametrize("lanes", [Lanes(2, 1), Lanes(2, 2), Lanes(4, 2)])
def test_without_batch_normalisation_the_step_is_that_of_the_whole_batch(lanes):
    model, kernel = linear_embedder()
    before = kernel.numpy().astype(float)

    loss, _ = take(step_of(model, lanes, [kernel]), IMAGES[:5], LABELS[:5])

    expected, gradient = quadratic(before, IMAGES[:5], LABELS[:5])
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(kernel.numpy(), before - PLAIN.learning_rate * gradient, rtol=1e-5)


def test_each_part_is_normalised_by_its_own_statistics():
    """Against Keras's batch normalisation, called with one part after another; the gradients too."""
    pixels, labels = images(9), np.arange(9) % 4
    ours = normalised_embedder(FusedBatchNorm(epsilon=EPSILON, name="norm"))
    theirs = normalised_embedder(keras.layers.BatchNormalization(epsilon=EPSILON, name="norm"))
    with tf.GradientTape() as tape:
        parts = [theirs(pixels[a:b].astype("float32"), training=True) for a, b in ((0, 3), (3, 6), (6, 9))]
        expected, _ = Quadratic().loss_and_accuracy(tf.concat(parts, 0), labels)
    gradients = tape.gradient(expected, theirs.trainable_variables)
    before = [v.numpy() for v in ours.trainable_variables]

    loss, _ = take(step_of(ours, Lanes(3, 2)), pixels, labels)

    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    for variable, old, gradient in zip(ours.trainable_variables, before, gradients, strict=True):
        np.testing.assert_allclose(variable.numpy(), old - PLAIN.learning_rate * gradient, rtol=1e-4, atol=1e-6)


def test_the_moving_statistics_follow_the_mean_of_the_parts():
    pixels = images(8)
    model = normalised_embedder(FusedBatchNorm(momentum=0.9, name="norm"))
    maps = pixels.astype(float) @ model.get_layer("conv").kernel.numpy().astype(float)[0, 0]
    halves = maps[:4].reshape(-1, CHANNELS), maps[4:].reshape(-1, CHANNELS)
    mean = np.mean([half.mean(0) for half in halves], 0)
    variance = np.mean([half.var(0, ddof=1) for half in halves], 0)

    take(step_of(model, Lanes(2, 2)), pixels, np.zeros(8, np.int64))

    norm = model.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean.numpy(), 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance.numpy(), 0.9 + 0.1 * variance, rtol=1e-3)


def test_a_frozen_normalisation_uses_its_moving_statistics_and_keeps_them():
    model = normalised_embedder(FusedBatchNorm(name="norm"))
    norm = model.get_layer("norm")
    norm.trainable = False
    expected = model(images(6).astype("float32"), training=False)

    found = Lanes(3, 2).embed(model, tf.constant(images(6), tf.float32), training=True)

    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert norm.moving_mean.numpy().tolist() == [0.0] * CHANNELS


def test_the_number_of_lanes_does_not_change_a_weight():
    weights = []
    for count in (1, 2, 4):
        model = normalised_embedder(FusedBatchNorm(name="norm"))
        step = step_of(model, Lanes(4, count), stage=replace(PLAIN, momentum=0.9, learning_rate=0.1))
        for _ in range(3):
            take(step, images(9), np.arange(9) % 4)
        weights.append(np.concatenate([v.numpy().ravel() for v in model.variables]))

    np.testing.assert_array_equal(weights[1], weights[0])
    np.testing.assert_array_equal(weights[2], weights[0])


PARTS = Recipe(
    name="parts", data=DataConfig(batch_size=16), train=TrainConfig("part", part=8),
    stage=(Stage(epochs=2, scale=8.0, margin=0.1, learning_rate=0.05, ema=0.9, mixup=0.2),),
)  # fmt: skip


class Faces(Data):
    """Two batches of 16 and 15 random faces an epoch."""

    steps_per_epoch, batch_size = 2, 16

    def __init__(self):
        self.records = Records(np.arange(31) % CLASSES)

    def __len__(self):
        return 31

    def balanced(self, images_per_identity):
        return self  # each batch has every identity several times

    def stream(self, epoch, step, *, last_epoch):
        pixels = images(31)
        for e in range(epoch, last_epoch + 1):
            for s in range(step if e == epoch else 0, 2):
                idx = np.arange(16 * s, min(31, 16 * s + 16))
                yield SimpleNamespace(
                    images=pixels[idx], labels=np.array(self.records)[idx], record_idx=idx, epoch=e, step=s,
                    is_flipped=np.zeros(len(idx), bool),
                )  # fmt: skip


def train(path, recipe=PARTS, norm=None, **options):
    norm = norm or FusedBatchNorm(name="norm")
    trainer = Trainer(
        normalised_embedder(norm), Faces(), path, make_head=make_head, recipe=recipe, checkpoint_every=1, **options
    )
    trainer.fit()
    trainer.run.close()
    return trainer


def test_a_training_in_parts_resumes_bitwise(tmp_path):
    keras.utils.set_random_seed(0)
    whole = train(tmp_path / "whole")
    keras.utils.set_random_seed(0)
    train(tmp_path / "two", max_steps=3)

    resumed = train(tmp_path / "two")

    assert resumed.position.global_step == 4
    for ours, theirs in zip(resumed.embedder.variables, whole.embedder.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize(
    "change",
    [
        {"sam": 0.1},
        {"sample_rate": 0.4, "loss_options": {}},
        {"loss": "semi_hard_triplet", "images_per_identity": 2, "scale": None, "margin": 0.3, "mixup": 0.0},
        {"micro_batches": 2},
        {"center_loss": 0.1, "clip_norm": 0.01},
    ],
    ids=lambda change: next(iter(change)),
)
def test_without_batch_normalisation_every_loss_trains_as_on_the_whole_batch(tmp_path, change):
    stage = replace(PARTS.stage[0], **change)
    trained = []
    for train_config in (TrainConfig("part", part=8), TrainConfig()):
        keras.utils.set_random_seed(0)
        recipe = replace(PARTS, train=train_config, stage=(stage,))
        trained.append(train(tmp_path / train_config.batch_norm, recipe, keras.layers.Identity(name="norm")).embedder)

    for in_parts, whole in zip(*(embedder.variables for embedder in trained), strict=True):
        np.testing.assert_allclose(in_parts.numpy(), whole.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("micro_batches, parts", [(1, 2), (2, 1)])
def test_a_micro_batch_is_cut_into_parts(tmp_path, monkeypatch, micro_batches, parts):
    made = []
    monkeypatch.setattr(stage_setup, "make_step", lambda *args: made.append(args[-1]) or make_step(*args))

    train(tmp_path / "run", replace(PARTS, stage=(replace(PARTS.stage[0], micro_batches=micro_batches),)))

    assert [lanes.parts for lanes in made] == [parts]


@pytest.mark.parametrize(
    "train, images, cores, parts, lanes",
    [
        (TrainConfig(), 128, 4, 1, 1),
        (TrainConfig("part"), 128, 4, 8, 4),
        (TrainConfig("part", part=32), 128, 8, 4, 4),  # no more lanes than parts
        (TrainConfig("part", lanes=2), 128, 8, 8, 2),
        (TrainConfig("part"), 12, 8, 1, 1),  # less than a part
    ],
)
def test_parts_come_from_the_recipe_and_lanes_from_the_cores(train, images, cores, parts, lanes):
    assert train.num_parts(images) == parts
    assert train.num_lanes(images, cores) == lanes


TWO_LANES = """
import json, sys
import numpy as np
import facelib
from facelib.tensorflow_env import num_lanes, set_lanes, set_up_tensorflow
set_up_tensorflow(0, "float32", False)
set_lanes(2, 2)
import keras
import tensorflow as tf
from facelib.devices import training_on
from facelib.runtimes.keras_h5 import KerasEmbedder
from facelib.model_input import Io
faces = keras.Input((8, 8, 3), name="input_1")
x = keras.layers.DepthwiseConv2D(3)(keras.layers.Conv2D(8, 3)(faces))
model = keras.Model(faces, keras.layers.Dense(4)(keras.layers.Flatten()(x)))
crops = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
expected = model(crops.astype("float32")).numpy()
expected /= np.linalg.norm(expected, axis=1, keepdims=True)
embedder = KerasEmbedder(model, Io(size=(8, 8)))
errors = [float(np.abs(embedder(crops[:count]) - expected[:count]).max()) for count in (1, 2, 7)]
print(json.dumps([num_lanes(), training_on(), max(errors)]))
"""


def test_a_process_with_lanes_says_so_and_embeds_in_them():
    found = subprocess.run(
        [sys.executable, "-c", TWO_LANES], capture_output=True, text=True, check=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip

    lanes, line, error = json.loads(found.stdout.splitlines()[-1])
    assert (lanes, line) == (2, "training on the CPU, 2 lanes of 1 thread")
    assert error < 1e-6
