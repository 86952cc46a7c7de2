"""Heads whose margin or scale follows the training or the face: CurricularFace, MagFace, AdaFace, AdaCos.

What they keep from step to step are weights that no gradient reaches: checkpoints have them. Names TensorFlow.
"""

import math

import keras
import tensorflow as tf

from facelib.losses.fixed_margins import ArcFace, angle_of, cos_plus_margin
from facelib.losses.margin_head import MarginHead

_LEAST_SCALE = (
    1.0  # of AdaCos: with two or three classes its formula reaches 0 and below, which would turn the loss round
)


@keras.saving.register_keras_serializable(package="face")
class CurricularFace(ArcFace):
    """ArcFace that lets hard classes weigh more as the training gets on.

    The cosine of another class that is above `cos(theta_y + m)` counts as `cos_j (t + cos_j)`; t is a running mean of
    the cosine to the own class.

    Args:
        momentum: share of a batch in t. Paper: 0.01.

    Reference: Huang et al., CurricularFace, https://arxiv.org/abs/2004.00288, eq. 8 to 10.
    """

    def __init__(self, num_classes, margin=0.5, scale=64.0, past_pi="linear", momentum=0.01, **kwargs):
        super().__init__(num_classes, margin, scale, past_pi, **kwargs)
        self.momentum = momentum

    def build_state(self):
        self.t = self.add_weight(name="t", shape=(), initializer="zeros", trainable=False)

    def others(self, cosines, turned, target, training):
        if training:
            mean = tf.stop_gradient(tf.reduce_mean(target))
            self.t.assign(self.t.value + self.momentum * (mean - self.t.value))
        is_hard = cosines > turned[:, None]
        return tf.where(is_hard, cosines * (self.t.value + cosines), cosines)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


@keras.saving.register_keras_serializable(package="face")
class MagFace(MarginHead):
    """ArcFace whose margin grows with the norm a of the raw embedding, and that rewards large norms.

    `m(a) = min_margin + (max_margin - min_margin) (a - min_norm) / (max_norm - min_norm)` with a held within the norms,
    and `regularizer * mean(a / max_norm^2 + 1 / a)` on top. The gradient goes through a.

    Reference: Meng et al., MagFace, https://arxiv.org/abs/2103.06627, eq. 3 and appendix; defaults of its code.
    """

    def __init__(
        self, num_classes, min_norm=10.0, max_norm=110.0, min_margin=0.45, max_margin=0.8, regularizer=35.0,
        scale=64.0, past_pi="linear", **kwargs,
    ):  # fmt: skip
        super().__init__(num_classes, scale, **kwargs)
        self.min_norm, self.max_norm, self.past_pi = min_norm, max_norm, past_pi
        self.min_margin, self.max_margin, self.regularizer_weight = min_margin, max_margin, regularizer

    def apply_margin(self, cos, norms, margin_share, training):
        share = (self._held(norms) - self.min_norm) / (self.max_norm - self.min_norm)
        margin = self.min_margin + (self.max_margin - self.min_margin) * share
        return cos_plus_margin(cos, margin * margin_share, self.past_pi)

    def regularizer(self, norms):
        norms = self._held(norms)
        return self.regularizer_weight * tf.reduce_mean(norms / self.max_norm**2 + 1.0 / norms)

    def _held(self, norms):
        return tf.clip_by_value(norms, self.min_norm, self.max_norm)

    def get_config(self):
        names = ("min_norm", "max_norm", "min_margin", "max_margin", "past_pi")
        values = {name: getattr(self, name) for name in names} | {"regularizer": self.regularizer_weight}
        return {**super().get_config(), **values}


@keras.saving.register_keras_serializable(package="face")
class AdaFace(MarginHead):
    """A margin by image quality, for which the norm of the raw embedding stands.

    With `z = clip(h (norm - mean) / (std + 0.001), -1, 1)`, from running mean and deviation of the norms, the own logit
    is `s (cos(theta - m z) - (m + m z))`, theta - m z held within [0.001, pi - 0.001]. No gradient goes through the
    norm.

    Args:
        margin: m. Paper: 0.4.   concentration: h. Paper: 0.333.   momentum: share of a batch in mean and deviation.

    Reference: Kim et al., AdaFace, https://arxiv.org/abs/2204.00964, eq. 13 to 15; start values of its code.
    """

    stops_norms = True
    EPSILON = 1e-3

    def __init__(self, num_classes, margin=0.4, concentration=0.333, momentum=0.01, scale=64.0, **kwargs):
        super().__init__(num_classes, scale, **kwargs)
        self.margin, self.concentration, self.momentum = margin, concentration, momentum

    def build_state(self):
        self.mean = self.add_weight(name="mean", shape=(), initializer=_constant(20.0), trainable=False)
        self.deviation = self.add_weight(name="deviation", shape=(), initializer=_constant(100.0), trainable=False)

    def apply_margin(self, cos, norms, margin_share, training):
        norms = tf.clip_by_value(norms, 1e-3, 100.0)
        if training:
            mean = tf.reduce_mean(norms)
            count = tf.cast(tf.size(norms), tf.float32)
            deviation = tf.sqrt(tf.reduce_sum(tf.square(norms - mean)) / tf.maximum(count - 1.0, 1.0))
            self.mean.assign(self.mean.value + self.momentum * (mean - self.mean.value))
            self.deviation.assign(self.deviation.value + self.momentum * (deviation - self.deviation.value))
        z = self.concentration * (norms - self.mean.value) / (self.deviation.value + self.EPSILON)
        z = tf.clip_by_value(z, -1.0, 1.0)
        margin, limit = self.margin * margin_share, 1.0 - self.EPSILON
        theta = tf.acos(tf.clip_by_value(cos, -limit, limit)) - margin * z
        return tf.cos(tf.clip_by_value(theta, self.EPSILON, math.pi - self.EPSILON)) - (margin + margin * z)

    def get_config(self):
        names = ("margin", "concentration", "momentum")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="face")
class AdaCos(MarginHead):
    """Cosine softmax without a margin, whose scale follows the training.

    It begins at `sqrt(2) ln(C - 1)` and stays there unless `is_dynamic`; else each step sets it to
    `ln(B) / cos(min(pi / 4, median theta_y))`, B the mean over the batch of the sum of `exp(s cos_j)` over other
    classes.

    Reference: Zhang et al., AdaCos, https://arxiv.org/abs/1905.00292, eq. 12 and 15.
    """

    def __init__(self, num_classes, is_dynamic=True, **kwargs):
        first = math.sqrt(2.0) * math.log(max(num_classes - 1, 2))
        super().__init__(num_classes, **{**kwargs, "scale": first, "warmup_scale": None})
        self.is_dynamic = is_dynamic

    def build_state(self):
        self.scale_now = self.add_weight(name="scale", shape=(), initializer=_constant(self.scale), trainable=False)

    def others(self, cosines, turned, target, training):
        if training and self.is_dynamic:
            cosines_, target_ = tf.stop_gradient(cosines), tf.stop_gradient(target)
            scale = self.scale_now.value
            # ln mean_i sum_{j != y} exp(s cos_ij), without overflow: the own class is taken out of the whole sum.
            whole = self.log_sum_exp(scale * cosines_)
            rest = whole + tf.math.log1p(-tf.minimum(tf.exp(scale * target_ - whole), 1.0 - 1e-6))
            log_b = tf.reduce_logsumexp(rest) - tf.math.log(tf.cast(tf.size(rest), tf.float32))
            ordered = tf.sort(angle_of(target_))
            count = tf.size(ordered)
            median = 0.5 * (ordered[(count - 1) // 2] + ordered[count // 2])
            scale = log_b / tf.cos(tf.minimum(median, math.pi / 4))
            self.scale_now.assign(tf.maximum(scale, _LEAST_SCALE))
        return cosines

    def scale_at(self, margin_share):
        return self.scale_now.value

    def get_config(self):
        return {**super().get_config(), "is_dynamic": self.is_dynamic}


def _constant(value):
    return keras.initializers.Constant(value)
