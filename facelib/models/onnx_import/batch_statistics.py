"""Restores the statistics of batch normalisation from real faces, without changing what the network computes.

An exporter folds a trained normalisation into the convolution before it, and so loses its statistics. In inference the
function is the same. In training it is another one, because the statistics of the batch replace the lost ones.
"""

import keras
import numpy as np
import tensorflow as tf

from facelib.models.layers import FusedBatchNorm

_BATCH_SIZE = 16


def restore_statistics(model: keras.Model, norms: list[FusedBatchNorm], faces: np.ndarray) -> None:
    """Sets mean and variance of normalisations to those of their inputs, and gamma and beta so that outputs stay.

    Args:
        model: raw pixels in.
        norms: layers of `model`.
        faces: uint8 [N, H, W, 3], RGB, like the faces of the training that follows.
    """
    mean, square = (np.zeros((len(norms),), object) for _ in range(2))
    probe = keras.Model(model.inputs, [norm.input for norm in norms])

    @tf.function(reduce_retracing=True)
    def moments(pixels):
        return [tf.nn.moments(x, (0, 1, 2)) for x in probe(pixels, training=False)]

    for start in range(0, len(faces), _BATCH_SIZE):
        batch = faces[start : start + _BATCH_SIZE]
        share = len(batch) / len(faces)
        for place, pair in enumerate(moments(tf.constant(batch, tf.float32))):
            m, variance = (np.asarray(value, np.float64) for value in pair)
            mean[place] = mean[place] + share * m
            square[place] = square[place] + share * (variance + m**2)
    for norm, m, s in zip(norms, mean, square, strict=True):
        _set_statistics(norm, m, s - m**2)


def _set_statistics(norm: FusedBatchNorm, mean: np.ndarray, variance: np.ndarray) -> None:
    gamma, beta, old_mean, old_variance = (np.asarray(weight, np.float64) for weight in norm.get_weights())
    scale = gamma / np.sqrt(old_variance + norm.epsilon)
    norm.set_weights([
        scale * np.sqrt(variance + norm.epsilon), beta + scale * (mean - old_mean), mean, variance,
    ])  # fmt: skip
