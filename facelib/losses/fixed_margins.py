"""Softmax heads with a constant margin or none: ArcFace, CosFace, combined, AirFace, plain and scaled softmax."""

import math

import keras
import tensorflow as tf

from facelib.losses.margin_head import MarginHead, sin_of
from facelib.losses.registry import PAST_PI

_COS_LIMIT = 1.0 - 1e-6  # beyond it arccos has no finite slope in float32; it is 0.08 degrees from the pole


def cos_plus_margin(cos, margin, past_pi="mirror"):
    """cos(theta + margin) from cos(theta), with a choice of what follows when theta + margin passes pi.

    Beyond pi, cos(theta + margin) would rise again and reward the worst faces. The policies:

    - 'mirror': `-2 - cos(theta + margin)`. Continuous, and strictly decreasing on all of [0, pi].
    - 'linear': `cos(theta) - margin * sin(margin)`, as in the original code. Decreasing, but it jumps by
      `1 - cos(margin) - margin * sin(margin)` at theta = pi - margin (-0.117 at margin 0.5).
    - 'none': cos(theta + margin) itself.

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
    rotated = cos * cos_m - sin_of(cos) * sin_m
    if past_pi == "none":
        return rotated
    lowest = -cos_m * cos_m - sin_of(cos_m) * sin_m  # at theta = pi - margin; -1 but for the epsilon, so no step at all
    beyond = 2.0 * lowest - rotated if past_pi == "mirror" else cos - margin * sin_m
    return tf.where(cos > -cos_m, rotated, beyond)


def angle_of(cos):
    """arccos with a finite gradient: values beyond +-0.999999 are clipped."""
    return tf.acos(tf.clip_by_value(cos, -_COS_LIMIT, _COS_LIMIT))


@keras.saving.register_keras_serializable(package="face")
class Softmax(MarginHead):
    """Plain softmax, logits `<x_i, w_j>`: no normalisation, no scale and no bias.

    MobileFaceNet's author trains the first stage with it (https://github.com/deepinsight/insightface/issues/214). The
    accuracy is that of these logits.
    """

    changes_other_logits = True

    def __init__(self, num_classes, **kwargs):
        super().__init__(num_classes, scale=1.0, **{k: v for k, v in kwargs.items() if k not in _COSINE_OPTIONS})

    def cosines(self, embeddings, centres):
        """Inner products, used in place of the cosines everywhere: [B, D], [n, D] -> float32 [B, n]."""
        return tf.matmul(embeddings, centres, transpose_b=True)

    def margin_logits(self, cosines, target_idx, norms, margin_share=1.0, training=False):
        return cosines


_COSINE_OPTIONS = ("scale", "sub_centres", "interclass_filtering", "warmup_scale")


@keras.saving.register_keras_serializable(package="face")
class MarginSoftmax(Softmax):
    """Softmax in which the target probability p counts as `(p^power + share * p) / 2`.

    As in Keras_insightface, the probabilities are normalised to sum 1 again before the cross-entropy. During a margin
    warm-up, the target probability goes from p to this value linearly.

    Reference: https://github.com/leondgarse/Keras_insightface, losses.py, margin_softmax.
    """

    def __init__(self, num_classes, power=2.0, share=0.4, **kwargs):
        super().__init__(num_classes, **kwargs)
        self.power, self.share = power, share

    def margin_logits(self, cosines, target_idx, norms, margin_share=1.0, training=False):
        log_p = cosines - self.log_sum_exp(cosines, adds_gradients=True)[:, None]
        target = self._target_values(log_p, target_idx)
        # log(p (1 - w) + w (p^power + share p) / 2), with one p taken out: p may be too small for float32.
        factor = (1.0 - margin_share) + margin_share * 0.5 * (tf.exp((self.power - 1.0) * target) + self.share)
        return self.put_target(log_p, target_idx, target + tf.math.log(factor + 1e-12))

    def get_config(self):
        return {**super().get_config(), "power": self.power, "share": self.share}


@keras.saving.register_keras_serializable(package="face")
class ScaleSoftmax(MarginHead):
    """Logits `s cos(theta_ij)`: normalised softmax without a margin.

    Reference: Wang et al., NormFace, https://arxiv.org/abs/1704.06369, eq. 5.
    """


@keras.saving.register_keras_serializable(package="face")
class ArcFace(MarginHead):
    """Cosine logits with an additive angular margin on the target class.

    `logits[i, j] = scale * cos(theta_ij + margin * [j == label_i])`, where `theta_ij` is the angle between embedding i
    and class centre j. The gradient is exact: it includes `sin(theta + m) / sin(theta)`.

    Args:
        num_classes: number of identities, at least 2.
        margin: angle in radians, in [0, pi/2). Paper: 0.5.
        scale: logit radius s. Paper: 64.
        past_pi: what follows beyond theta + margin = pi; see `cos_plus_margin`.

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
    """Three margins at once: the target logit is `s (psi(margin1 theta + margin2) - margin3)`.

    psi is the cosine, continued past every multiple k of pi as `(-1)^k cos - 2k`: continuous and decreasing (Liu et
    al., SphereFace, https://arxiv.org/abs/1704.08063, eq. 7).

    Reference: Deng et al., ArcFace, https://arxiv.org/abs/1801.07698, eq. 4; the defaults 1.0, 0.3, 0.2 are those of
    its table 2.
    """

    def __init__(self, num_classes, margin1=1.0, margin2=0.3, margin3=0.2, scale=64.0, **kwargs):
        super().__init__(num_classes, scale, **kwargs)
        self.margin1, self.margin2, self.margin3 = margin1, margin2, margin3

    def apply_margin(self, cos, norms, margin_share, training):
        angle = (1.0 + (self.margin1 - 1.0) * margin_share) * angle_of(cos) + self.margin2 * margin_share
        k = tf.floor(angle / math.pi)
        sign = 1.0 - 2.0 * tf.math.floormod(k, 2.0)
        return sign * tf.cos(angle) - 2.0 * k - self.margin3 * margin_share

    def get_config(self):
        margins = {"margin1": self.margin1, "margin2": self.margin2, "margin3": self.margin3}
        return {**super().get_config(), **margins}


@keras.saving.register_keras_serializable(package="face")
class AirFace(MarginHead):
    """Logits linear in the angle: `s (pi - 2 (theta_ij + margin [j == label_i])) / pi`.

    All classes use this formula, as in the paper. (In Keras_insightface, the other classes keep their cosine.)

    Reference: Li et al., AirFace, https://arxiv.org/abs/1907.12256, eq. 4.
    """

    changes_other_logits = True

    def __init__(self, num_classes, margin=0.4, scale=64.0, **kwargs):
        super().__init__(num_classes, scale, **kwargs)
        self.margin = margin

    def apply_margin(self, cos, norms, margin_share, training):
        return 1.0 - 2.0 * (angle_of(cos) + self.margin * margin_share) / math.pi

    def other_cosines(self, cosines, with_margin, target_cos, training):
        return 1.0 - 2.0 * angle_of(cosines) / math.pi

    def get_config(self):
        return {**super().get_config(), "margin": self.margin}
