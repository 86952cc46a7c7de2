"""Fake-quantised layers: they compute as the int8 network will, but their weights stay float32 and can be trained.

Each value is rounded to one of the 256 levels of its range. The gradient passes through as if nothing were rounded
(Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
https://arxiv.org/abs/1712.05877, section 3). `facelib.models.fake_quant_net` folds batch normalisation first.

Targets differ in their scales. ESP-DL has powers of two for both weights and activations, and 0 in the middle.
"""

from dataclasses import dataclass
from functools import reduce

import keras
import numpy as np
import tensorflow as tf

from facelib.models.column_sums import column_kernels, column_shapes
from facelib.models.layers import PixelScale, PReLU


@dataclass(frozen=True)
class Scales:
    """Which scales the int8 network of a target may have.

    Attributes:
        power_of_two: whether a scale is a power of two and 0 is the middle of the levels -128..127. Else a scale is any
            number, and 0 any level.
        per_channel: whether each output channel of a kernel has a scale of its own.
    """

    power_of_two: bool
    per_channel: bool


TARGETS = {
    "tflite": Scales(power_of_two=False, per_channel=True),
    "esp32p4": Scales(power_of_two=True, per_channel=True),
    "esp32s3": Scales(power_of_two=True, per_channel=False),
}


class _Range:
    """The moving range of one tensor: two variables of a layer, and the rounding to their range.

    In training the range moves towards the extremes of each batch. The first batch sets it.
    """

    def __init__(self, layer, momentum, target="tflite"):
        add = {"shape": (), "initializer": "zeros", "trainable": False, "dtype": "float32"}
        self.low, self.high = (layer.add_weight(name=name, **add) for name in ("low", "high"))
        self.momentum, self.scales = momentum, TARGETS[target]

    def follow(self, *tensors):
        lowest = tf.reduce_min([tf.reduce_min(x) for x in tensors])
        highest = tf.reduce_max([tf.reduce_max(x) for x in tensors])
        is_new = tf.equal(self.low.value, self.high.value)
        for bound, seen in ((self.low, lowest), (self.high, highest)):
            moved = bound.value + (1.0 - self.momentum) * (seen - bound.value)
            bound.assign(tf.where(is_new, seen, moved))

    def rounded(self, x):
        # The operation needs low <= 0 <= high, and moves both a little so that 0 is a level.
        low, high = tf.minimum(self.low.value, 0.0), tf.maximum(self.high.value, 1e-6)
        if self.scales.power_of_two:
            low, high = power_of_two_range(low, high)
        return tf.quantization.fake_quant_with_min_max_vars(x, low, high)


def power_of_two_range(low, high):
    """(-128 s, 127 s) with the smallest power of two s that includes low and high; float32 scalars."""
    scale = smallest_power_of_two(tf.maximum(-low / 128.0, high / 127.0))
    return -128.0 * scale, 127.0 * scale


def smallest_power_of_two(x):
    """The smallest power of two that is at least `x` > 0; float32 of any shape. Exact, which tf.pow is not."""
    powers = tf.constant(2.0 ** np.arange(-40, 41), tf.float32)
    smaller = tf.reduce_sum(tf.cast(powers < tf.expand_dims(x, -1), tf.int32), -1)
    return tf.gather(powers, tf.minimum(smaller, 80))


class _HasTarget(keras.layers.Layer):
    """A layer with the argument `target`, a key of `TARGETS`."""

    def __init__(self, *args, target="tflite", **kwargs):
        super().__init__(*args, **kwargs)
        self.target = target

    def get_config(self):
        return {**super().get_config(), "target": self.target}


@keras.saving.register_keras_serializable(package="face")
class FakeQuant(_HasTarget):
    """Rounds its input to 256 levels of its moving range. Call: float32 of any shape -> the same shape.

    Args:
        momentum: share of the range that each step keeps.
        target: a key of `TARGETS`.
    """

    def __init__(self, momentum=0.99, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum

    def build(self, input_shape):
        self.range = _Range(self, self.momentum, self.target)

    def call(self, x, training=False):
        if training:
            self.range.follow(x)
        return self.range.rounded(x)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


@keras.saving.register_keras_serializable(package="face")
class FakeQuantAdd(_HasTarget):
    """A sum as in ESP-DL: its terms and the sum share one scale. Call: list of float32 -> float32, all of one shape."""

    def build(self, input_shape):
        self.range = _Range(self, 0.99, self.target)

    def call(self, inputs, training=False):
        if training:
            self.range.follow(*inputs, reduce(tf.add, inputs))
        return self.range.rounded(reduce(tf.add, map(self.range.rounded, inputs)))

    def compute_output_shape(self, input_shape):
        return input_shape[0]


@keras.saving.register_keras_serializable(package="face")
class FakeQuantPReLU(PReLU):
    """PReLU as in int8: input, product and output share one scale, because MAXIMUM has one scale for all three.

    Args:
        slopes_shape: shape of the slopes, such as (H, W, C) for one a pixel; None for one a channel.
    """

    def __init__(self, slopes_shape=None, **kwargs):
        super().__init__(**kwargs)
        self.slopes_shape = tuple(slopes_shape) if slopes_shape else None

    def build(self, input_shape):
        self.add_slopes(self.slopes_shape or tuple(input_shape[-1:]))
        self.range = _Range(self, 0.99)

    def call(self, x, training=False):
        slope = tf.convert_to_tensor(self.alpha.value)
        if training:
            self.range.follow(x, tf.maximum(x, x * slope))
        x = self.range.rounded(x)
        return self.range.rounded(tf.maximum(x, self.range.rounded(x * slope)))

    def get_config(self):
        return {**super().get_config(), "slopes_shape": self.slopes_shape}


@keras.saving.register_keras_serializable(package="face")
class FakeQuantPixelScale(_HasTarget, PixelScale):
    """`PixelScale` as in int8: pixels have scale 1 and zero point 0, the other ranges follow from mean and std.

    With powers of two the pixels are scaled before the network, which rounds them once.
    """

    def call(self, images):
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        if TARGETS[self.target].power_of_two:
            low, high = power_of_two_range(np.min(-mean / std), np.max((255.0 - mean) / std))
            return tf.quantization.fake_quant_with_min_max_vars((tf.cast(images, "float32") - mean) / std, low, high)
        pixels = tf.quantization.fake_quant_with_min_max_args(tf.cast(images, "float32"), 0.0, 255.0)
        centred = _between(pixels - mean, -mean, 255.0 - mean)
        return _between(centred / std, -mean / std, (255.0 - mean) / std)


def _between(x, low, high):
    return tf.quantization.fake_quant_with_min_max_args(x, float(low.min()), float(high.max()))


def round_kernel(kernel, channel_axes, target="tflite"):
    """Rounds a kernel to int8, symmetrically. The scale is the largest magnitude / 127, or the next power of two.

    Args:
        kernel: float32, of any shape.
        channel_axes: the axes of the output channels. Where the target has scales per channel, values along the other
            axes share a scale; else all values do.
        target: a key of `TARGETS`.
    """
    scales = TARGETS[target]
    shared = [axis for axis in range(len(kernel.shape)) if not scales.per_channel or axis not in channel_axes]
    scale = tf.stop_gradient(tf.maximum(tf.reduce_max(tf.abs(kernel), shared, keepdims=True), 1e-12)) / 127.0
    scale = smallest_power_of_two(scale) if scales.power_of_two else scale
    return kernel + tf.stop_gradient(tf.round(kernel / scale) * scale - kernel)


@keras.saving.register_keras_serializable(package="face")
class FakeQuantConv2D(_HasTarget, keras.layers.Conv2D):
    """A convolution with rounded weights. The bias is not rounded: it has 32 bits in an int8 network."""

    def call(self, x):
        convolved = self.convolution_op(x, round_kernel(tf.convert_to_tensor(self.kernel.value), (3,), self.target))
        return self.activation(tf.nn.bias_add(convolved, tf.convert_to_tensor(self.bias.value)))


@keras.saving.register_keras_serializable(package="face")
class FakeQuantDepthwiseConv2D(_HasTarget, keras.layers.DepthwiseConv2D):
    """A depthwise convolution with rounded weights."""

    def call(self, x):
        kernel = round_kernel(tf.convert_to_tensor(self.kernel.value), (2, 3), self.target)
        convolved = keras.ops.depthwise_conv(
            x, kernel, strides=self.strides, padding=self.padding, dilation_rate=self.dilation_rate
        )
        return self.activation(tf.nn.bias_add(convolved, tf.convert_to_tensor(self.bias.value)))


@keras.saving.register_keras_serializable(package="face")
class FakeQuantGlobalDepthwise(keras.layers.DepthwiseConv2D):
    """A depthwise convolution over the whole map, in the two steps of the int8 network.

    See `facelib.export.int8_graph`. The first batch sets the factor of each channel, which brings the sums
    of its columns to the range of the largest channel.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.columns = _Range(self, 0.99)
        shape = {"shape": (input_shape[-1],), "initializer": "ones", "trainable": False, "dtype": "float32"}
        self.factors = self.add_weight(name="factors", **shape)

    def call(self, x, training=False):
        height, width, channels = x.shape[1:]
        before, between = column_shapes(height, width, channels)
        kernel = tf.convert_to_tensor(self.kernel.value)

        def column_sums(factors):
            first, _ = column_kernels(kernel, factors)
            sums = keras.ops.depthwise_conv(tf.reshape(x, before), round_kernel(first, (2,)), padding="valid")
            return tf.reshape(sums, between)

        if training:
            is_new = tf.equal(self.columns.low.value, self.columns.high.value)
            largest = tf.reduce_max(tf.abs(column_sums(tf.ones(channels))), [0, 1, 2])
            even = tf.clip_by_value(tf.reduce_max(largest) / tf.maximum(largest, 1e-9), 1.0, 1000.0)
            self.factors.assign(tf.where(is_new, even, self.factors.value))
        factors = tf.convert_to_tensor(self.factors.value)
        sums = column_sums(factors)
        if training:
            self.columns.follow(sums)
        _, second = column_kernels(kernel, factors)
        whole = keras.ops.depthwise_conv(self.columns.rounded(sums), second, padding="valid")
        return tf.nn.bias_add(whole, tf.convert_to_tensor(self.bias.value))


@keras.saving.register_keras_serializable(package="face")
class FakeQuantDense(_HasTarget, keras.layers.Dense):
    """A fully connected layer with rounded weights."""

    def call(self, x):
        kernel = round_kernel(tf.convert_to_tensor(self.kernel.value), (1,), self.target)
        return self.activation(tf.matmul(x, kernel) + self.bias)


@keras.saving.register_keras_serializable(package="face")
class FakeQuantAffine(keras.layers.Layer):
    """`gamma * x + beta`: a batch normalisation that is not folded into a convolution.

    Call: float32 [N, H, W, C] -> same.
    """

    def build(self, input_shape):
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")
        self.range = _Range(self, 0.99)

    def call(self, x, training=False):
        scaled = x * tf.convert_to_tensor(self.gamma.value)
        if training:
            self.range.follow(scaled)
        return self.range.rounded(scaled) + tf.convert_to_tensor(self.beta.value)

    def compute_output_shape(self, input_shape):
        return input_shape
