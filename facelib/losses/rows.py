"""Operations on the rows of a matrix whose gradients a GPU computes without waiting for the host.

TensorFlow's own gradients of a reduction and of `tf.gather` with `batch_dims` compute a shape on the device, fetch it,
and wait for all that the device has to do. Values and gradients are the same here.
"""

from collections.abc import Callable

import tensorflow as tf


def by_row(reduce: Callable, x):
    """`reduce(x, -1)`.

    Args:
        reduce: `tf.reduce_sum`, `tf.reduce_max` or another function with an axis and `keepdims`.
        x: tensor [..., n].

    Returns:
        Tensor [...].
    """
    return tf.squeeze(reduce(x, -1, keepdims=True), -1)


def places(columns):
    """The place of one value in each row: int64 [B] -> int64 [B, 2], row and column."""
    return tf.stack([tf.range(tf.size(columns, tf.int64), dtype=tf.int64), columns], axis=1)


def at_columns(values, columns):
    """The value in one column of each row.

    Args:
        values: tensor [B, n].
        columns: int64 [B], each from 0 to n - 1.

    Returns:
        Tensor [B].
    """
    return tf.gather_nd(values, places(columns))
