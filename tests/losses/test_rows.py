"""The operations of rows.py against TensorFlow's own, and their gradients as a GPU would compute them."""

import numpy as np
import pytest
import tensorflow as tf

from facelib.losses.rows import at_columns, by_row
from tests.helpers.gpu_audit import audit, has_gpu_kernels

VALUES = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
COLUMNS = np.array([3, 0, 6, 3, 2])

PAIRS = {
    "sum": (lambda x: by_row(tf.reduce_sum, x), lambda x: tf.reduce_sum(x, -1)),
    "max": (lambda x: by_row(tf.reduce_max, x), lambda x: tf.reduce_max(x, -1)),
    "logsumexp": (lambda x: by_row(tf.reduce_logsumexp, x), lambda x: tf.reduce_logsumexp(x, -1)),
    "columns": (lambda x: at_columns(x, COLUMNS), lambda x: tf.gather(x, COLUMNS, batch_dims=1)),
}


def with_gradient(function):
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32)])
    def compute(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_mean(tf.square(function(x)))
        return y, tape.gradient(y, x)

    return compute


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_tensorflow(name):
    for ours, theirs in zip(*(with_gradient(each)(VALUES) for each in PAIRS[name]), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6)


@pytest.mark.skipif(not has_gpu_kernels(), reason="this TensorFlow has no CUDA kernels")
@pytest.mark.parametrize("name", PAIRS)
def test_a_gpu_fetches_nothing_where_it_would_for_tensorflows(name):
    ours, theirs = (audit(with_gradient(each).get_concrete_function()).fetched for each in PAIRS[name])

    assert not ours and theirs
