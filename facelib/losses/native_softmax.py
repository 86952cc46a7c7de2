"""The softmax over many classes, compiled for CPUs: facelib/losses/class_tiles.cc. Names TensorFlow.

A head of 85,742 classes takes half the time of facelib/losses/blockwise_softmax.py's TensorFlow ops, little more than TensorFlow
takes for the three matrix products alone (benchmarks/bench_sampled_head.py --exact).
"""

import os
import sys
from functools import cache
from pathlib import Path

import tensorflow as tf

from facelib.errors import FaceError
from facelib.losses.compile_ops import load_ops

_FEWEST = 4096  # with fewer classes a step has nothing to gain
_LANES = 16  # floats in the widest vector that class_tiles.cc is compiled for


def has_tiles(num_classes: int, size: int | None) -> bool:
    """Whether so many classes, of centres of `size` values, go by tiles: on a CPU, where there is a compiler."""
    return num_classes >= _FEWEST and size is not None and size % _LANES == 0 and _ops() is not None


class Tiles:
    """As `facelib.losses.blockwise_softmax.Blocks`."""

    def __init__(self, x, centres, own, scale):
        self.x, self.centres, self.own = x, centres, own
        values = _ops().class_tiles(x, centres, own, scale, threads=_threads())
        self.log_sum, self.highest, self.pull, *self.kept = values
        self.log_sum.set_shape(own.shape)
        self.highest.set_shape(own.shape)
        self.pull.set_shape(x.shape)

    def gradient(self, weight, of_own):
        by_centres = _ops().class_tiles_gradient(
            self.x, self.centres, self.own, *self.kept, self.log_sum, weight, of_own, threads=_threads()
        )
        by_centres.set_shape(self.centres.shape)
        return weight[:, None] * self.pull, by_centres


@cache
def _ops():
    if tf.config.list_physical_devices("GPU"):
        return None
    try:
        return load_ops(Path(__file__).with_name("class_tiles.cc"))
    except FaceError as error:
        print(f"note: the head of many classes takes about twice the time it could. {error}", file=sys.stderr)
        return None


def _threads() -> int:
    """As many as TensorFlow has for an op."""
    asked = str(tf.config.threading.get_intra_op_parallelism_threads() or os.environ.get("TF_NUM_INTRAOP_THREADS"))
    if asked.isdecimal() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
