"""Layers of networks that mix convolutions and attention: normalisation over channels, positions, attention.

They keep maps as `[N, H, W, C]` and compute with plain operations, which TFLite, ONNX and Ascend have. Under a mixed
precision policy the sums are in float32.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from facelib.models.layers import tensor_of


@keras.saving.register_keras_serializable(package="face")
class ChannelNorm(keras.layers.Layer):
    """Layer normalisation over the channels of each position: `y = gamma * (x - mean) / sqrt(var + epsilon) + beta`.

    Args:
        epsilon: added to the variance.

    Call: float `[N, H, W, C]` -> same.

    Reference: Ba et al., Layer Normalization, https://arxiv.org/abs/1607.06450.
    """

    def __init__(self, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        common = {"shape": (input_shape[-1],), "dtype": "float32", "autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **common)
        self.beta = self.add_weight(name="beta", initializer="zeros", **common)

    def call(self, x):
        wide = tf.cast(x, tf.float32)
        centred = wide - tf.reduce_mean(wide, -1, keepdims=True)
        variance = tf.reduce_mean(centred * centred, -1, keepdims=True)
        y = centred * tf.math.rsqrt(variance + self.epsilon) * tensor_of(self.gamma) + tensor_of(self.beta)
        return tf.cast(y, x.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="face")
class ChannelScale(keras.layers.Layer):
    """One learned factor per channel: `y = gamma * x`. TFLite has it in the convolution before it.

    Args:
        initial: the factors at the start. A small one makes a deep residual network begin near the identity.

    Call: float `[N, H, W, C]` -> same.

    Reference: Touvron et al., Going deeper with Image Transformers, https://arxiv.org/abs/2103.17239.
    """

    def __init__(self, initial=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.initial = initial

    def build(self, input_shape):
        start = keras.initializers.Constant(self.initial)
        self.gamma = self.add_weight(
            name="gamma", shape=(input_shape[-1],), initializer=start, dtype="float32", autocast=False
        )

    def call(self, x):
        return x * tf.cast(tensor_of(self.gamma), x.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "initial": self.initial}


@keras.saving.register_keras_serializable(package="face")
class FourierPositions(keras.layers.Layer):
    """Adds a learned linear map of sines and cosines of each position: `y = x + waves @ kernel + bias`.

    The waves depend on the size of the map alone, so in a frozen graph the sum is one constant.

    Args:
        num_waves: sines and cosines of the row, and as many of the column; even.

    Call: float `[N, H, W, C]` -> same.

    Reference: Maaz et al., EdgeNeXt, https://arxiv.org/abs/2206.10589.
    """

    def __init__(self, num_waves=32, **kwargs):
        super().__init__(**kwargs)
        self.num_waves = num_waves

    def build(self, input_shape):
        _, height, width, channels = input_shape
        self.waves = position_waves(height, width, self.num_waves)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(2 * self.num_waves, channels),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        )
        self.bias = self.add_weight(name="bias", shape=(channels,), initializer="zeros")

    def call(self, x):
        waves = tf.constant(self.waves.reshape(-1, 2 * self.num_waves), x.dtype)
        kernel, bias = (tf.cast(tensor_of(weight), x.dtype) for weight in (self.kernel, self.bias))
        return x + tf.reshape(tf.matmul(waves, kernel) + bias, [1, *x.shape[1:]])

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "num_waves": self.num_waves}


def position_waves(height, width, num_waves):
    """Sines and cosines of the positions of a map: float32 `[height, width, 2 * num_waves]`.

    Rows and columns count from 1 and are scaled to end at 2 pi. Wave `k` of a row has the phase
    `row / 10000 ** (2 * (k // 2) / num_waves)`; even waves are sines, odd ones cosines. The waves of the row are first.

    Args:
        height: of the map.
        width: of the map.
        num_waves: for each axis; even.
    """
    rates = 10000.0 ** (2 * (np.arange(num_waves) // 2) / num_waves)

    def of_axis(size):
        phase = 2 * math.pi * np.arange(1, size + 1) / (size + 1e-6)
        angles = phase[:, None] / rates
        return np.where(np.arange(num_waves) % 2 == 0, np.sin(angles), np.cos(angles))

    rows = np.broadcast_to(of_axis(height)[:, None], (height, width, num_waves))
    columns = np.broadcast_to(of_axis(width)[None], (height, width, num_waves))
    return np.concatenate([rows, columns], -1).astype(np.float32)


@keras.saving.register_keras_serializable(package="face")
class CrossCovariance(keras.layers.Layer):
    """Cross-covariance attention: channels attend to channels, so the cost grows linearly with the map.

    For each head with the channels `q, k, v [d, H * W]`, whose rows are scaled to unit norm in `q` and `k`:
    `y = softmax(temperature * q k^T) v`. The softmax is over the channels of `k`.

    Args:
        num_heads: divides the channels.

    Call: `[q, k, v]`, each float `[N, H, W, C]` -> same.

    Reference: El-Nouby et al., XCiT, https://arxiv.org/abs/2106.09681.
    """

    def __init__(self, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads

    def build(self, input_shape):
        self.temperature = self.add_weight(
            name="temperature", shape=(self.num_heads,), initializer="ones", dtype="float32", autocast=False
        )

    def call(self, maps):
        q, k, v = maps
        each = q.shape[-1] // self.num_heads
        # With tf.repeat, the host would fetch a shape from the GPU.
        factors = tf.reshape(tf.reshape(tensor_of(self.temperature), [-1, 1]) * tf.ones([1, each]), [-1])
        q = self._heads(tf.cast(_unit(q) * factors, q.dtype))
        k, v = self._heads(tf.cast(_unit(k), k.dtype)), self._heads(v)
        weights = tf.nn.softmax(tf.cast(tf.matmul(q, k, transpose_b=True), tf.float32))
        y = tf.reshape(tf.matmul(tf.cast(weights, v.dtype), v), [-1, maps[0].shape[-1], v.shape[-1]])
        return tf.reshape(tf.transpose(y, [0, 2, 1]), [-1, *maps[0].shape[1:]])

    def _heads(self, x):
        """[N, H, W, C] -> [N * heads, C / heads, H * W]."""
        _, height, width, channels = x.shape
        rows = tf.transpose(tf.reshape(x, [-1, height * width, channels]), [0, 2, 1])
        return tf.reshape(rows, [-1, channels // self.num_heads, height * width])

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}


def _unit(x):
    """Each channel of [N, H, W, C] over all positions, scaled to unit norm; float32."""
    x = tf.cast(x, tf.float32)
    mean = tf.reduce_mean(x * x, [1, 2], keepdims=True)
    return x * tf.math.rsqrt(mean * float(x.shape[1] * x.shape[2]) + 1e-12)
