"""Softmax heads whose margin is a number: plain and scaled softmax, ArcFace, CosFace and others. Names TensorFlow."""

import math

import keras
import tensorflow as tf

from facelib.losses.margin_head import MarginHead, sin_of
from facelib.losses.registry import PAST_PI

_COS_LIMIT = 1.0 - 1e-6  # beyond it arccos has no finite slope in float32; it is 0.08 degrees from the pole


def cos_plus_margin(cos, margin, past_pi="mirror"):
    """cos(theta + margin) from cos(theta), with a choice of what happens once theta + margin passes pi.

    There cos(theta + margin) would rise again and reward the worst faces. The policies:

    - 'mirror': `-2 - cos(theta + margin)`. Continuous, and strictly decreasing on all of [0, pi].
    - 'linear': `cos(theta) - margin * sin(margin)`, as the original code does. Decreasing, but it jumps by
      `1 - cos(margin) - margin * sin(margin)` where it sets in (-0.117 at margin 0.5).
    - 'none': nothing; cos(theta + margin) itself.

    Args:
        cos: float tensor of any shape, values in [-1, 1].
        margin: radians in [0, pi / 2), Python float or a tensor that broadcasts.
        past_pi: one of the three names.

    Returns:
        The shape and dtype of `cos`; value and gradient are finite everywhere, also at cos = +-1.
    """
    if past_pi not in PAST_PI:
        raise ValueError(f"past_pi is one of {', '.join(PAST_PI)}. Received: past_pi={past_pi!r}")
    margin = tf.convert_to_tensor(margin, cos.dtype)
    cos_m, sin_m = tf.cos(margin), tf.sin(margin)
    turned = cos * cos_m - sin_of(cos) * sin_m
    if past_pi == "none":
        return turned
    lowest = -cos_m * cos_m - sin_of(cos_m) * sin_m  # at theta = pi - margin; -1 but for the epsilon, so no step at all
    beyond = 2.0 * lowest - turned if past_pi == "mirror" else cos - margin * sin_m
    return tf.where(cos > -cos_m, turned, beyond)


def angle_of(cos):
    """arccos with a finite gradient: values beyond 0.999999 count as that."""
    return tf.acos(tf.clip_by_value(cos, -_COS_LIMIT, _COS_LIMIT))


@keras.saving.register_keras_serializable(package="face")
class Softmax(MarginHead):
    """Logits `<x_i, w_j>`: no normalisation, no scale, and no bias, as MobileFaceNet's author trains its first stage
    (https://github.com/deepinsight/insightface/issues/214). The accuracy is of these logits.
    """

    def __init__(self, num_classes, **kwargs):
        super().__init__(num_classes, scale=1.0, **{k: v for k, v in kwargs.items() if k not in _NOT_OF_SOFTMAX})

    def cosines(self, embeddings, centres):
        """Here inner products, which stand in the place of the cosines everywhere: [B, D], [n, D] -> float32 [B, n]."""
        return tf.matmul(embeddings, centres, transpose_b=True)

    def margin_logits(self, cosines, own, norms, margin_share=1.0, training=False):
        return cosines


_NOT_OF_SOFTMAX = ("scale", "sub_centres", "interclass_filtering", "warmup_scale")


@keras.saving.register_keras_serializable(package="face")
class MarginSoftmax(Softmax):
    """Softmax whose own probability p counts as `(p^power + share * p) / 2`, the margin softmax of Keras_insightface.

    As there, the result is normalised to sum 1 again before the cross-entropy. With a warm-up, p turns into it
    linearly.

    Reference: https://github.com/leondgarse/Keras_insightface, losses.py, margin_softmax.
    """

    def __init__(self, num_classes, power=2.0, share=0.4, **kwargs):
        super().__init__(num_classes, **kwargs)
        self.power, self.share = power, share

    def margin_logits(self, cosines, own, norms, margin_share=1.0, training=False):
        log_p = cosines - self.log_sum_exp(cosines, adds_gradients=True)[:, None]
        target = self._own(log_p, own)
        # log(p (1 - w) + w (p^power + share p) / 2), with one p taken out: it may be far below float32's smallest.
        kept = (1.0 - margin_share) + margin_share * 0.5 * (tf.exp((self.power - 1.0) * target) + self.share)
        return self.put_own(log_p, own, target + tf.math.log(kept + 1e-12))

    def get_config(self):
        return {**super().get_config(), "power": self.power, "share": self.share}


@keras.saving.register_keras_serializable(package="face")
class ScaleSoftmax(MarginHead):
    """Logits `s cos(theta_ij)`: normalised softmax without a margin.

    Reference: Wang et al., NormFace, https://arxiv.org/abs/1704.06369, eq. 5.
    """


@keras.saving.register_keras_serializable(package="face")
class ArcFace(MarginHead):
    """Cosine logits with an additive angular margin on the true class.

    `logits[i, j] = scale * cos(theta_ij + margin * [j == label_i])`, where `theta_ij` is the angle between embedding i
    and class centre j. The gradient is exact: it includes `sin(theta + m) / sin(theta)`.

    Args:
        num_classes: number of identities, at least 2.
        margin: angle in radians, in [0, pi/2). Paper: 0.5.
        scale: logit radius s. Paper: 64.
        past_pi: what happens beyond theta + margin = pi; see `cos_plus_margin`.

    Call and the other arguments: `facelib.losses.margin_head.MarginHead`.

    Reference: Deng et al., ArcFace, https://arxiv.org/abs/1801.07698, eq. 3.
    """

    def __init__(self, num_classes, margin=0.5, scale=64.0, past_pi="mirror", **kwargs):
        super().__init__(num_classes, scale, **kwargs)
        if not 0 <= margin < math.pi / 2:
            raise ValueError(f"margin is an angle in radians, in [0, pi/2). Received: margin={margin}")
        if past_pi not in PAST_PI:
            raise ValueError(f"past_pi is one of {', '.join(PAST_PI)}. Received: past_pi={past_pi!r}")
        self.margin, self.past_pi = margin, past_pi

    def apply_margin(self, cos, norms, margin_share, training):
        return cos_plus_margin(cos, self.margin * margin_share, self.past_pi)

    def get_config(self):
        return {**super().get_config(), "margin": self.margin, "past_pi": self.past_pi}


@keras.saving.register_keras_serializable(package="face")
class CosFace(MarginHead):
    """Logits `s (cos(theta_ij) - margin [j == label_i])`.

    Reference: Wang et al., CosFace, https://arxiv.org/abs/1801.09414, eq. 4. Its margin 0.35 is that of its section 4.
    """

    def __init__(self, num_classes, margin=0.35, scale=64.0, **kwargs):
        super().__init__(num_classes, scale, **kwargs)
        self.margin = margin

    def apply_margin(self, cos, norms, margin_share, training):
        return cos - self.margin * margin_share

    def get_config(self):
        return {**super().get_config(), "margin": self.margin}


@keras.saving.register_keras_serializable(package="face")
class CombinedMargin(MarginHead):
    """The three margins at once: own logit `s (psi(margin1 theta + margin2) - margin3)`.

    psi is the cosine, continued past every multiple k of pi as `(-1)^k cos - 2k`: continuous and decreasing (Liu et
    al., SphereFace, https://arxiv.org/abs/1704.08063, eq. 7).

    Reference: Deng et al., ArcFace, https://arxiv.org/abs/1801.07698, eq. 4; its 1.0, 0.3, 0.2 are of its table 2.
    """

    def __init__(self, num_classes, margin1=1.0, margin2=0.3, margin3=0.2, scale=64.0, **kwargs):
        super().__init__(num_classes, scale, **kwargs)
        self.margin1, self.margin2, self.margin3 = margin1, margin2, margin3

    def apply_margin(self, cos, norms, margin_share, training):
        angle = (1.0 + (self.margin1 - 1.0) * margin_share) * angle_of(cos) + self.margin2 * margin_share
        turns = tf.floor(angle / math.pi)
        sign = 1.0 - 2.0 * tf.math.floormod(turns, 2.0)
        return sign * tf.cos(angle) - 2.0 * turns - self.margin3 * margin_share

    def get_config(self):
        margins = {"margin1": self.margin1, "margin2": self.margin2, "margin3": self.margin3}
        return {**super().get_config(), **margins}


@keras.saving.register_keras_serializable(package="face")
class AirFace(MarginHead):
    """Logits linear in the angle: `s (pi - 2 (theta_ij + margin [j == label_i])) / pi`.

    As in the paper, of every class; Keras_insightface leaves the other classes at their cosine.

    Reference: Li et al., AirFace, https://arxiv.org/abs/1907.12256, eq. 4.
    """

    def __init__(self, num_classes, margin=0.4, scale=64.0, **kwargs):
        super().__init__(num_classes, scale, **kwargs)
        self.margin = margin

    def apply_margin(self, cos, norms, margin_share, training):
        return 1.0 - 2.0 * (angle_of(cos) + self.margin * margin_share) / math.pi

    def others(self, cosines, turned, target, training):
        return 1.0 - 2.0 * angle_of(cosines) / math.pi

    def get_config(self):
        return {**super().get_config(), "margin": self.margin}
