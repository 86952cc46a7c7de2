"""Losses towards a teacher's embeddings. Names TensorFlow."""

import keras
import tensorflow as tf

TEMPERATURE = 0.1  # of the similarities that 'kl' compares: cosines lie within [-1, 1]


class Distiller(keras.layers.Layer):
    """The distance of a student's embeddings to a teacher's, both as unit vectors e and t.

    - 'cosine': mean of 1 - <e, t>.
    - 'l2': mean of |e - t|, which does not flatten out near the goal as 'cosine' does, half the square of it.
    - 'kl': KL divergence of the two distributions softmax(<x_i, x_j> / 0.1) over the other faces j of the batch, the
      probabilistic knowledge transfer of Passalis & Tefas, https://arxiv.org/abs/1803.10837, eq. 2 to 4, with a
      softmax for its kernel.
    - 'relational': Huber loss between the pairwise distances of the batch, each divided by its mean (Park et al.,
      Relational Knowledge Distillation, https://arxiv.org/abs/1904.05068, eq. 5 to 8).

    The first two want vectors of one size: a student of another size is projected by a learned matrix, which training
    keeps and the embedder does not have.

    Args:
        kind: one of the four.   embedding_size, teacher_size: D of the student and of the teacher.

    Call: `(embeddings float [B, D], targets float32 [B, T]) -> (loss, agreement)`, float32 scalars; agreement is the
        share of faces that are nearer to their own teacher vector than to any other of the batch.
    """

    def __init__(self, kind, embedding_size, teacher_size):
        super().__init__(name="distiller", dtype="float32")
        self.kind = kind
        self.projection = None
        if embedding_size != teacher_size and kind in ("cosine", "l2"):
            self.projection = self.add_weight(
                name="kernel", shape=(embedding_size, teacher_size), initializer="glorot_uniform"
            )

    def call(self, embeddings, targets):
        embeddings, targets = tf.cast(embeddings, tf.float32), tf.math.l2_normalize(targets, -1)
        if self.projection is not None:
            embeddings = tf.matmul(embeddings, tf.convert_to_tensor(self.projection.value))
        embeddings = tf.math.l2_normalize(embeddings, -1)
        return _LOSSES[self.kind](embeddings, targets), _agreement(embeddings, targets)


def _cosine(e, t):
    return tf.reduce_mean(1.0 - tf.reduce_sum(e * t, -1))


def _l2(e, t):
    return tf.reduce_mean(tf.sqrt(tf.reduce_sum(tf.square(e - t), -1) + 1e-12))


def _kl(e, t):
    mine, theirs = _log_similarities(e), _log_similarities(t)
    return tf.reduce_mean(tf.reduce_sum(tf.exp(theirs) * (theirs - mine), -1))


def _log_similarities(x):
    logits = tf.matmul(x, x, transpose_b=True) / TEMPERATURE
    is_self = tf.eye(tf.shape(x)[0], dtype=tf.bool)
    return tf.nn.log_softmax(tf.where(is_self, -1e9, logits))  # not -inf: its share, 0, times -inf is no number


def _relational(e, t):
    difference = tf.abs(_distances(e) - _distances(t))
    huber = tf.where(difference < 1.0, 0.5 * tf.square(difference), difference - 0.5)
    num_faces = tf.cast(tf.shape(e)[0], tf.float32)
    return tf.reduce_sum(huber) / (num_faces * (num_faces - 1.0))


def _distances(x):
    """Pairwise distances [B, B] over the mean of those off the diagonal, which is 0."""
    squares = tf.maximum(2.0 - 2.0 * tf.matmul(x, x, transpose_b=True), 0.0)
    distances = tf.linalg.set_diag(tf.sqrt(squares + 1e-12), tf.zeros(tf.shape(x)[0]))
    num_faces = tf.cast(tf.shape(x)[0], tf.float32)
    return distances * (num_faces * (num_faces - 1.0) / tf.maximum(tf.reduce_sum(distances), 1e-12))


def _agreement(e, t):
    if e.shape[-1] != t.shape[-1]:  # without a projection there is no common space: compare who is nearest to whom
        nearest = [tf.argmax(_log_similarities(x), -1) for x in (e, t)]
        return tf.reduce_mean(tf.cast(nearest[0] == nearest[1], tf.float32))
    nearest = tf.argmax(tf.matmul(e, t, transpose_b=True), -1, output_type=tf.int32)
    return tf.reduce_mean(tf.cast(nearest == tf.range(tf.shape(e)[0]), tf.float32))


_LOSSES = {"cosine": _cosine, "l2": _l2, "kl": _kl, "relational": _relational}
