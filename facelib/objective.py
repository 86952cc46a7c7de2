"""What a stage minimises: one head, and the terms that are added to it. Names TensorFlow."""

import tensorflow as tf

from facelib.stage import Stage


class Objective:
    """The loss of a batch, as a sum of named terms.

    Args:
        stage: gives the weights.
        head: layer with `loss_and_accuracy(embeddings, labels, warmth, label_smoothing)`; None for the teacher alone.
        center_loss: layer `(embeddings, labels, training) -> scalar`, or None.
        distiller: `facelib.distillation.Distiller`, or None.
    """

    def __init__(self, stage: Stage, head, center_loss, distiller):
        self.stage, self.head, self.center_loss, self.distiller = stage, head, center_loss, distiller

    @property
    def layers(self) -> dict:
        """The parts that have variables, by name."""
        parts = {"head": self.head, "center_loss": self.center_loss, "distiller": self.distiller}
        return {name: part for name, part in parts.items() if part is not None}

    def __call__(self, embeddings, labels, targets, warmth):
        """(loss, accuracy), float32 scalars.

        The accuracy is the head's, without its margin; of a teacher alone it is the share of faces nearest to their
        own teacher vector. embeddings: [B, D] as the network gives them.   labels: int32 [B].   targets: float32
        [B, T], the teacher's vectors; [B, 0] without one.   warmth: 0 to 1, see `warmth_at`.
        """
        stage, loss, accuracy = self.stage, 0.0, None
        if self.head is not None:
            loss, accuracy = self.head.loss_and_accuracy(embeddings, labels, warmth, stage.label_smoothing)
        if self.center_loss is not None:
            loss += stage.center_loss * self.center_loss(embeddings, labels, training=True)
        if self.distiller is not None:
            distance, agreement = self.distiller(embeddings, targets)
            loss += stage.distill_weight * distance
            accuracy = agreement if accuracy is None else accuracy
        if stage.norm_penalty:
            norms = tf.reduce_sum(tf.abs(tf.cast(embeddings, tf.float32)), -1)
            loss += stage.norm_penalty * tf.reduce_mean(norms)
        return loss, accuracy
