"""Which class centres a worker holds, and which of them a step looks at. Names TensorFlow.

An, Deng et al., Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by Partial FC,
https://arxiv.org/abs/2203.15565, section 3: the classes are split over the workers, and a step takes all classes of its
faces and a random share of the others.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from facelib.distributed.workers import ONE_WORKER, Workers

_BLOCK = 4096  # classes whose first centres come from one generator, whoever holds them


@dataclass(frozen=True)
class ClassSplit:
    """How a head's classes are split.

    Worker w of W holds classes `C w // W` to `C (w + 1) // W`.

    Args:
        sample_rate: share of a worker's classes in each step, in (0, 1]; 1 is the exact softmax over all.
        seed: with the step's number, what decides which.
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
        """How many of its classes this worker draws a step."""
        first, last = self.bounds(num_classes)
        return max(1, int(self.sample_rate * (last - first)))


@dataclass(frozen=True)
class Columns:
    """The classes that a worker has in a step's softmax.

    centres: float32 [n * K, D], K for each class.   first: number of the worker's first class.   num_held: classes.
    drawn, added: of a sampled head, which of the worker's classes, counted from its first: int64, ascending, without
    repetition, `added` after `drawn` in the order of the columns; else None.
    """

    centres: tf.Tensor
    first: int
    num_held: int
    drawn: tf.Tensor | None = None
    added: tf.Tensor | None = None

    @property
    def classes(self):
        """Which classes, counted from the worker's first; of a sampled head."""
        return tf.concat([self.drawn, self.added], 0)

    def find(self, labels):
        """The column of each label, or -1 for a class that another worker holds: int64 [B] -> int64 [B]."""
        own = tf.cast(labels, tf.int64) - self.first
        is_held = (own >= 0) & (own < self.num_held)
        if self.drawn is None:
            return tf.where(is_held, own, -1)
        place, is_drawn = _find(self.drawn, own)
        extra, _ = _find(self.added, own)
        return tf.where(is_held, tf.where(is_drawn, place, tf.size(self.drawn, tf.int64) + extra), -1)


def draw_columns(split: ClassSplit, centres, num_classes: int, labels, step) -> Columns:
    """The columns of a step.

    One class is drawn of each of S equal parts of the worker's classes, so all are as likely, none comes twice and
    nothing costs more than S; then the classes of the faces are added that are not among them.

    Args:
        centres: variable [held classes * K, D].   labels: int64 [B], of all workers' faces.   step: int64 scalar.
    """
    first, last = split.bounds(num_classes)
    num_held = last - first
    if not split.is_sampled:
        return Columns(tf.convert_to_tensor(centres.value), first, num_held)
    num_drawn = split.num_sampled(num_classes)
    edges = np.arange(num_drawn + 1, dtype=np.int64) * num_held // num_drawn
    seed = tf.stack([tf.constant(split.seed * 1_000_003 + split.workers.rank, tf.int64), step])
    share = tf.random.stateless_uniform([num_drawn], seed, dtype=tf.float64)
    drawn = edges[:-1] + tf.cast(share * (edges[1:] - edges[:-1]), tf.int64)
    own = tf.cast(labels, tf.int64) - first
    own = tf.boolean_mask(own, (own >= 0) & (own < num_held))
    added = tf.sort(tf.unique(tf.boolean_mask(own, ~_find(drawn, own)[1]))[0])
    columns = Columns(None, first, num_held, drawn, added)
    rows = rows_of(columns.classes, centres.shape[0] // num_held)
    return Columns(tf.gather(centres.value, rows), first, num_held, drawn, added)


def rows_of(classes, sub_centres: int):
    """The rows of the centres that belong to `classes`: int64 [n] -> [n * K]."""
    return tf.reshape(classes[:, None] * sub_centres + tf.range(sub_centres, dtype=tf.int64), [-1])


def first_centres(seed: int, first: int, last: int, width: int, deviation: float = 0.01) -> np.ndarray:
    """The centres of classes `first` to `last` before training: float32 [last - first, width], normal around 0.

    A class's centre is a function of (seed, class), so it does not depend on how many workers there are.
    """
    rows = np.empty((last - first, width), np.float32)
    for block in range(first // _BLOCK, -(-last // _BLOCK)):
        values = np.random.default_rng([seed, block]).standard_normal((_BLOCK, width), np.float32)
        start, stop = max(first, block * _BLOCK), min(last, (block + 1) * _BLOCK)
        rows[start - first : stop - first] = values[start - block * _BLOCK : stop - block * _BLOCK]
    rows *= np.float32(deviation)
    return rows


def _find(ascending, values):
    """Where each value stands in `ascending`, and whether it does."""
    place = tf.searchsorted(ascending, values, out_type=tf.int64)
    size = tf.size(ascending, tf.int64)
    found = tf.gather(tf.concat([ascending, [-1]], 0), tf.minimum(place, size))
    return place, found == values
