"""Distillation: losses that pull a student's embeddings towards those of a teacher."""

import keras
import tensorflow as tf

from facelib.losses.rows import by_row

TEMPERATURE = 0.1  # of the similarities that 'kl' compares: cosines lie within [-1, 1]


class Distiller(keras.layers.Layer):
    """The distance between the embeddings of a student and of a teacher, as unit vectors e and t.

    - 'cosine': mean of 1 - <e, t>.
    - 'l2': mean of |e - t|. Its slope stays constant near 0, where that of 'cosine', |e - t|^2 / 2, vanishes.
    - 'kl': KL divergence between the two distributions softmax(<x_i, x_j> / 0.1) over the other faces j of the batch
      (Passalis & Tefas, probabilistic knowledge transfer, https://arxiv.org/abs/1803.10837, eq. 2 to 4, with a softmax
      as the kernel).
    - 'relational': Huber loss between the pairwise distances of the batch, divided by their mean (Park et al.,
      Relational Knowledge Distillation, https://arxiv.org/abs/1904.05068, eq. 5 to 8).

    'cosine' and 'l2' compare vectors of one size. A student of another size is projected by a learned matrix, which
    is part of the training but not of the saved embedder.

    Args:
        kind: one of the four names.
        embedding_size: D, of the student.
        teacher_size: T, of the teacher.

    Call: `(embeddings float [B, D], teacher_vectors float32 [B, T]) -> (loss, agreement)`, float32 scalars. The
    agreement is the share of faces that are nearest to the teacher's vector of the same face, among all faces of the
    batch.
    """

    def __init__(self, kind, embedding_size, teacher_size):
        super().__init__(name="distiller", dtype="float32")
        self.kind = kind
        self.projection = None
        if embedding_size != teacher_size and kind in ("cosine", "l2"):
            self.projection = self.add_weight(
                name="kernel", shape=(embedding_size, teacher_size), initializer="glorot_uniform"
            )

    def call(self, embeddings, teacher_vectors):
        embeddings, teacher_vectors = tf.cast(embeddings, tf.float32), tf.math.l2_normalize(teacher_vectors, -1)
        if self.projection is not None:
            embeddings = tf.matmul(embeddings, tf.convert_to_tensor(self.projection.value))
        embeddings = tf.math.l2_normalize(embeddings, -1)
        return _LOSSES[self.kind](embeddings, teacher_vectors), _agreement(embeddings, teacher_vectors)


def _cosine(e, t):
    return tf.reduce_mean(1.0 - by_row(tf.reduce_sum, e * t))


def _l2(e, t):
    return tf.reduce_mean(tf.sqrt(by_row(tf.reduce_sum, tf.square(e - t)) + 1e-12))


def _kl(e, t):
    student, teacher = _log_similarities(e), _log_similarities(t)
    return tf.reduce_mean(by_row(tf.reduce_sum, tf.exp(teacher) * (teacher - student)))


def _log_similarities(x):
    logits = tf.matmul(x, x, transpose_b=True) / TEMPERATURE
    is_self = tf.eye(tf.shape(x)[0], dtype=tf.bool)
    return tf.nn.log_softmax(tf.where(is_self, -1e9, logits))  # not -inf: 0 * -inf is NaN


def _relational(e, t):
    difference = tf.abs(_distances(e) - _distances(t))
    huber = tf.where(difference < 1.0, 0.5 * tf.square(difference), difference - 0.5)
    num_faces = tf.cast(tf.shape(e)[0], tf.float32)
    return tf.reduce_sum(huber) / (num_faces * (num_faces - 1.0))


def _distances(x):
    """Pairwise distances [B, B], divided by the mean of those off the diagonal; 0 on the diagonal."""
    squares = tf.maximum(2.0 - 2.0 * tf.matmul(x, x, transpose_b=True), 0.0)
    distances = tf.linalg.set_diag(tf.sqrt(squares + 1e-12), tf.zeros(tf.shape(x)[0]))
    num_faces = tf.cast(tf.shape(x)[0], tf.float32)
    return distances * (num_faces * (num_faces - 1.0) / tf.maximum(tf.reduce_sum(distances), 1e-12))


def _agreement(e, t):
    if e.shape[-1] != t.shape[-1]:  # no common space: compare the nearest neighbours
        nearest = [tf.argmax(_log_similarities(x), -1) for x in (e, t)]
        return tf.reduce_mean(tf.cast(nearest[0] == nearest[1], tf.float32))
    nearest, faces = tf.argmax(tf.matmul(e, t, transpose_b=True), -1), tf.range(tf.shape(e)[0])
    return tf.reduce_mean(tf.cast(nearest == tf.cast(faces, tf.int64), tf.float32))  # int32 compares on the host


_LOSSES = {"cosine": _cosine, "l2": _l2, "kl": _kl, "relational": _relational}
