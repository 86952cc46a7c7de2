"""One training step, compiled: forward, backward, update. Names TensorFlow."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from facelib.objective import Objective
from facelib.optimizing import Updater
from facelib.stage import Stage

# images uint8 [B, H, W, 3], labels int32 [B], targets float32 [B, T], warmth and mix float32 -> loss, accuracy
Step = Callable


def make_step(embedder: keras.Model, objective: Objective, update: Updater, stage: Stage, teacher_size: int) -> Step:
    """The stage's step as one `tf.function`, run by the strategy in scope.

    `mix` is the share of each image in its mixture with the batch's opposite one (MixUp, Zhang et al.,
    https://arxiv.org/abs/1710.09412, eq. 1); it is 1 without mixup, and then nothing is mixed.
    """
    training = not stage.freeze_backbone

    def loss_of(images, labels, targets, warmth, mix):
        if not stage.mixup:
            return objective(embedder(images, training=training), labels, targets, warmth)
        images = tf.cast(images, tf.float32)
        embeddings = embedder(mix * images + (1.0 - mix) * images[::-1], training=training)
        loss, accuracy = objective(embeddings, labels, targets, warmth)
        other_loss, _ = objective(embeddings, labels[::-1], targets[::-1], warmth)
        return mix * loss + (1.0 - mix) * other_loss, accuracy

    def gradients_of(images, labels, targets, warmth, mix):
        with tf.GradientTape() as tape:
            loss, accuracy = loss_of(images, labels, targets, warmth, mix)
            scaled = loss * update.loss_scale
        gradients = tape.gradient(scaled, update.variables)
        # What a term does not touch stays where it is: a projection without a loss, centres under triplets.
        pairs = zip(gradients, update.variables, strict=True)
        return loss, accuracy, [tf.zeros_like(v.value) if g is None else tf.convert_to_tensor(g) for g, v in pairs]

    def in_parts(images, labels, targets, warmth, mix):
        """The gradients of the whole batch, of which only a part is in memory at a time."""
        num_images = tf.shape(images)[0]

        def add_part(part, loss, accuracy, gradients):
            bounds = [tf.math.floordiv(k * num_images, stage.micro_batches) for k in (part, part + 1)]
            piece = slice(*bounds)
            share = tf.cast(bounds[1] - bounds[0], tf.float32) / tf.cast(num_images, tf.float32)
            more = gradients_of(images[piece], labels[piece], targets[piece], warmth, mix)
            sums = [g + share * tf.cast(m, g.dtype) for g, m in zip(gradients, more[2], strict=True)]
            return part + 1, loss + share * more[0], accuracy + share * more[1], sums

        start = (0, 0.0, 0.0, [tf.zeros_like(v.value) for v in update.variables])
        loop = tf.while_loop(
            lambda part, *_: part < stage.micro_batches, add_part, start, parallel_iterations=1,
            maximum_iterations=stage.micro_batches,
        )  # fmt: skip
        return loop[1:]

    gradients_of_batch = in_parts if stage.micro_batches > 1 else gradients_of

    def replica_step(*batch):
        loss, accuracy, gradients = gradients_of_batch(*batch)
        if stage.sam:
            with tf.control_dependencies(gradients):
                gradients = _at_the_worst_neighbour(lambda: gradients_of_batch(*batch)[2], gradients, update, stage.sam)
        update(gradients)
        return loss, accuracy

    # The batch dimension is free: sizes differ by one within an epoch, and must not compile twice.
    scalar = tf.TensorSpec([], tf.float32)
    signature = [
        tf.TensorSpec((None, *embedder.input_shape[1:]), tf.uint8),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None, teacher_size], tf.float32),
        scalar,
        scalar,
    ]
    strategy = tf.distribute.get_strategy()
    return tf.function(lambda *batch: strategy.run(replica_step, args=batch), input_signature=signature)


def _at_the_worst_neighbour(gradients_here: Callable, gradients, update: Updater, rho: float):
    """The gradients at w + rho g / |g|; w is put back. Foret et al., SAM, https://arxiv.org/abs/2010.01412, eq. 2."""
    norm = tf.linalg.global_norm(gradients) + 1e-12
    before = [tf.identity(v.value) for v in update.variables]
    for variable, gradient in zip(update.variables, gradients, strict=True):
        variable.assign_add(rho / norm * gradient)
    worst = gradients_here()
    with tf.control_dependencies(worst):
        for variable, value in zip(update.variables, before, strict=True):
            variable.assign(value)
    return worst


class WeightAverage:
    """An exponential moving average of a model's variables, BN statistics included.

    `average = d * average + (1 - d) * value` after each step, with d = min(decay, (1 + t) / (10 + t)) at step t, so
    that the first steps are soon forgotten.
    """

    def __init__(self, model: keras.Model, decay: float):
        self.decay = decay
        self.model_variables = [v for v in model.variables if "float" in v.dtype]  # not the state of dropout's seed
        self.variables = [
            keras.Variable(tf.identity(v.value), trainable=False, name=f"average_{i}")  # not the very variable
            for i, v in enumerate(self.model_variables)
        ]
        self._update = tf.function(self._step)

    def update(self, step: int) -> None:
        """Takes the model's values in. `step`: counted from 0 at the average's start."""
        self._update(tf.constant(min(self.decay, (1 + step) / (10 + step)), tf.float32))

    def _step(self, decay):
        for average, variable in zip(self.variables, self.model_variables, strict=True):
            average.assign(average.value + (1.0 - decay) * (variable.value - average.value))

    def __enter__(self):
        """While the context lasts, the model has the averages for its weights."""
        self._own = [np.array(v.numpy()) for v in self.model_variables]  # a copy: numpy() may be the memory itself
        for average, variable in zip(self.variables, self.model_variables, strict=True):
            variable.assign(average.value)
        return self

    def __exit__(self, *exc):
        for variable, value in zip(self.model_variables, self._own, strict=True):
            variable.assign(value)
