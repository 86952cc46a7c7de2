"""Measure the training speed of MobileFaceNet 128 in four variants: three with our layers, one with stock Keras layers.

    python benchmarks/bench_train_step.py [--rounds 3] [--steps 10] [--batch 64] [--part 16] [--shares]

All variants run on the CPU, with 1,000 classes, PReLU, ArcFace, SGD with momentum and float32. Head, optimizer, loop
and data are the same:

    lanes          parts of 16 images side by side, one on each core (train.batch_norm = "part")
    whole batch    all cores on one operation (train.batch_norm = "batch")
    convolutions   as whole batch, without matrix products for 1x1 convolutions
    stock keras    the same network with Keras's BatchNormalization, PReLU and Conv2D

Each variant runs in its own process, because all networks of a process share TensorFlow's threads. The variants run
their steps in turn, because the speed of a shared machine changes with time. Figures are medians after the warm-up.
Limits on the CPU: `whole batch` at least 1.5 x `stock keras`, `lanes` at least 1.3 x `convolutions`.

For comparison, arcface_torch's MobileFaceNet with torch.compile and channels last reached 89 to 99.5 images/s, and
`convolutions` reached 98 (two cores of an AMD EPYC with AVX-512, PyTorch 2.13, 2026-11-27, batch 64):

    net = torch.compile(get_mbf(fp16=False, num_features=128).to(memory_format=torch.channels_last))

With --shares, TensorFlow's profiler measures the time of each kind of operation, added up over all threads. The script
prints each time as a share of the sum of all times.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import machine, peak_memory, versions  # noqa: E402
from facelib.cli import run_cli  # noqa: E402
from facelib.machine import cores  # noqa: E402
from facelib.tensorflow_env import quiet_tensorflow, set_lanes, set_up_tensorflow  # noqa: E402
from facelib.training.recipe.schema import DataConfig, Recipe, Stage, TrainConfig  # noqa: E402

CLASSES, WARM_UP = 1000, 3
STAGE = Stage(optimizer="sgd", learning_rate=1e-4)
VARIANTS = ("lanes", "whole batch", "convolutions", "stock keras")


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=3, metavar="N", help="processes per variant, one after another (%(default)s)")
    add("--steps", type=int, default=10, metavar="N", help="measured steps per process (%(default)s)")
    add("--batch", type=int, default=64, metavar="N", help="images per step (%(default)s)")
    add("--part", type=int, default=16, metavar="N", help="images per part, for `lanes` (%(default)s)")
    add("--shares", action="store_true", help="also print which share of a step each kind of operation takes")
    args = parser.parse_args(argv)
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    peaks: dict[str, int] = dict.fromkeys(VARIANTS, 0)
    shares: dict[str, dict[str, float]] = {}
    for _ in range(args.rounds):
        for name in VARIANTS:
            found, peaks[name], shares[name] = measure_alone(name, args)
            seconds[name] += found
    for name, values in seconds.items():
        quartiles = [round(args.batch / s, 1) for s in np.percentile(values, [75, 25])]
        rate = round(args.batch / float(np.median(values)), 1)
        print(json.dumps({"name": name, "images_per_s": rate, "quartiles": quartiles, "peak_mb": peaks[name] >> 20}))
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    ratios = {
        "lanes / convolutions": medians["convolutions"] / medians["lanes"],
        "lanes / stock keras": medians["stock keras"] / medians["lanes"],
        "whole batch / stock keras": medians["stock keras"] / medians["whole batch"],
    }
    print(json.dumps({name: round(ratio, 2) for name, ratio in ratios.items()}))
    for name in VARIANTS if args.shares else ():
        print(json.dumps({"name": name, "shares": shares[name]}))
    quiet_tensorflow()
    print(f"{args.rounds} x {args.steps} steps of {args.batch}; {machine()}, {versions()}")
    return 0


def measure_alone(name: str, args: argparse.Namespace) -> tuple[list[float], int, dict[str, float]]:
    """`measure` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(measure, name, args).result()


def measure(name: str, args: argparse.Namespace) -> tuple[list[float], int, dict[str, float]]:
    """(seconds of each step, bytes of memory at most, with --shares the parts of a step) of one variant."""
    train = TrainConfig("part", args.part) if name == "lanes" else TrainConfig()
    recipe = Recipe(data=DataConfig(args.batch), train=train, stage=(STAGE,))
    set_up_tensorflow(recipe.seed, recipe.precision, recipe.deterministic)
    set_lanes(recipe.num_lanes(cores()), cores())
    take = make_step(recipe, name)
    seconds = [take() for _ in range(WARM_UP + args.steps)][WARM_UP:]
    return seconds, peak_memory() or 0, shares_of(take) if args.shares else {}


def make_step(recipe: Recipe, name: str) -> Callable[[], float]:
    """A function that takes one step of the trainer and returns its seconds."""
    import tensorflow as tf

    from face_loss_k import make_head
    from facelib.training import stage_setup

    network = build_ours()
    if name == "stock keras":
        ours, network = network, build_stock()
        check_same(ours, network)
    with mock.patch.object(stage_setup, "use_products", *([] if name in VARIANTS[:2] else [lambda model: None])):
        parts = stage_setup.StageParts(recipe, network, make_head, CLASSES, 0, batch_size=recipe.data.batch_size)
    parts.begin(0)
    rng, batch = np.random.default_rng(0), recipe.data.batch_size
    images = tf.constant(rng.integers(0, 256, (batch, 112, 112, 3)), tf.uint8)
    labels = tf.constant(rng.integers(0, CLASSES, batch), tf.int64)
    none, one, number = tf.zeros([batch, 0]), tf.constant(1.0), tf.constant(0, tf.int32)

    def take() -> float:
        start = time.perf_counter()
        parts.step(images, labels, none, one, one, number)[0].numpy()
        return time.perf_counter() - start

    return take


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


def check_same(ours, stock) -> None:
    """Both must compute the same: with the weights of one, the other gives the same embeddings."""
    kinds = [{type(layer) for layer in network.layers} for network in (ours, stock)]
    own = {kind for kind in kinds[0] - kinds[1] if kind.__module__.startswith("facelib")}
    if len(own) != 2 or ours.count_params() != stock.count_params():
        raise RuntimeError(f"the stock network differs by {own} and {stock.count_params()} parameters")
    stock.set_weights([w.reshape(v.shape) for w, v in zip(ours.get_weights(), stock.weights, strict=True)])
    images = np.random.default_rng(1).integers(0, 256, (4, 112, 112, 3)).astype("float32")
    expected = stock(images).numpy()
    np.testing.assert_allclose(ours(images), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def shares_of(take: Callable[[], float]) -> dict[str, float]:
    """The share of each kind of operation in a step, in percent."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        take()
        tf.profiler.experimental.stop()
        space = xplane_pb2.XSpace.FromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    totals: Counter[str] = Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                if kind := kind_of(plane.event_metadata[event.metadata_id].name):
                    totals[kind] += event.duration_ps
    return {kind: round(100 * total / totals.total(), 1) for kind, total in totals.most_common()}


def kind_of(event: str) -> str:
    """The kind of an operation from "node name:operation", as the profiler names it; '' for other events."""
    node, colon, operation = event.rpartition(":")
    if not colon or operation == "Run" or operation.startswith("__inference"):  # what holds all the others
        return ""
    if operation == "ExecuteAsyncOnStream":
        return "PReLU"
    is_backward = "gradient_tape" in node
    if "Depthwise" in operation:
        return "depthwise convolution"
    if "BackpropFilter" in operation or ("MatMul" in operation and is_backward and "MatMul_1" in node):
        return "convolution, by weights"
    if "BackpropInput" in operation or ("MatMul" in operation and is_backward):
        return "convolution, by data"
    if "Conv2D" in operation or "MatMul" in operation:
        return "convolution, forward"
    return "batch normalisation" if "BatchNorm" in operation else "rest"


if __name__ == "__main__":
    run_cli(main)
