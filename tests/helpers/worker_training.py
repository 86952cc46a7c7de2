"""A worker of test_scaling.py: the real training loop on a small net. Kills itself, hard, where it is told to.

python worker_training.py RUN '{"sample_rate": 0.5, "kill": [RANK, STEP], "stop": [RANK, STEP], "freeze": [RANK, WHEN]}'

WHEN is a step, "evaluation", "connect" (after the rendezvous) or "checkpoint".
"""

import copy
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import keras
import numpy as np
import tensorflow as tf

from face_loss_k import make_head
from facelib.distributed.cluster import find_cluster
from facelib.distributed.rendezvous import open_workers
from facelib.models.layers import FusedBatchNorm
from facelib.tensorflow_env import set_up_tensorflow
from facelib.training.recipe.schema import Recipe, Stage
from facelib.training.stop_signals import exit_code
from facelib.training.trainer import Trainer

STEPS, BATCH, CLASSES, EPOCHS = 5, 12, 10, 2
STAGE = Stage(epochs=EPOCHS, optimizer="adamw", scale=8.0, margin=0.1, learning_rate=0.01, ema=0.5, center_loss=0.1)
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, CLASSES, STEPS * BATCH - 2)
IMAGES = np.clip(60 * RNG.normal(size=(CLASSES, 6, 6, 3))[LABELS] + 128 + 30 * RNG.normal(size=(58, 6, 6, 3)), 0, 255)
IMAGES = IMAGES.astype(np.uint8)

NO_RESULTS = SimpleNamespace(results=[], table=lambda: "")


class Records(list):
    meta, num_classes, fingerprint, path = {}, CLASSES, "f", Path("data")
    class_names = tuple(map(str, range(CLASSES)))

    def describe(self, i):
        return f"record {i}"


class Data:
    """The images in an order by epoch; a worker's part of each batch."""

    steps_per_epoch, batch_size, records = STEPS, BATCH, Records(LABELS)

    def __len__(self):
        return len(IMAGES)

    def bounds(self, step):
        return step * len(IMAGES) // STEPS, (step + 1) * len(IMAGES) // STEPS

    def shard(self, rank, count):
        data = copy.copy(self)
        data.rank, data.count = rank, count
        return data

    def balanced(self, images_per_identity):
        return self

    def stream(self, epoch, step, *, last_epoch):
        rank, count = getattr(self, "rank", 0), getattr(self, "count", 1)
        for e in range(epoch, last_epoch + 1):
            order = np.random.default_rng(e).permutation(len(IMAGES))
            for s in range(step if e == epoch else 0, STEPS):
                first, last = self.bounds(s)
                n = last - first
                idx = order[first + n * rank // count : first + n * (rank + 1) // count]
                yield SimpleNamespace(images=IMAGES[idx], labels=LABELS[idx], record_idx=idx, epoch=e, step=s)


class Interrupt(keras.callbacks.Callback):
    """kill: [rank, step], the worker that is gone before that step.   stop: [rank, step], SIGTERM before it.   freeze:
    [rank, step], SIGSTOP before it."""

    def __init__(self, rank, kill=None, stop=None, freeze=None):
        super().__init__()
        self.rank, self.at, self.step = rank, {"SIGKILL": kill, "SIGTERM": stop, "SIGSTOP": freeze}, 0

    def on_train_batch_begin(self, batch, logs=None):
        for name, at in self.at.items():
            if at == [self.rank, self.step]:
                os.kill(os.getpid(), getattr(signal, name))
        self.step += 1


def freeze_before(function, is_it=True):
    """The function, before which this process stops itself."""

    def frozen(*args, **kwargs):
        if is_it:
            os.kill(os.getpid(), signal.SIGSTOP)
        return function(*args, **kwargs)

    return frozen


def make_embedder():
    faces = keras.Input((6, 6, 3), name="input_1")
    x = keras.layers.Rescaling(1 / 128, -1, name="scaled")(faces)
    x = FusedBatchNorm(name="bn")(keras.layers.Conv2D(6, 3, name="conv")(x))
    x = keras.layers.Flatten(name="flat")(keras.layers.ReLU(name="relu")(x))
    return keras.Model(faces, keras.layers.Dense(5, name="embeddings")(x), name="tiny")


def main():
    options = json.loads(sys.argv[2])
    if options.get("loss") == "triplet":
        stage = Stage(epochs=EPOCHS, loss="batch_hard_triplet", images_per_identity=2, norm_penalty=0.01)
        stage = replace(stage, learning_rate=0.01)
    else:
        stage = replace(STAGE, sample_rate=options.get("sample_rate", 1.0), mixup=options.get("mixup", 0.0))
    recipe = Recipe(name="tiny", sync_batch_norm=True, stage=(stage,))
    cluster = find_cluster()
    set_up_tensorflow(recipe.seed, recipe.precision, recipe.deterministic)
    who, when = options.get("freeze", (None, None))
    is_it = cluster.rank == who
    if when == "connect":
        strategy = tf.distribute.MultiWorkerMirroredStrategy
        tf.distribute.MultiWorkerMirroredStrategy = freeze_before(strategy, is_it)
    workers = open_workers(cluster, options.get("join", 120))
    data = Data()
    interrupt = Interrupt(workers.rank, options.get("kill"), options.get("stop"), options.get("freeze"))
    trainer = Trainer(
        make_embedder(), data, Path(sys.argv[1]), make_head=make_head, recipe=recipe, workers=workers,
        checkpoint_every=2, log_every=1, callbacks=[interrupt],
        evaluate=freeze_before(lambda _: NO_RESULTS, is_it) if when == "evaluation" else None,
    )  # fmt: skip
    if when == "checkpoint":
        trainer._save = freeze_before(trainer._save, is_it)
    with workers.naming_losses():
        trainer.fit()
        workers.close()
    return exit_code(trainer.stopped_by)


if __name__ == "__main__":
    from facelib.cli import run_cli

    run_cli(main)
