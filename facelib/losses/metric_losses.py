"""Triplet losses and center loss, which compare the faces of one batch.

A batch should hold several faces of each identity. The triplet losses compare cosines of unit vectors. A squared
distance is 2 - 2 cos, so a margin of 0.35 here is a margin of 0.7 in squared distances.
"""

import keras
import tensorflow as tf

from facelib.losses.margin_head import unit_rows
from facelib.losses.rows import by_row


class TripletLoss(keras.layers.Layer):
    """Mean of `max(0, cos(a, n) - cos(a, p) + margin)` over triplets of anchor, positive and negative.

    Which triplets:

    - 'batch_hard_triplet': for each anchor, its farthest positive and its nearest negative (Hermans et al., In Defense
      of the Triplet Loss, https://arxiv.org/abs/1703.07737, eq. 5).
    - 'batch_all_triplet': all, averaged over those with a loss above 0 (the same paper, eq. 6 and section 2).
    - 'semi_hard_triplet': for each anchor and positive, the nearest negative that is farther than the positive, or the
      farthest negative if there is none (Schroff et al., FaceNet, https://arxiv.org/abs/1503.03832, section 3.2,
      eq. 4).

    The last two compute B^3 triplets: 0.5 GB for a batch of 512.

    Args:
        kind: one of the three names.
        margin: in cosines.
    """

    has_class_centres = False

    def __init__(self, kind, margin=0.35, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.kind, self.margin = kind, margin

    def loss_and_accuracy(self, embeddings, labels, margin_share=1.0, label_smoothing=0.0, sampled=None):
        """Loss, and the share of faces whose nearest other face has their label; see `facelib.losses.protocols.Loss`.

        A batch without any triplet has loss 0. `label_smoothing` and `sampled` are not used.
        """
        x = unit_rows(tf.cast(embeddings, tf.float32))
        cosines = tf.matmul(x, x, transpose_b=True)
        is_same = labels[:, None] == labels[None, :]
        is_self = tf.eye(tf.shape(labels)[0], dtype=tf.bool)
        is_positive, is_negative = is_same & ~is_self, ~is_same
        loss = _KINDS[self.kind](cosines, is_positive, is_negative, self.margin * margin_share)
        nearest = tf.argmax(tf.where(is_self, -2.0, cosines), -1, output_type=tf.int32)
        return loss, tf.reduce_mean(tf.cast(tf.gather(labels, nearest) == labels, tf.float32))


def _batch_hard(cosines, is_positive, is_negative, margin):
    farthest = by_row(tf.reduce_min, tf.where(is_positive, cosines, 2.0))
    nearest = by_row(tf.reduce_max, tf.where(is_negative, cosines, -2.0))
    has_both = tf.reduce_any(is_positive, -1) & tf.reduce_any(is_negative, -1)
    return _mean_over(tf.nn.relu(nearest - farthest + margin), has_both)


def _batch_all(cosines, is_positive, is_negative, margin):
    losses = tf.nn.relu(cosines[:, None, :] - cosines[:, :, None] + margin)  # anchor, positive, negative
    is_triplet = is_positive[:, :, None] & is_negative[:, None, :]
    return _mean_over(losses, is_triplet & (losses > 0.0))


def _semi_hard(cosines, is_positive, is_negative, margin):
    negatives = tf.where(is_negative, cosines, -2.0)[:, None, :]
    is_farther = is_negative[:, None, :] & (cosines[:, None, :] < cosines[:, :, None])
    semi_hard = by_row(tf.reduce_max, tf.where(is_farther, negatives, -2.0))
    farthest = tf.reduce_min(tf.where(is_negative, cosines, 2.0), -1, keepdims=True)
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


class CenterLoss(keras.layers.Layer):
    """`mean |x_i - c_(y_i)|^2 / 2`, with centres that move towards the faces of their class.

    In training, `c_j <- c_j - alpha * sum_i (c_j - x_i) / (1 + n_j)` over the n_j faces of class j in the batch. The
    paper uses raw features. Here x is the unit vector: a cosine head leaves the norm of an embedding free, and this
    loss would only shrink it.

    Args:
        num_classes: C.
        embedding_size: D.
        alpha: how fast the centres move, in (0, 1]. Paper: 0.5.

    Call: `(embeddings float [B, D], labels int [B], training=False) -> float32 scalar`. No gradient reaches the
    centres.

    Reference: Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV 2016, eq. 2 to 4.
    """

    def __init__(self, num_classes, embedding_size, alpha=0.5, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.alpha = alpha
        self.means = self.add_weight(
            name="means", shape=(num_classes, embedding_size), initializer="zeros", trainable=False
        )

    def call(self, embeddings, labels, training=False):
        x = unit_rows(tf.cast(embeddings, tf.float32))
        difference = x - tf.gather(self.means.value, labels)
        if training:
            _, group, counts = tf.unique_with_counts(labels)
            share = self.alpha / (1.0 + tf.cast(tf.gather(counts, group), tf.float32))
            moves = tf.stop_gradient(difference) * share[:, None]
            self.means.assign(tf.tensor_scatter_nd_add(self.means.value, labels[:, None], moves))
        return 0.5 * tf.reduce_mean(by_row(tf.reduce_sum, tf.square(difference)))
