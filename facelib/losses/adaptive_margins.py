"""Heads whose margin or scale adapts to the training or to each face: CurricularFace, MagFace, AdaFace, AdaCos.

Their running statistics are weights that no gradient reaches, so checkpoints hold them.
"""

import math

import keras
import tensorflow as tf

from facelib.losses.fixed_margins import ArcFace, angle_of, cos_plus_margin
from facelib.losses.margin_head import MarginHead

_LEAST_SCALE = 1.0  # of AdaCos: with two or three classes its formula gives 0 or less, which would invert the loss


@keras.saving.register_keras_serializable(package="face")
class CurricularFace(ArcFace):
    """ArcFace that gives hard classes more weight as the training advances.

    A cosine to another class above `cos(theta_y + m)` counts as `cos_j (t + cos_j)`; t is a running mean of the cosine
    to the target class.

    Args:
        num_classes: number of identities, at least 2.
        margin: m, angle in radians, in [0, pi/2).
        scale: logit radius s.
        past_pi: see `facelib.losses.fixed_margins.cos_plus_margin`.
        momentum: weight of a batch in t. Paper: 0.01.

    Reference: Huang et al., CurricularFace, https://arxiv.org/abs/2004.00288, eq. 8 to 10.
    """

    changes_other_logits = True

    def __init__(self, num_classes, margin=0.5, scale=64.0, past_pi="linear", momentum=0.01, **kwargs):
        super().__init__(num_classes, margin, scale, past_pi, **kwargs)
        self.momentum = momentum

    def build_state(self):
        self.t = self.add_weight(name="t", shape=(), initializer="zeros", trainable=False)

    def other_cosines(self, cosines, with_margin, target_cos, training):
        if training:
            mean = tf.stop_gradient(tf.reduce_mean(target_cos))
            self.t.assign(self.t.value + self.momentum * (mean - self.t.value))
        is_hard = cosines > with_margin[:, None]
        return tf.where(is_hard, cosines * (self.t.value + cosines), cosines)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


@keras.saving.register_keras_serializable(package="face")
class MagFace(MarginHead):
    """ArcFace whose margin grows with the norm a of the raw embedding; the loss also rewards large norms.

    `m(a) = min_margin + (max_margin - min_margin) (a - min_norm) / (max_norm - min_norm)`, with a clipped to
    [min_norm, max_norm]. `regularizer * mean(a / max_norm^2 + 1 / a)` is added to the loss. The norm is trained.

    Args:
        num_classes: number of identities, at least 2.
        min_norm: lower bound of a.
        max_norm: upper bound of a.
        min_margin: radians, the margin at min_norm.
        max_margin: radians, the margin at max_norm.
        regularizer: weight of the second term.
        scale: logit radius s.
        past_pi: see `facelib.losses.fixed_margins.cos_plus_margin`.

    Reference: Meng et al., MagFace, https://arxiv.org/abs/2103.06627, eq. 3 and appendix; the defaults are
    those of its code.
    """

    def __init__(
        self, num_classes, min_norm=10.0, max_norm=110.0, min_margin=0.45, max_margin=0.8, regularizer=35.0,
        scale=64.0, past_pi="linear", **kwargs,
    ):  # fmt: skip
        super().__init__(num_classes, scale, **kwargs)
        self.min_norm, self.max_norm, self.past_pi = min_norm, max_norm, past_pi
        self.min_margin, self.max_margin, self.regularizer_weight = min_margin, max_margin, regularizer

    def apply_margin(self, cos, norms, margin_share, training):
        share = (self._clipped(norms) - self.min_norm) / (self.max_norm - self.min_norm)
        margin = self.min_margin + (self.max_margin - self.min_margin) * share
        return cos_plus_margin(cos, margin * margin_share, self.past_pi)

    def regularizer(self, norms):
        norms = self._clipped(norms)
        return self.regularizer_weight * tf.reduce_mean(norms / self.max_norm**2 + 1.0 / norms)

    def _clipped(self, norms):
        return tf.clip_by_value(norms, self.min_norm, self.max_norm)

    def get_config(self):
        keys = ("min_norm", "max_norm", "min_margin", "max_margin", "past_pi")
        values = {key: getattr(self, key) for key in keys} | {"regularizer": self.regularizer_weight}
        return {**super().get_config(), **values}


@keras.saving.register_keras_serializable(package="face")
class AdaFace(MarginHead):
    """A margin that depends on image quality, measured by the norm of the raw embedding.

    With `z = clip(h (norm - mean) / (std + 0.001), -1, 1)`, from the running mean and deviation of the norms, the
    target logit is `s (cos(theta - m z) - (m + m z))`, with theta - m z clipped to [0.001, pi - 0.001]. The norm is not
    trained.

    Args:
        num_classes: number of identities, at least 2.
        margin: m. Paper: 0.4.
        concentration: h. Paper: 0.333.
        momentum: weight of a batch in the running mean and deviation. Paper: 0.01.
        scale: logit radius s.

    Reference: Kim et al., AdaFace, https://arxiv.org/abs/2204.00964, eq. 13 to 15; the initial mean and deviation are
    those of its code.
    """

    stops_norm_gradient = True
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
        keys = ("margin", "concentration", "momentum")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


@keras.saving.register_keras_serializable(package="face")
class AdaCos(MarginHead):
    """Cosine softmax without a margin, whose scale adapts to the training.

    The scale starts at `sqrt(2) ln(C - 1)`. When `is_dynamic`, each step sets it to
    `ln(B) / cos(min(pi / 4, median theta_y))`, where B is the mean over the batch of the sum of `exp(s cos_j)` over the
    other classes. Otherwise it is constant.

    Args:
        num_classes: C, number of identities, at least 2.
        is_dynamic: whether the scale changes.

    Reference: Zhang et al., AdaCos, https://arxiv.org/abs/1905.00292, eq. 12 and 15.
    """

    changes_other_logits = True

    def __init__(self, num_classes, is_dynamic=True, **kwargs):
        first = math.sqrt(2.0) * math.log(max(num_classes - 1, 2))
        super().__init__(num_classes, **{**kwargs, "scale": first, "warmup_scale": None})
        self.is_dynamic = is_dynamic

    def build_state(self):
        self.scale_now = self.add_weight(name="scale", shape=(), initializer=_constant(self.scale), trainable=False)

    def other_cosines(self, cosines, with_margin, target_cos, training):
        if training and self.is_dynamic:
            scale = self._next_scale(tf.stop_gradient(cosines), tf.stop_gradient(target_cos))
            self.scale_now.assign(tf.maximum(scale, _LEAST_SCALE))
        return cosines

    def _next_scale(self, cosines, target_cos):
        scale = self.scale_now.value
        # ln mean_i sum_{j != y} exp(s cos_ij), without overflow: the target class is taken out of the whole sum.
        whole = self.log_sum_exp(scale * cosines)
        rest = whole + tf.math.log1p(-tf.minimum(tf.exp(scale * target_cos - whole), 1.0 - 1e-6))
        log_b = tf.reduce_logsumexp(rest) - tf.math.log(tf.cast(tf.size(rest), tf.float32))
        ordered = tf.sort(angle_of(target_cos))
        count = tf.size(ordered)
        median = 0.5 * (ordered[(count - 1) // 2] + ordered[count // 2])
        return log_b / tf.cos(tf.minimum(median, math.pi / 4))

    def scale_at(self, margin_share):
        return self.scale_now.value

    def get_config(self):
        return {**super().get_config(), "is_dynamic": self.is_dynamic}


def _constant(value):
    return keras.initializers.Constant(value)
