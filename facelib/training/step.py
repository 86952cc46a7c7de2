"""One training step, compiled: forward pass, loss, backward pass, update. `Objective` is the loss of a stage."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from facelib.distributed.workers import ONE_WORKER, Workers
from facelib.losses.partial_fc import SampledClasses
from facelib.losses.protocols import Loss, MarginLoss, has_class_centres
from facelib.losses.rows import by_row
from facelib.training.compiling import compiled_step
from facelib.training.lanes import WHOLE_BATCH, Lanes
from facelib.training.recipe.schema import Stage
from facelib.training.variable_groups import group_variables
from facelib.training.weight_update import Updater


class Objective:
    """The loss of a batch, as a sum of terms.

    Args:
        stage: the stage of the recipe, for the weights of the terms.
        head: the margin head or metric loss; None when the teacher alone is learned.
        center_loss: layer `(embeddings, labels, training) -> scalar`, or None.
        distiller: `facelib.losses.distillation.Distiller`, or None.
        workers: the processes that train together; each computes the loss of all faces.
    """

    def __init__(self, stage: Stage, head: Loss | None, center_loss, distiller, workers: Workers = ONE_WORKER):
        self.workers = workers
        self.stage, self.head, self.center_loss, self.distiller = stage, head, center_loss, distiller

    @property
    def layers(self) -> dict:
        """The terms that have variables, by name."""
        layers = {"head": self.head, "center_loss": self.center_loss, "distiller": self.distiller}
        return {name: layer for name, layer in layers.items() if layer is not None}

    @property
    def sampled_head(self) -> MarginLoss | None:
        """The head, if it uses a share of its classes in each step; else None."""
        head = self.head
        return head if has_class_centres(head) and head.split.is_sampled else None

    def __call__(self, embeddings, labels, teacher_vectors, margin_share, sampled: SampledClasses | None = None):
        """(loss, accuracy), float32 scalars.

        The accuracy is that of the head, without its margin. Without a head it is the share of faces that are nearest
        to the teacher's vector of the same face.

        Args:
            embeddings: float [B, D], as the network gives them, of all workers.
            labels: int64 [B], of all workers.
            teacher_vectors: float32 [B, T], of all workers; [B, 0] without a teacher.
            margin_share: 0 to 1, see `facelib.training.schedules.margin_share_at`.
            sampled: the classes of this step, from `sampled_head.sample`.
        """
        stage, accuracy = self.stage, None
        class_loss = 0.0  # of a margin head: each worker computes the part of its classes
        shared_loss = 0.0  # every worker computes the same value from the gathered embeddings
        if self.head is not None:
            value, accuracy = self.head.loss_and_accuracy(
                embeddings, labels, margin_share, stage.label_smoothing, sampled
            )
            if self.head.has_class_centres:
                class_loss = value
            else:
                shared_loss = value
        if self.center_loss is not None:
            shared_loss += stage.center_loss * self.center_loss(embeddings, labels, training=True)
        if self.distiller is not None:
            distance, agreement = self.distiller(embeddings, teacher_vectors)
            shared_loss += stage.distill_weight * distance
            accuracy = agreement if accuracy is None else accuracy
        if stage.norm_penalty:
            norms = by_row(tf.reduce_sum, tf.abs(tf.cast(embeddings, tf.float32)))
            shared_loss += stage.norm_penalty * tf.reduce_mean(norms)
        return class_loss + self.workers.once(shared_loss), accuracy


class StepInputs(NamedTuple):
    """What the loss of a step is computed from: this worker's part of a batch.

    Attributes:
        images: uint8 [B, H, W, 3].
        labels: int64 [B].
        teacher_vectors: float32 [B, T]; T is 0 without a teacher.
        margin_share: float32 scalar, 0 to 1.
        mix: float32 scalar, the share of each image in its mixture with another one (mixup).
        sampled: the classes of the step when the head is sampled, else None.
    """

    images: Any
    labels: Any
    teacher_vectors: Any
    margin_share: Any
    mix: Any
    sampled: SampledClasses | None

    def part(self, rows: slice) -> "StepInputs":
        """The inputs of some of the images."""
        return self._replace(
            images=self.images[rows], labels=self.labels[rows], teacher_vectors=self.teacher_vectors[rows]
        )


class LossAndGradients(NamedTuple):
    """The result of a backward pass.

    Attributes:
        loss: float32 scalar, of the whole batch.
        accuracy: float32 scalar, of the whole batch.
        gradients: of the scaled loss, one for each group of variables of the update and, with a sampled head, one for
            the centres of the step's classes.
    """

    loss: Any
    accuracy: Any
    gradients: list


def make_step(
    embedder: keras.Model, objective: Objective, update: Updater, stage: Stage, teacher_size: int,
    workers: Workers = ONE_WORKER, compile: str = "none", say: Callable[[str], object] = print,
    lanes: Lanes = WHOLE_BATCH,
) -> Callable:  # fmt: skip
    """The step of a stage as one `tf.function`.

    Each worker calls it with its part of the batch. Loss and accuracy are those of the whole batch.

    Args:
        embedder: float raw RGB pixels [N, H, W, 3] -> embeddings [N, D].
        objective: the loss.
        update: applies the gradients.
        stage: the stage of the recipe.
        teacher_size: T, the size of the teacher's vectors; 0 without a teacher.
        workers: the processes that train together.
        compile: whether XLA compiles it, see `facelib.training.compiling.compiled_step`.
        say: gets a line about `compile`.
        lanes: how the images go through the network.

    Returns:
        `(images uint8 [B, H, W, 3], labels int64 [B], teacher_vectors float32 [B, T], margin_share float32,
        mix float32, number int32) -> (loss, accuracy)`. `mix` is 1 without mixup. `number` counts the steps of the
        training; a sampled head draws its classes by it.
    """
    scalar = tf.TensorSpec([], tf.float32)
    signature = [
        # The batch dimension is free: batch sizes differ by one within an epoch, and must not compile twice.
        tf.TensorSpec((None, *embedder.input_shape[1:]), tf.uint8),
        tf.TensorSpec([None], tf.int64),
        tf.TensorSpec([None, teacher_size], tf.float32),
        scalar,
        scalar,
        tf.TensorSpec([], tf.int32),  # a GPU has it on the host, which draws the seeds of a step from it
    ]
    step = _Step(embedder, objective, update, stage, workers, lanes)
    obstacle = "which has no messages between workers" if workers.count > 1 else ""
    if objective.sampled_head is not None:
        obstacle = "which needs the number of sampled classes beforehand"
    return compiled_step(step.take, signature, compile, obstacle, say)


class _Step:
    """The computations of one step; see `make_step`."""

    def __init__(self, embedder, objective: Objective, update: Updater, stage: Stage, workers: Workers, lanes: Lanes):
        self.embedder, self.objective, self.update, self.stage = embedder, objective, update, stage
        self.workers, self.lanes = workers, lanes
        self.training = not stage.freeze_backbone

    def take(self, images, labels, teacher_vectors, margin_share, mix, number):
        """Moves the weights once; returns (loss, accuracy)."""
        head, sampled = self.objective.sampled_head, None
        if head is not None:
            sampled = head.sample(self.workers.gathering(tf.shape(labels)[0])(labels), number)
        inputs = StepInputs(images, labels, teacher_vectors, margin_share, mix, sampled)
        loss, accuracy, gradients = self._whole_batch(inputs)
        if self.stage.sam:
            with tf.control_dependencies(gradients):
                gradients = self._at_worst_neighbour(inputs, gradients)
        self.update(gradients, sampled)
        if self.training and self.workers.count > 1:
            _average_statistics(self.workers, self.embedder)
        return loss, accuracy

    def _loss(self, inputs: StepInputs):
        """(loss, accuracy) of the faces of all workers.

        With mixup, each image is mixed with the opposite one of the batch, and the loss is the same mixture of the
        losses of both labels (Zhang et al., https://arxiv.org/abs/1710.09412, eq. 1).
        """
        images, labels, vectors, margin_share, mix, sampled = inputs
        gather = self.workers.gathering(tf.shape(images)[0])
        if self.stage.mixup:
            images = tf.cast(images, tf.float32)
            images = mix * images + (1.0 - mix) * images[::-1]
        embeddings = gather(self.lanes.embed(self.embedder, images, self.training))

        def compare(labels, vectors):
            labels = gather(labels)
            vectors = gather(vectors) if vectors.shape[-1] else vectors
            return self.objective(embeddings, labels, vectors, margin_share, sampled)

        loss, accuracy = compare(labels, vectors)
        if self.stage.mixup:
            other_loss, _ = compare(labels[::-1], vectors[::-1])
            loss = mix * loss + (1.0 - mix) * other_loss
        return loss, accuracy

    def _one_pass(self, inputs: StepInputs) -> LossAndGradients:
        """Forward and backward pass over all images of the inputs at once."""
        centres = [inputs.sampled.centres] if inputs.sampled else []
        with tf.GradientTape() as tape:
            tape.watch(centres)
            loss, accuracy = self._loss(inputs)
            scaled = loss * self.update.loss_scale
        found = tape.gradient(scaled, [*self.update.variables, *centres])
        # A variable that no term uses gets a gradient of 0: a projection without a loss, centres under triplets.
        by_variable, by_centres = found[: len(self.update.variables)], found[len(self.update.variables) :]
        by_centres = [
            tf.zeros_like(c) if g is None else tf.convert_to_tensor(g) for g, c in zip(by_centres, centres, strict=True)
        ]
        return LossAndGradients(loss, accuracy, [*self.update.join(by_variable), *by_centres])

    def _in_parts(self, inputs: StepInputs) -> LossAndGradients:
        """The same as `_one_pass`, with one part of the images in memory at a time (micro batches)."""
        num_images, num_parts = tf.shape(inputs.images)[0], self.stage.micro_batches
        all_images = self.workers.sum(tf.cast(num_images, tf.float32))

        def add_part(part, loss, accuracy, gradients):
            first, last = (tf.math.floordiv(k * num_images, num_parts) for k in (part, part + 1))
            share = self.workers.sum(tf.cast(last - first, tf.float32)) / all_images
            found = self._one_pass(inputs.part(slice(first, last)))
            sums = [g + share * tf.cast(more, g.dtype) for g, more in zip(gradients, found.gradients, strict=True)]
            return part + 1, loss + share * found.loss, accuracy + share * found.accuracy, sums

        zeros = [tf.zeros(group.vector.shape, group.vector.dtype) for group in self.update.groups]
        zeros += [tf.zeros_like(inputs.sampled.centres)] if inputs.sampled else []
        start = (0, 0.0, 0.0, zeros)
        # Without maximum_iterations: it would make the condition a value of the device, which the host waits for.
        _, loss, accuracy, gradients = tf.while_loop(
            lambda part, *_: part < num_parts, add_part, start, parallel_iterations=1
        )
        return LossAndGradients(loss, accuracy, gradients)

    def _whole_batch(self, inputs: StepInputs) -> LossAndGradients:
        """Loss and gradients of the faces of all workers."""
        found = self._in_parts(inputs) if self.stage.micro_batches > 1 else self._one_pass(inputs)
        is_shared = [*(not is_local for is_local in self.update.is_local), False][: len(found.gradients)]
        return found._replace(gradients=_summed(self.workers, found.gradients, is_shared))

    def _at_worst_neighbour(self, inputs: StepInputs, gradients: list) -> list:
        """The gradients at w + rho g / |g|. The weights w are restored.

        Foret et al., SAM, https://arxiv.org/abs/2010.01412, eq. 2.
        """
        norm = self.update.norm(gradients) + 1e-12
        before = self.update.read()
        self.update.assign([w + self.stage.sam / norm * g for w, g in zip(before, gradients, strict=True)])
        worst = self._whole_batch(inputs).gradients
        with tf.control_dependencies(worst):
            self.update.assign(before)
        return worst


def _summed(workers: Workers, values, is_shared) -> list:
    """The shared values, summed over the workers in one message; the other values unchanged."""
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
    """Sets the running statistics of batch normalisation to their mean over the workers."""
    layers = [layer for layer in embedder.layers if layer.trainable]
    variables = [v for layer in layers for v in layer.non_trainable_variables if "float" in v.dtype]
    groups = group_variables(variables)
    totals = _summed(workers, [group.read() for group in groups], [True] * len(groups))
    for group, total in zip(groups, totals, strict=True):
        group.assign(total / workers.count)
