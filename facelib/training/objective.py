"""What a stage minimises: one head, and the terms that are added to it. Names TensorFlow."""

import tensorflow as tf

from facelib.distributed.workers import ONE_WORKER, Workers
from facelib.training.recipe.stage import Stage


class Objective:
    """The loss of a batch, as a sum of named terms.

    Args:
        stage: gives the weights.
        head: layer with `loss_and_accuracy(embeddings, labels, warmth, label_smoothing)`; None for the teacher alone.
        center_loss: layer `(embeddings, labels, training) -> scalar`, or None.
        distiller: `facelib.losses.distillation.Distiller`, or None.
        workers: that compute it together, each from the faces of all.
    """

    def __init__(self, stage: Stage, head, center_loss, distiller, workers: Workers = ONE_WORKER):
        self.workers = workers
        self.stage, self.head, self.center_loss, self.distiller = stage, head, center_loss, distiller

    @property
    def layers(self) -> dict:
        """The parts that have variables, by name."""
        parts = {"head": self.head, "center_loss": self.center_loss, "distiller": self.distiller}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def sampled_head(self):
        """The head when it looks at a share of its classes in each step, else None."""
        return self.head if is_margin_head(self.head) and self.head.split.is_sampled else None

    def __call__(self, embeddings, labels, targets, warmth, columns=None):
        """(loss, accuracy), float32 scalars.

        The accuracy is the head's, without its margin; of a teacher alone it is the share of faces nearest to their
        own teacher vector. embeddings: [B, D] as the network gives them, of all workers.   labels: int64 [B].
        targets: float32 [B, T], the teacher's vectors; [B, 0] without one.   warmth: 0 to 1, see `warmth_at`.
        columns: of `sampled_head`.
        """
        stage, loss, alike, accuracy = self.stage, 0.0, 0.0, None  # alike: what every worker computes
        if is_margin_head(self.head):
            loss, accuracy = self.head.loss_and_accuracy(embeddings, labels, warmth, stage.label_smoothing, columns)
        elif self.head is not None:
            alike, accuracy = self.head.loss_and_accuracy(embeddings, labels, warmth, stage.label_smoothing)
        if self.center_loss is not None:
            alike += stage.center_loss * self.center_loss(embeddings, labels, training=True)
        if self.distiller is not None:
            distance, agreement = self.distiller(embeddings, targets)
            alike += stage.distill_weight * distance
            accuracy = agreement if accuracy is None else accuracy
        if stage.norm_penalty:
            norms = tf.reduce_sum(tf.abs(tf.cast(embeddings, tf.float32)), -1)
            alike += stage.norm_penalty * tf.reduce_mean(norms)
        return loss + self.workers.once(alike), accuracy


def is_margin_head(head) -> bool:
    """Whether it has class centres; a metric loss has none."""
    return hasattr(head, "split")
