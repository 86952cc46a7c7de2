"""ArcFace: cosine logits with an additive angular margin, an exact gradient, and no one-hot matrix. Names TensorFlow.

Reference: Deng et al., ArcFace, https://arxiv.org/abs/1801.07698, eq. 3.
"""

import math

import keras
import tensorflow as tf

# Inside the square root of sin = sqrt(1 - cos^2): keeps d(sin)/d(cos) finite at cos = +-1 and of the right sign. At
# this size sin is off by less than 1e-4 within 0.006 degrees of the poles and by nothing float32 can hold elsewhere.
SIN_EPSILON = 1e-8

PAST_PI = ("mirror", "linear", "none")


def cos_plus_margin(cos, margin, past_pi="mirror"):
    """cos(theta + margin) from cos(theta), with a choice of what happens once theta + margin passes pi.

    There cos(theta + margin) would rise again and reward the worst faces. The policies:

    - 'mirror': `-2 - cos(theta + margin)`. Continuous, and strictly decreasing on all of [0, pi].
    - 'linear': `cos(theta) - margin * sin(margin)`, as the original code does. Decreasing, but it jumps by
      `1 - cos(margin) - margin * sin(margin)` where it sets in (-0.117 at margin 0.5).
    - 'none': nothing; cos(theta + margin) itself.

    Args:
        cos: float tensor of any shape, values in [-1, 1].
        margin: radians, Python float or scalar tensor in [0, pi / 2).
        past_pi: one of the three names.

    Returns:
        The shape and dtype of `cos`; value and gradient are finite everywhere, also at cos = +-1.
    """
    if past_pi not in PAST_PI:
        raise ValueError(f"past_pi is one of {', '.join(PAST_PI)}. Received: past_pi={past_pi!r}")
    margin = tf.convert_to_tensor(margin, cos.dtype)
    cos_m, sin_m = tf.cos(margin), tf.sin(margin)
    turned = cos * cos_m - _sin(cos) * sin_m
    if past_pi == "none":
        return turned
    lowest = -cos_m * cos_m - _sin(cos_m) * sin_m  # at theta = pi - margin; -1 but for the epsilon, so no step at all
    beyond = 2.0 * lowest - turned if past_pi == "mirror" else cos - margin * sin_m
    return tf.where(cos > -cos_m, turned, beyond)


def _sin(cos):
    return tf.sqrt(tf.maximum(1.0 - tf.square(cos), 0.0) + SIN_EPSILON)


def unit_rows(x, axis=-1):
    """`x` scaled to unit L2 norm along `axis`; zero vectors stay zero and have a finite gradient."""
    return x * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(x), axis, keepdims=True), 1e-12))


@keras.saving.register_keras_serializable(package="face")
class ArcFace(keras.layers.Layer):
    """Cosine logits with an additive angular margin on the true class.

    `logits[i, j] = scale * cos(theta_ij + margin * [j == label_i])`, where `theta_ij` is the angle between
    embedding i and class centre j. The margin is applied to one column per row by a scatter, so no one-hot
    of num_classes columns is made. The gradient is exact: it includes `sin(theta + m) / sin(theta)`.

    Computes in float32 under any dtype policy: with scale 64, float16 cannot separate cos 0.9995 and 1.

    Args:
        num_classes: number of identities, at least 2.
        margin: angle in radians, in [0, pi/2). Paper: 0.5.
        scale: logit radius s. Paper: 64.
        past_pi: what happens beyond theta + margin = pi; see `cos_plus_margin`.

    Call: `(embeddings float [B, D], labels int [B], margin=None) -> (logits, cosines)`, both float32
        `[B, num_classes]`; `cosines` are without margin and scale, for the accuracy. `margin` overrides the
        layer's, for a warm-up: Python float or scalar tensor.
    """

    def __init__(self, num_classes, margin=0.5, scale=64.0, past_pi="mirror", **kwargs):
        super().__init__(dtype="float32", **{k: v for k, v in kwargs.items() if k != "dtype"})
        if num_classes < 2:
            raise ValueError(f"num_classes is at least 2. Received: num_classes={num_classes}")
        if not 0 <= margin < math.pi / 2:
            raise ValueError(f"margin is an angle in radians, in [0, pi/2). Received: margin={margin}")
        if not scale > 0:
            raise ValueError(f"scale is a positive number. Received: scale={scale}")
        if past_pi not in PAST_PI:
            raise ValueError(f"past_pi is one of {', '.join(PAST_PI)}. Received: past_pi={past_pi!r}")
        self.num_classes = num_classes
        self.margin = margin
        self.scale = scale
        self.past_pi = past_pi

    def build(self, embeddings_shape, labels_shape=None):
        self.centres = self.add_weight(
            name="centres",
            shape=(self.num_classes, embeddings_shape[-1]),
            initializer=keras.initializers.RandomNormal(0, 0.01),
        )

    def call(self, embeddings, labels, margin=None):
        embeddings = unit_rows(tf.cast(embeddings, "float32"))
        centres = unit_rows(tf.convert_to_tensor(self.centres.value))
        cosines = tf.clip_by_value(tf.matmul(embeddings, centres, transpose_b=True), -1.0, 1.0)
        margin = self.margin if margin is None else margin
        target_idx = tf.stack([tf.range(tf.shape(labels)[0]), tf.cast(labels, tf.int32)], axis=1)
        target = cos_plus_margin(tf.gather_nd(cosines, target_idx), margin, self.past_pi)
        logits = self.scale * tf.tensor_scatter_nd_update(cosines, target_idx, target)
        return logits, cosines

    def loss_and_accuracy(self, embeddings, labels, margin):
        """Mean softmax cross-entropy with the margin, and the share of rows nearest to their own centre *without* it.

        With the margin the accuracy starts at 0 and stays low for long, which many take for a failure.

        Args and shapes: as the call. Returns two float32 scalars.
        """
        logits, cosines = self(embeddings, labels, margin=margin)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        nearest = tf.argmax(cosines, axis=1, output_type=tf.int32)
        return loss, tf.reduce_mean(tf.cast(nearest == tf.cast(labels, tf.int32), tf.float32))

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "margin": self.margin,
            "scale": self.scale,
            "past_pi": self.past_pi,
        }
