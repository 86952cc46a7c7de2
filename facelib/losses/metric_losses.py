"""Triplet losses over the faces of one batch, which should hold several of each identity. Names TensorFlow.

All compare cosines of unit vectors. A squared distance is 2 - 2 cos, so a margin of 0.35 here is one of 0.7 there.
"""

import keras
import tensorflow as tf

from facelib.losses.margin_head import unit_rows


class TripletLoss(keras.layers.Layer):
    """Mean of `max(0, cos(a, n) - cos(a, p) + margin)` over triplets of anchor, positive and negative.

    Which triplets:

    - 'batch_hard_triplet': of each anchor its farthest positive and its nearest negative (Hermans et al., In Defense of
      the Triplet Loss, https://arxiv.org/abs/1703.07737, eq. 5).
    - 'batch_all_triplet': all, averaged over those with a loss above 0 (the same, eq. 6 and section 2).
    - 'semi_hard_triplet': of each anchor and positive the nearest negative that is farther than the positive, or the
      farthest one where there is none (Schroff et al., FaceNet, https://arxiv.org/abs/1503.03832, section 3.2, eq. 4).

    The last two look at B^3 triplets: 0.5 GB for a batch of 512.

    Args:
        kind: one of the three.   margin: in cosines.
    """

    def __init__(self, kind, margin=0.35, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.kind, self.margin = kind, margin

    def loss_and_accuracy(self, embeddings, labels, warmth=1.0, label_smoothing=0.0):
        """As `MarginHead.loss_and_accuracy`; accuracy: share of faces whose nearest other one has their label.

        A batch without any triplet has loss 0. `label_smoothing` has no meaning here.
        """
        x = unit_rows(tf.cast(embeddings, tf.float32))
        cosines = tf.matmul(x, x, transpose_b=True)
        is_same = labels[:, None] == labels[None, :]
        is_self = tf.eye(tf.shape(labels)[0], dtype=tf.bool)
        is_positive, is_negative = is_same & ~is_self, ~is_same
        loss = _KINDS[self.kind](cosines, is_positive, is_negative, self.margin * warmth)
        nearest = tf.argmax(tf.where(is_self, -2.0, cosines), -1, output_type=tf.int32)
        return loss, tf.reduce_mean(tf.cast(tf.gather(labels, nearest) == labels, tf.float32))


def _batch_hard(cosines, is_positive, is_negative, margin):
    farthest = tf.reduce_min(tf.where(is_positive, cosines, 2.0), -1)
    nearest = tf.reduce_max(tf.where(is_negative, cosines, -2.0), -1)
    has_both = tf.reduce_any(is_positive, -1) & tf.reduce_any(is_negative, -1)
    return _mean_over(tf.nn.relu(nearest - farthest + margin), has_both)


def _batch_all(cosines, is_positive, is_negative, margin):
    losses = tf.nn.relu(cosines[:, None, :] - cosines[:, :, None] + margin)  # anchor, positive, negative
    is_triplet = is_positive[:, :, None] & is_negative[:, None, :]
    return _mean_over(losses, is_triplet & (losses > 0.0))


def _semi_hard(cosines, is_positive, is_negative, margin):
    negatives = tf.where(is_negative, cosines, -2.0)[:, None, :]
    is_farther = is_negative[:, None, :] & (cosines[:, None, :] < cosines[:, :, None])
    semi_hard = tf.reduce_max(tf.where(is_farther, negatives, -2.0), -1)
    farthest = tf.reduce_min(tf.where(is_negative, cosines, 2.0), -1)[:, None]
    negative = tf.where(tf.reduce_any(is_farther, -1), semi_hard, farthest)
    is_pair = is_positive & tf.reduce_any(is_negative, -1)[:, None]
    return _mean_over(tf.nn.relu(negative - cosines + margin), is_pair)


def _mean_over(losses, is_counted):
    count = tf.reduce_sum(tf.cast(is_counted, tf.float32))
    return tf.reduce_sum(tf.where(is_counted, losses, 0.0)) / tf.maximum(count, 1.0)


_KINDS = {
    "batch_hard_triplet": _batch_hard,
    "batch_all_triplet": _batch_all,
    "semi_hard_triplet": _semi_hard,
}
