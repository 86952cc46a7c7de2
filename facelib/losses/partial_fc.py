"""Partial FC: which class centres a worker holds, and which of them one step uses.

An, Deng et al., Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by Partial FC,
https://arxiv.org/abs/2203.15565, section 3: the classes are split over the workers, and a step uses all classes of its
faces and a random share of the other classes.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from facelib.distributed.workers import ONE_WORKER, Workers

_BLOCK = 4096  # classes whose initial centres come from one random generator, on any worker


@dataclass(frozen=True)
class ClassSplit:
    """How the classes of a head are split over the workers.

    Worker w of W holds the classes from `C w // W` to `C (w + 1) // W`.

    Args:
        workers: the processes that train together.
        sample_rate: share of a worker's classes in each step, in (0, 1]; 1 is the exact softmax over all classes.
        seed: decides, with the number of the step, which classes are sampled.
    """

    workers: Workers = ONE_WORKER
    sample_rate: float = 1.0
    seed: int = 0

    @property
    def is_sampled(self) -> bool:
        return self.sample_rate < 1.0

    def bounds(self, num_classes: int) -> tuple[int, int]:
        """First and last + 1 class of this worker."""
        rank, count = self.workers.rank, self.workers.count
        return num_classes * rank // count, num_classes * (rank + 1) // count

    def num_sampled(self, num_classes: int) -> int:
        """The number of classes that this worker draws in a step; without sampling, all that it holds."""
        first, last = self.bounds(num_classes)
        return max(1, int(self.sample_rate * (last - first)))


@dataclass(frozen=True)
class SampledClasses:
    """The classes that a worker has in the softmax of one step: n of them, or all that it holds.

    Args:
        centres: float32 [n * K, D], K sub-centres for each class.
        first: number of the first class that this worker holds.
        num_held: the number of classes that it holds.
        drawn: int64, ascending: the random classes, counted from `first`; None when all classes are used.
        added: int64, ascending: the classes of the faces that are not among `drawn`; None when all classes are used.
            They follow `drawn` in `centres`.
    """

    centres: tf.Tensor
    first: int
    num_held: int
    drawn: tf.Tensor | None = None
    added: tf.Tensor | None = None

    @property
    def classes(self):
        """The classes in the order of `centres`, counted from `first`; only of a sampled head."""
        return tf.concat([self.drawn, self.added], 0)

    def find(self, labels):
        """The index of each label among these classes, -1 for a class of another worker: int64 [B] -> int64 [B]."""
        held_idx = tf.cast(labels, tf.int64) - self.first
        is_held = (held_idx >= 0) & (held_idx < self.num_held)
        if self.drawn is None:
            return tf.where(is_held, held_idx, -1)
        place, is_drawn = _find(self.drawn, held_idx)
        extra, _ = _find(self.added, held_idx)
        return tf.where(is_held, tf.where(is_drawn, place, tf.size(self.drawn, tf.int64) + extra), -1)


def sample_classes(split: ClassSplit, centres, num_classes: int, labels, step) -> SampledClasses:
    """The classes of one step.

    A worker's classes are cut into S equal parts and one class is drawn from each. So every class is equally likely,
    none is drawn twice, and the cost is proportional to S. Then the classes of the faces that were not drawn are added.

    Args:
        split: the worker's share of the classes.
        centres: variable [held classes * K, D].
        num_classes: C, of all workers.
        labels: int64 [B], of all workers' faces.
        step: int64 scalar, the number of the step.
    """
    first, last = split.bounds(num_classes)
    num_held = last - first
    if not split.is_sampled:
        return SampledClasses(tf.convert_to_tensor(centres.value), first, num_held)
    num_drawn = split.num_sampled(num_classes)
    edges = np.arange(num_drawn + 1, dtype=np.int64) * num_held // num_drawn
    key = split.seed * 1_000_003 + split.workers.rank
    kind = tf.int32 if key < 2**31 else tf.int64  # the op reads its seed on the host, where a GPU has only int32
    seed = tf.stack([tf.constant(key, kind), tf.cast(step, kind)])
    share = tf.random.stateless_uniform([num_drawn], seed, dtype=tf.float64)
    drawn = edges[:-1] + tf.cast(share * (edges[1:] - edges[:-1]), tf.int64)
    held_idx = tf.cast(labels, tf.int64) - first
    held_idx = _kept(held_idx, (held_idx >= 0) & (held_idx < num_held))
    added = tf.sort(tf.unique(_kept(held_idx, ~_find(drawn, held_idx)[1]))[0])
    rows = rows_of(tf.concat([drawn, added], 0), centres.shape[0] // num_held)
    return SampledClasses(tf.gather(centres.value, rows), first, num_held, drawn, added)


def rows_of(classes, sub_centres: int):
    """The rows of the centres that belong to `classes`: int64 [n] -> [n * K]."""
    return tf.reshape(classes[:, None] * sub_centres + tf.range(sub_centres, dtype=tf.int64), [-1])


def initial_centres(seed: int, first: int, last: int, width: int, deviation: float = 0.01) -> np.ndarray:
    """The centres of classes `first` to `last` before training: float32 [last - first, width], normal around 0.

    The centre of a class depends on the seed and the class alone, so it is the same for any number of workers.
    """
    rows = np.empty((last - first, width), np.float32)
    for block in range(first // _BLOCK, -(-last // _BLOCK)):
        values = np.random.default_rng([seed, block]).standard_normal((_BLOCK, width), np.float32)
        start, stop = max(first, block * _BLOCK), min(last, (block + 1) * _BLOCK)
        rows[start - first : stop - first] = values[start - block * _BLOCK : stop - block * _BLOCK]
    rows *= np.float32(deviation)
    return rows


def _kept(values, mask):
    """`tf.boolean_mask` of [n], which on a GPU would fetch a size that the host knows."""
    return tf.gather_nd(values, tf.where(mask))


def _find(ascending, values):
    """The position of each value in `ascending`, and whether it is there."""
    place = tf.searchsorted(ascending, values, out_type=tf.int64)
    size = tf.size(ascending, tf.int64)
    found = tf.gather(tf.concat([ascending, [-1]], 0), tf.minimum(place, size))
    return place, found == values
