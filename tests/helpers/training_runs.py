"""Trainings of a network of one layer on a few random images, for the tests of the training loop."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np

from face_loss_k import make_head
from facelib.training.recipe.schema import Recipe, Stage
from facelib.training.run_dir import RunDir
from facelib.training.trainer import Trainer

STEPS, BATCH, CLASSES = 3, 4, 5
STAGE = Stage(epochs=2, scale=8.0, margin=0.1, learning_rate=0.05)
RECIPE = Recipe(name="tiny", stage=(STAGE,))
IMAGES = np.random.default_rng(0).integers(0, 256, (STEPS * BATCH, 6, 6, 3), np.uint8)
LABELS = np.random.default_rng(1).integers(0, CLASSES, STEPS * BATCH)


class Records(list):
    """What the trainer asks of the records."""

    meta, num_classes, fingerprint, path = {}, CLASSES, "f", Path("data")
    class_names = tuple(f"person {i}" for i in range(CLASSES))

    def describe(self, i):
        return f"record {i}"


class Data:
    """Batches of IMAGES in order; with `flip` every other image is said to be mirrored; `fails_at` is the global step
    that raises instead."""

    steps_per_epoch, batch_size = STEPS, BATCH

    def __init__(self, fails_at=None, flip=False):
        self.fails_at, self.flip = fails_at, flip
        self.records = Records(LABELS)

    def __len__(self):
        return len(IMAGES)

    def bounds(self, step):
        return step * BATCH, (step + 1) * BATCH

    def stream(self, epoch, step, *, last_epoch):
        for e in range(epoch, last_epoch + 1):
            for s in range(step if e == epoch else 0, STEPS):
                if e * STEPS + s + 1 == self.fails_at:
                    raise OSError(errno.ENOSPC, "full")
                idx = np.arange(*self.bounds(s))
                mirrored = (idx % 2 == 1) & self.flip
                yield SimpleNamespace(
                    images=IMAGES[idx], labels=LABELS[idx], record_idx=idx, epoch=e, step=s, is_flipped=mirrored
                )

    def balanced(self, images_per_identity):
        return self  # two pairs of one identity in each batch would do; the labels of a batch repeat by chance


def evaluation(**accuracies):
    """What an evaluate function returns, for sets of these accuracies."""
    results = [
        SimpleNamespace(name=n, as_dict=lambda a=a: {"acc": a, "acc_std": 0.0, "auc": a, "eer": 0.0, "vr": {}})
        for n, a in accuracies.items()
    ]
    return SimpleNamespace(results=results, table=lambda: "")


def make_embedder():
    """A network of one dense layer, with the same weights each time."""
    keras.utils.set_random_seed(0)
    faces = keras.Input((6, 6, 3), name="input_1")
    x = keras.layers.Flatten(name="flat")(keras.layers.Rescaling(1 / 255, name="scaled")(faces))
    return keras.Model(faces, keras.layers.Dense(4, name="embeddings")(x), name="tiny")


def make_trainer(path, recipe=RECIPE, data=None, evaluate=None, **options):
    """A trainer that writes a checkpoint and a line of metrics after each step."""
    options = {"checkpoint_every": 1, "log_every": 1, "make_head": make_head} | options
    return Trainer(make_embedder(), data or Data(), path, recipe=recipe, evaluate=evaluate, **options)


def fit(*args, **options):
    """Does what one process does: opens the run, trains, and releases the run directory even after an error."""
    made = make_trainer(*args, **options)
    try:
        return made, made.fit()
    finally:
        if isinstance(made.run, RunDir):
            made.run.close()


def lines(path, kind):
    """The lines of one kind in a run's metrics.jsonl, as dicts."""
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]
