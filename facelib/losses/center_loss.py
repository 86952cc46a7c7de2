"""Center loss: the faces of an identity gather around a point that follows them. Names TensorFlow."""

import keras
import tensorflow as tf

from facelib.losses.margin_head import unit_rows


class CenterLoss(keras.layers.Layer):
    """`mean |x_i - c_(y_i)|^2 / 2`, and centres that move towards their faces by their own rule.

    In training, `c_j <- c_j - alpha * sum_i (c_j - x_i) / (1 + n_j)` over the n_j faces of class j in the batch. The
    paper takes raw features; here x is the unit vector, because the norm of an embedding under a cosine head is free
    and this loss would only shrink it.

    Args:
        num_classes: C.   embedding_size: D.   alpha: how fast the centres move, in (0, 1]. Paper: 0.5.

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
        return 0.5 * tf.reduce_mean(tf.reduce_sum(tf.square(difference), -1))
