"""One training step, compiled: forward, backward, update. Names TensorFlow."""

from collections.abc import Callable
from functools import partial

import keras
import tensorflow as tf

from facelib.distributed.workers import ONE_WORKER, Workers
from facelib.training.optimizers import Updater
from facelib.training.recipe.schema import Stage

# images uint8 [B, H, W, 3], labels int64 [B], targets float32 [B, T], margin_share and mix float32, number int64
# -> loss, accuracy
Step = Callable


class Objective:
    """The loss of a batch, as a sum of named terms.

    Args:
        stage: gives the weights.
        head: layer with `loss_and_accuracy(embeddings, labels, margin_share, label_smoothing)`; None for the teacher alone.
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

    def __call__(self, embeddings, labels, targets, margin_share, columns=None):
        """(loss, accuracy), float32 scalars.

        The accuracy is the head's, without its margin; of a teacher alone it is the share of faces nearest to their
        own teacher vector. embeddings: [B, D] as the network gives them, of all workers.   labels: int64 [B].
        targets: float32 [B, T], the teacher's vectors; [B, 0] without one.   margin_share: 0 to 1, see `margin_share_at`.
        columns: of `sampled_head`.
        """
        stage, loss, alike, accuracy = self.stage, 0.0, 0.0, None  # alike: what every worker computes
        if is_margin_head(self.head):
            loss, accuracy = self.head.loss_and_accuracy(
                embeddings, labels, margin_share, stage.label_smoothing, columns
            )
        elif self.head is not None:
            alike, accuracy = self.head.loss_and_accuracy(embeddings, labels, margin_share, stage.label_smoothing)
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


def make_step(
    embedder: keras.Model, objective: Objective, update: Updater, stage: Stage, teacher_size: int,
    workers: Workers = ONE_WORKER,
) -> Step:  # fmt: skip
    """The stage's step as one `tf.function`: of this worker's part of a batch, together with all workers.

    Loss and accuracy are those of the whole batch. `number` counts the steps of the training; a sampled head draws its
    classes by it.

    `mix` is the share of each image in its mixture with the batch's opposite one (MixUp, Zhang et al.,
    https://arxiv.org/abs/1710.09412, eq. 1); it is 1 without mixup, and then nothing is mixed.
    """
    training = not stage.freeze_backbone
    head = objective.sampled_head

    def loss_of(images, labels, targets, margin_share, mix, columns):
        stack = workers.gathering(tf.shape(images)[0])

        def whole(labels, targets):
            return objective(
                everyone, stack(labels), stack(targets) if teacher_size else targets, margin_share, columns
            )

        if not stage.mixup:
            everyone = stack(embedder(images, training=training))
            return whole(labels, targets)
        images = tf.cast(images, tf.float32)
        everyone = stack(embedder(mix * images + (1.0 - mix) * images[::-1], training=training))
        loss, accuracy = whole(labels, targets)
        other_loss, _ = whole(labels[::-1], targets[::-1])
        return mix * loss + (1.0 - mix) * other_loss, accuracy

    def gradients_of(images, labels, targets, margin_share, mix, columns):
        drawn = [columns.centres] if columns else []
        with tf.GradientTape() as tape:
            tape.watch(drawn)
            loss, accuracy = loss_of(images, labels, targets, margin_share, mix, columns)
            scaled = loss * update.loss_scale
        gradients = tape.gradient(scaled, [*update.variables, *drawn])
        # What a term does not touch stays where it is: a projection without a loss, centres under triplets.
        pairs = zip(gradients, zeros(columns), strict=True)
        return loss, accuracy, [zero() if g is None else tf.convert_to_tensor(g) for g, zero in pairs]

    def zeros(columns):
        values = [*(v.value for v in update.variables), *([columns.centres] if columns else [])]
        return [partial(tf.zeros_like, value) for value in values]

    def in_parts(images, labels, targets, margin_share, mix, columns):
        """The gradients of the whole batch, of which only a part is in memory at a time."""
        num_images = tf.shape(images)[0]
        all_images = workers.sum(tf.cast(num_images, tf.float32))

        def add_part(part, loss, accuracy, gradients):
            bounds = [tf.math.floordiv(k * num_images, stage.micro_batches) for k in (part, part + 1)]
            piece = slice(*bounds)
            share = workers.sum(tf.cast(bounds[1] - bounds[0], tf.float32)) / all_images
            more = gradients_of(images[piece], labels[piece], targets[piece], margin_share, mix, columns)
            sums = [g + share * tf.cast(m, g.dtype) for g, m in zip(gradients, more[2], strict=True)]
            return part + 1, loss + share * more[0], accuracy + share * more[1], sums

        start = (0, 0.0, 0.0, [zero() for zero in zeros(columns)])
        loop = tf.while_loop(
            lambda part, *_: part < stage.micro_batches, add_part, start, parallel_iterations=1,
            maximum_iterations=stage.micro_batches,
        )  # fmt: skip
        return loop[1:]

    def gradients_of_batch(*batch):
        loss, accuracy, gradients = (in_parts if stage.micro_batches > 1 else gradients_of)(*batch)
        is_shared = [*(not own for own in update.is_own), False][: len(gradients)]
        return loss, accuracy, _summed(workers, gradients, is_shared)

    def step(images, labels, targets, margin_share, mix, number):
        columns = None
        if head:
            columns = head.columns(workers.gathering(tf.shape(labels)[0])(labels), number)
        batch = images, labels, targets, margin_share, mix, columns
        loss, accuracy, gradients = gradients_of_batch(*batch)
        if stage.sam:
            with tf.control_dependencies(gradients):
                gradients = _at_the_worst_neighbour(lambda: gradients_of_batch(*batch)[2], gradients, update, stage.sam)
        update(gradients, columns)
        if training and workers.count > 1:
            _average_statistics(workers, embedder)
        return loss, accuracy

    # The batch dimension is free: sizes differ by one within an epoch, and must not compile twice.
    scalar = tf.TensorSpec([], tf.float32)
    signature = [
        tf.TensorSpec((None, *embedder.input_shape[1:]), tf.uint8),
        tf.TensorSpec([None], tf.int64),
        tf.TensorSpec([None, teacher_size], tf.float32),
        scalar,
        scalar,
        tf.TensorSpec([], tf.int64),
    ]
    return tf.function(step, input_signature=signature)


def _summed(workers: Workers, values, is_shared) -> list:
    """Those of `values` that are shared, each summed over the workers, in one message; the others as they are."""
    if workers.count == 1:
        return list(values)
    shared = [value for value, shares in zip(values, is_shared, strict=True) if shares]
    if not shared:
        return list(values)
    flat = workers.sum(tf.concat([tf.reshape(value, [-1]) for value in shared], 0))
    pieces = iter(tf.split(flat, [tf.size(value) for value in shared], num=len(shared)))
    return [
        tf.reshape(next(pieces), tf.shape(value)) if shares else value
        for value, shares in zip(values, is_shared, strict=True)
    ]


def _average_statistics(workers: Workers, embedder: keras.Model) -> None:
    """Batch normalisation's running statistics become their mean over the workers, so every worker has the same."""
    layers = [layer for layer in embedder.layers if layer.trainable]
    variables = [v for layer in layers for v in layer.non_trainable_variables if "float" in v.dtype]
    sums = _summed(workers, [v.value for v in variables], [True] * len(variables))
    for variable, value in zip(variables, sums, strict=True):
        variable.assign(value / workers.count)


def _at_the_worst_neighbour(gradients_here: Callable, gradients, update: Updater, rho: float):
    """The gradients at w + rho g / |g|; w is put back. Foret et al., SAM, https://arxiv.org/abs/2010.01412, eq. 2."""
    norm = update.norm(gradients) + 1e-12
    before = [tf.identity(v.value) for v in update.variables]
    for variable, gradient in zip(update.variables, gradients, strict=True):
        variable.assign_add(rho / norm * gradient)
    worst = gradients_here()
    with tf.control_dependencies(worst):
        for variable, value in zip(update.variables, before, strict=True):
            variable.assign(value)
    return worst


def is_margin_head(head) -> bool:
    """Whether it has class centres; a metric loss has none."""
    return hasattr(head, "split")
