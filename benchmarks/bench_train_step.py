"""Measure training steps per second of MobileFaceNet 128: ours, and the same network from stock Keras layers.

    python benchmarks/bench_train_step.py [--steps 20]

Batch 64, 1,000 classes, PReLU, ArcFace, SGD with momentum, float32. Both networks share head, optimizer, loop and data;
only BatchNormalization and PReLU differ. Single steps of the two alternate, because the speed of a shared machine
changes with time. Figures are medians after the warm-up. Limit: `ratio` >= 1.5 on the CPU.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from facelib.cli import run_cli  # noqa: E402
from facelib.tensorflow_env import set_up_tensorflow  # noqa: E402
from facelib.training.recipe.schema import Recipe, Stage  # noqa: E402

BATCH, CLASSES, WARM_UP = 64, 1000, 3
STAGE = Stage(optimizer="sgd", learning_rate=1e-4)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=20, metavar="N", help="measured steps of each network (%(default)s)"
    )
    args = parser.parse_args(argv)
    set_up_tensorflow(
        Recipe().seed, Recipe().precision, Recipe().deterministic
    )  # the environment and precision of a real training, for both
    import keras
    import tensorflow as tf

    networks = {"ours": build_ours(), "stock keras": build_stock()}
    check_same(networks)
    steps = {name: make_step(network) for name, network in networks.items()}
    rng = np.random.default_rng(0)
    images = tf.constant(rng.integers(0, 256, (BATCH, 112, 112, 3)), tf.uint8)
    labels = tf.constant(rng.integers(0, CLASSES, BATCH), tf.int64)
    seconds = {name: [] for name in steps}
    for number in range(WARM_UP + args.steps):
        for name, step in steps.items():
            start = time.perf_counter()
            step(
                images, labels, tf.zeros([BATCH, 0]), tf.constant(1.0), tf.constant(1.0), tf.constant(number, tf.int32)
            )[0].numpy()
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        quartiles = [round(BATCH / s, 1) for s in np.percentile(values, [75, 25])]
        line = {"name": name, "images_per_s": round(BATCH / float(np.median(values)), 1), "quartiles": quartiles}
        print(json.dumps(line))
    print(json.dumps({"ratio": round(float(np.median(seconds["stock keras"]) / np.median(seconds["ours"])), 3)}))
    versions = f"Python {platform.python_version()}, TensorFlow {tf.__version__}, Keras {keras.__version__}"
    print(f"{args.steps} steps of {BATCH}; {os.cpu_count()} cores, {processor()}, {versions}, {time.strftime('%F')}")
    return 0


def build_ours():
    from mobilefacenet import mobilefacenet

    return mobilefacenet()


def build_stock():
    """The same builder with Keras's own layers in the places of ours."""
    from keras import layers

    import facelib.models.blocks
    import facelib.models.layers

    def stock_prelu(name):
        return layers.PReLU(alpha_initializer="zeros", shared_axes=[1, 2], name=name)

    with (
        mock.patch.object(facelib.models.blocks, "FusedBatchNorm", layers.BatchNormalization),
        mock.patch.object(facelib.models.layers, "PReLU", stock_prelu),
    ):
        network = build_ours()
    for layer in network.layers:
        if isinstance(layer, layers.PReLU):
            layer.alpha.assign(np.full(layer.alpha.shape, 0.25, "float32"))
    return network


def check_same(networks) -> None:
    """Both must compute the same: with the weights of one, the other gives the same embeddings."""
    ours, stock = networks.values()
    kinds = [{type(layer) for layer in network.layers} for network in (ours, stock)]
    own = {kind for kind in kinds[0] - kinds[1] if kind.__module__.startswith("facelib")}
    if len(own) != 2 or ours.count_params() != stock.count_params():
        raise RuntimeError(f"the stock network differs by {own} and {stock.count_params()} parameters")
    stock.set_weights([w.reshape(v.shape) for w, v in zip(ours.get_weights(), stock.weights, strict=True)])
    images = np.random.default_rng(1).integers(0, 256, (4, 112, 112, 3)).astype("float32")
    expected = stock(images).numpy()
    np.testing.assert_allclose(ours(images), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def make_step(network):
    """The trainer's own step of an ArcFace stage."""
    from face_loss_k import make_head
    from facelib.training import step
    from facelib.training.optimizers import make_optimizer
    from facelib.training.step import Objective
    from facelib.training.weight_update import Updater, last_layers, weight_decays

    head = make_head("arcface", CLASSES)
    head.build((None, 128), (None,))
    variables = [*network.trainable_variables, *head.trainable_variables]
    optimizer = make_optimizer(STAGE)
    decays = weight_decays(variables, [*last_layers(network), *head.trainable_variables], STAGE)
    update = Updater(optimizer, STAGE, variables, decays, network.variables)
    return step.make_step(network, Objective(STAGE, head, None, None), update, STAGE, teacher_size=0)


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.processor())


if __name__ == "__main__":
    run_cli(main)
