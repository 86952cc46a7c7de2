"""Layers that all backbones share: pixel scaling, fused batch normalisation, PReLU.

Keras 3's BatchNormalization becomes Mul, AddV2 and Rsqrt, which train slower and which no graph tool folds. Its PReLU
becomes Relu, Neg and Mul, for which XNNPACK has no int8 kernel. The layers here compute the same in operations that
train faster and convert well.
"""

import keras
import tensorflow as tf

from facelib.tensorflow_env import has_gpu


@keras.saving.register_keras_serializable(package="face")
class PixelScale(keras.layers.Layer):
    """Scales raw pixels to the range of the network: `y = (x - mean) / std`. The first layer of every backbone.

    Args:
        mean: one number, or three in RGB order, in pixel units (0..255).
        std: one number, or three in RGB order, in pixel units.

    Call: float `[N, H, W, 3]` in 0..255, RGB -> the same shape in the compute dtype.
    """

    def __init__(self, mean=127.5, std=128.0, **kwargs):
        super().__init__(**kwargs)
        self.mean = mean
        self.std = std

    def call(self, images):
        images = tf.cast(images, "float32")  # float16 has too few bits for 0..255 minus 127.5
        return tf.cast(
            (images - tf.constant(self.mean, "float32")) / tf.constant(self.std, "float32"), self.compute_dtype
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "std": self.std}


@keras.saving.register_keras_serializable(package="face")
class FusedBatchNorm(keras.layers.Layer):
    """Batch normalisation over N, H and W with TensorFlow's fused operation.

    `y = gamma * (x - mean) / sqrt(var + epsilon) + beta`. In training `mean` and `var` are those of the batch, and
    `moving = momentum * moving + (1 - momentum) * batch`. In inference, and with `trainable=False`, they are the moving
    ones, as in Keras. The parameters stay float32 under a mixed precision policy.

    Args:
        momentum: share of the moving statistics that each step keeps.
        epsilon: added to the variance. cuDNN needs at least 1.001e-5.

    Attributes:
        workers: a `Workers`, to use the statistics of the images of all workers; None for those of this worker.
        parts: (mean, variance) of each part of a batch so far, from `begin_parts` to `end_parts`; else None.

    Call: float `[N, H, W, C]` -> same.

    Reference: Ioffe & Szegedy, Batch Normalization, https://arxiv.org/abs/1502.03167, algorithm 1.
    """

    def __init__(self, momentum=0.9, epsilon=1e-3, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon
        self.workers = None
        self.parts = None

    def build(self, input_shape):
        # The operation takes float16 activations with float32 parameters, so the parameters are not cast.
        common = {"shape": (input_shape[-1],), "dtype": "float32", "autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **common)
        self.beta = self.add_weight(name="beta", initializer="zeros", **common)
        self.moving_mean = self.add_weight(name="moving_mean", initializer="zeros", trainable=False, **common)
        self.moving_variance = self.add_weight(name="moving_variance", initializer="ones", trainable=False, **common)

    def call(self, x, training=False):
        use_batch = bool(training) and self.trainable
        if use_batch and self.workers:
            return self._over_workers(x, self.workers)
        if use_batch and self.parts is not None:
            y, *statistics = tf.compat.v1.nn.fused_batch_norm(
                x, tensor_of(self.gamma), tensor_of(self.beta), epsilon=self.epsilon, is_training=True
            )
            self.parts.append(statistics)
            return y
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            x, *(tensor_of(v) for v in (self.gamma, self.beta, self.moving_mean, self.moving_variance)),
            epsilon=self.epsilon, is_training=use_batch, exponential_avg_factor=1.0 - self.momentum,
        )  # fmt: skip
        if use_batch:  # the operation has moved them
            self.moving_mean.value.assign(mean, read_value=False)
            self.moving_variance.value.assign(variance, read_value=False)
        return y

    def begin_parts(self):
        """From here on each call has one part of a batch and normalises by it; the moving statistics stay."""
        self.parts = []

    def end_parts(self):
        """Ends `begin_parts`. The moving statistics follow the mean of those of the parts.

        Once for all parts, because parts that are computed at the same time would move them in any order.
        """
        parts, self.parts = self.parts, None
        if parts:
            self._follow(*(tf.add_n(list(values)) / len(parts) for values in zip(*parts, strict=True)))

    def _over_workers(self, x, workers):
        """As the fused operation in training, with mean and variance over the images of all workers.

        The sums go axis by axis, because many short float32 sums are more exact than one of N H W terms. On a CPU
        the variance of TensorFlow's own operation is off by 1e-4 of its value.
        """
        wide, size = tf.cast(x, tf.float32), x.shape[-1]
        count = tf.cast(tf.size(wide) // size, tf.float32)
        sums = [count[None], *(_sum_by_channel(value) for value in (wide, tf.square(wide)))]
        sums = workers.sum(tf.concat(sums, 0), adds_gradients=True)
        count, mean = sums[0], sums[1 : size + 1] / sums[0]
        variance = tf.maximum(sums[size + 1 :] / count - tf.square(mean), 0.0)
        self._follow(tf.stop_gradient(mean), tf.stop_gradient(variance) * count / tf.maximum(count - 1.0, 1.0))
        y = tf.nn.batch_normalization(wide, mean, variance, tensor_of(self.beta), tensor_of(self.gamma), self.epsilon)
        return tf.cast(y, x.dtype)

    def _follow(self, mean, variance):
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving.value * self.momentum + batch * (1.0 - self.momentum))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}


def _sum_by_channel(x):
    for axis in (2, 1, 0):
        x = tf.reduce_sum(x, axis, keepdims=True)  # without it, a GPU would fetch the shape of the gradient
    return tf.reshape(x, [-1])


def tensor_of(variable):
    """The value of a Keras variable, not cast to the compute dtype."""
    return tf.convert_to_tensor(variable.value)


@tf.custom_gradient
def prelu(x, slope):
    """`max(x, slope * x)`, which is PReLU while every slope is at most 1. The form for training.

    On a CPU, XLA turns the element-wise work into one pass forward and one backward. On a GPU it would need CUDA's
    compiler and would compile again for a batch of another size. The gradient of the slope, a sum over N, H and W, is a
    matrix product with a row of ones. It runs on the BLAS threads; TensorFlow's reduction over leading axes is many
    times slower on a CPU. A GPU adds float16 products up in float32.

    Args:
        x: float `[..., C]`.
        slope: float `[C]`, of the same dtype, each at most 1.
    """

    def gradient(upstream):
        dx, dslope, ones = (_prelu_gradient if has_gpu() else _compiled_gradient)(x, slope, upstream)
        return dx, tf.reshape(tf.matmul(ones, dslope), [slope.shape[0]])

    return (_prelu_forward if has_gpu() else _compiled_forward)(x, slope), gradient


def _prelu_forward(x, slope):
    return tf.maximum(x, x * slope)


def _prelu_gradient(x, slope, upstream):
    dslope = tf.reshape(upstream * tf.minimum(x, 0.0), [-1, slope.shape[0]])
    ones = tf.ones([1, tf.size(dslope) // slope.shape[0]], dslope.dtype)
    return tf.where(x > 0.0, upstream, upstream * slope), dslope, ones


_compiled_forward = tf.function(_prelu_forward, jit_compile=True, autograph=False)
_compiled_gradient = tf.function(_prelu_gradient, jit_compile=True, autograph=False)


@keras.saving.register_keras_serializable(package="face")
class AtMostOne(keras.constraints.Constraint):
    """Keeps PReLU slopes at most 1, where `max(x, a * x)` is exact. Trained slopes are far smaller."""

    def __call__(self, slope):
        return keras.ops.minimum(slope, 1.0)


@keras.saving.register_keras_serializable(package="face")
class PReLU(keras.layers.Layer):
    """One learned slope per channel for negative inputs: `y = max(x, a_c * x)` with `a_c <= 1`.

    It converts to int8 as MUL and MAXIMUM, which XNNPACK runs; it does not run a PRELU operation.

    Call: float `[..., C]` -> same.

    Reference: He et al., Delving Deep into Rectifiers, https://arxiv.org/abs/1502.01852, eq. 1.
    """

    def build(self, input_shape):
        self.add_slopes(tuple(input_shape[-1:]))

    def add_slopes(self, shape):
        """Makes the slopes, of a shape that fits the last axes of the input."""
        self.alpha = self.add_weight(
            name="alpha",
            shape=shape,
            initializer=keras.initializers.Constant(0.25),
            constraint=AtMostOne(),
        )

    def call(self, x, training=False):
        slope = tf.cast(tensor_of(self.alpha), x.dtype)
        return prelu(x, slope) if training else tf.maximum(x, x * slope)  # converters know the plain operations

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="face")
class SwapHalves(keras.layers.Layer):
    """Puts the second half of the channels before the first. A layer, because Keras cannot load `x[...]` from an .h5.

    Call: float `[N, H, W, C]`, C even -> same.
    """

    def call(self, x):
        half = x.shape[-1] // 2
        return tf.concat([x[..., half:], x[..., :half]], -1)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="face")
class ChannelSlice(keras.layers.Layer):
    """The channels from `start` to `stop - 1`. A layer, because Keras cannot load `x[...]` from an .h5.

    Args:
        start: first channel.
        stop: the channel after the last one.

    Call: float `[N, H, W, C]` -> `[N, H, W, stop - start]`.
    """

    def __init__(self, start, stop, **kwargs):
        super().__init__(**kwargs)
        self.start = start
        self.stop = stop

    def call(self, x):
        return x[..., self.start : self.stop]

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.stop - self.start)

    def get_config(self):
        return {**super().get_config(), "start": self.start, "stop": self.stop}


def activation(kind, name):
    """Makes an activation layer.

    Args:
        kind: 'prelu', 'relu', 'relu6' or 'leaky_relu' (slope 0.1, which the tables of the K210 hold exactly).
        name: of the layer.
    """
    layers = {
        "prelu": lambda: PReLU(name=name),
        "relu": lambda: keras.layers.ReLU(name=name),
        "relu6": lambda: keras.layers.ReLU(6.0, name=name),
        "leaky_relu": lambda: keras.layers.LeakyReLU(0.1, name=name),
    }
    if kind not in layers:
        raise ValueError(f"activation is one of {', '.join(layers)}. Received: activation={kind!r}")
    return layers[kind]()
