"""The update of a step: gradient clipping, weight decay, the optimizer, and a separate rate for the backbone.

`RowOptimizer` updates the class centres that a step has sampled.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from facelib.distributed.workers import ONE_WORKER, Workers
from facelib.losses.partial_fc import SampledClasses, rows_of
from facelib.training.recipe.schema import ROW_OPTIMIZERS, Stage

_BLOCK = 2048  # rows at a time: the temporary values stay in the cache

_DECOUPLED = ("adamw", "lion")


class RowOptimizer:
    """An optimizer that updates only the rows of a table that a step has read, by the rule of Keras's optimizer.

    The other rows keep their value and state. So the momentum of a row does not change between two steps that read it,
    and Adam's bias correction counts the steps of the training, not those of the row, as in TensorFlow's lazy
    optimizers. When all rows are read it is Keras's optimizer.

    Args:
        table: variable [R, D].
        stage: gives the optimizer, one of ROW_OPTIMIZERS, and its momentum, nesterov and epsilon.
    """

    def __init__(self, table, stage: Stage):
        self.table, self.stage, self.kind = table, stage, stage.optimizer_kind
        self.is_decoupled = self.kind in _DECOUPLED
        self.variables = [
            keras.Variable(initializer="zeros", shape=table.shape, trainable=False, name=f"row_{self.kind}_{i}")
            for i in range(ROW_OPTIMIZERS[self.kind])
        ]

    def apply(self, rows, gradient, rate, decay: float, step, factor=1.0, is_wanted=True) -> None:
        """Updates some rows.

        Args:
            rows: int64 [n], without repetition.
            gradient: float32 [n, D].
            rate: learning rate.
            decay: weight decay.
            step: float32, the number of the step, from 1.
            factor: the gradient is multiplied by it, block by block, so that no second copy of it is made.
            is_wanted: True, or a bool tensor; nothing changes when it is False.
        """
        num_rows = tf.size(rows, tf.int64)

        def block(start):
            part = slice(start, start + _BLOCK)
            where, g = rows[part], gradient[part] * factor
            values = tf.gather(self.table.value, where)
            states = [tf.gather(slot.value, where) for slot in self.variables]
            if self.is_decoupled:
                decayed = values * (1.0 - rate * decay)
            else:
                decayed, g = values, g + decay * values
            news = self._rule(decayed, g, states, rate, step)
            for variable, new, old in zip([self.table, *self.variables], news, [values, *states], strict=True):
                new = new if is_wanted is True else tf.where(is_wanted, new, old)
                variable.value.scatter_update(tf.IndexedSlices(new, where))
            return [start + _BLOCK]

        tf.while_loop(lambda start: start < num_rows, block, [tf.constant(0, tf.int64)], parallel_iterations=1)

    def _rule(self, w, g, states, rate, step) -> list:
        """The new values of the rows and of their state."""
        if self.kind == "sgd":
            momentum = self.stage.momentum
            m = momentum * states[0] - rate * g
            return [w + (momentum * m - rate * g if self.stage.nesterov else m), m]
        if self.kind == "lion":
            move = tf.sign(0.9 * states[0] + 0.1 * g)
            return [w - rate * move, 0.99 * states[0] + 0.01 * g]
        epsilon = 1e-7 if self.stage.epsilon is None else self.stage.epsilon
        m, v = 0.9 * states[0] + 0.1 * g, 0.999 * states[1] + 0.001 * tf.square(g)
        alpha = rate * tf.sqrt(1.0 - tf.pow(0.999, step)) / (1.0 - tf.pow(0.9, step))
        return [w - alpha * m / (tf.sqrt(v) + epsilon), m, v]


def make_optimizer(stage: Stage):
    """The Keras optimizer of a stage, without weight decay, wrapped for loss scaling under float16.

    Its name is fixed. Keras would number the names (sgd, sgd_1, ...) in the order in which a process makes optimizers,
    and a process that resumes a later stage could not load the checkpoint.
    """
    epsilon = 1e-7 if stage.epsilon is None else stage.epsilon
    rate = stage.learning_rate
    makers = {
        "sgd": lambda: keras.optimizers.SGD(rate, momentum=stage.momentum, nesterov=stage.nesterov, name="sgd"),
        "adam": lambda: keras.optimizers.Adam(rate, epsilon=epsilon, name="adam"),
        "adamw": lambda: keras.optimizers.Adam(rate, epsilon=epsilon, name="adam"),  # `Updater` decays the weights
        "nadam": lambda: keras.optimizers.Nadam(rate, epsilon=epsilon, name="nadam"),
        "lion": lambda: keras.optimizers.Lion(rate, name="lion"),
    }
    optimizer = makers[stage.optimizer_kind]()
    if keras.mixed_precision.dtype_policy().compute_dtype == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")
    return optimizer


def copy_state(new, old) -> None:
    """Copies the state of one built optimizer to another, for every variable of the same path and shape."""
    known = {v.path: v for v in old.variables}
    for variable in new.variables:
        if variable.path in known and known[variable.path].shape == variable.shape:
            variable.assign(known[variable.path])


def last_layers(embedder: keras.Model) -> list:
    """The trainable variables of the last layer that has a kernel: the layer after the global operator."""
    with_kernel = [layer for layer in embedder.layers if any(v.name == "kernel" for v in layer.trainable_variables)]
    return list(with_kernel[-1].trainable_variables) if with_kernel else []


def weight_decays(variables, last: Sequence, stage: Stage) -> list[float]:
    """The weight decay of each variable.

    Kernels and class centres have `weight_decay`, times `last_layer_decay` if they are in `last`. Biases, parameters of
    batch normalisation and PReLU slopes have none: a slope pulled to 0 turns PReLU into ReLU, and a gamma pulled to 0
    has no effect that the next layer cannot undo.

    Args:
        variables: those to decay.
        last: the variables after the global operator, and the class centres.
        stage: gives both factors.
    """
    last_ids = {id(v) for v in last}

    def decay(variable) -> float:
        if variable.name not in ("kernel", "centres"):
            return 0.0
        return stage.weight_decay * (stage.last_layer_decay if id(variable) in last_ids else 1.0)

    return [decay(v) for v in variables]


class Updater:
    """Clips, decays and applies the gradients of one stage.

    With SGD, Adam and Nadam, the weight decay is L2, added to the gradient. With AdamW and Lion it is decoupled
    (Loshchilov & Hutter, https://arxiv.org/abs/1711.05101). The backbone moves by `backbone_rate` times the optimizer's
    step.

    Args:
        optimizer: from `make_optimizer`, built over `variables` and perhaps more.
        stage: the stage of the recipe.
        variables: those that this stage trains.
        last: see `weight_decays`.
        backbone: the embedder's variables.
        local: those of `variables` that differ between the workers: the centres of each worker's classes.
        rows: updates the class centres of a sampled head, which are not among `variables`; None for other heads.
        workers: the processes that train together.

    Attributes:
        is_local: for each of `variables`, whether it is among `local`. The gradients of all others are summed over the
            workers before the update.
    """

    def __init__(
        self, optimizer, stage: Stage, variables: Sequence, last: Sequence, backbone: Sequence,
        local: Sequence = (), rows: RowOptimizer | None = None, workers: Workers = ONE_WORKER,
    ):  # fmt: skip
        self.optimizer, self.stage, self.variables = optimizer, stage, list(variables)
        self.rows, self.workers = rows, workers
        local_ids = {id(v) for v in local} if workers.count > 1 else set()
        self.is_local = [id(v) in local_ids for v in self.variables]
        self.is_decoupled = stage.optimizer_kind in _DECOUPLED
        self.decays = weight_decays(self.variables, last, stage)
        ids = {id(v) for v in backbone}
        self.slow = [v for v in self.variables if id(v) in ids] if stage.backbone_rate != 1.0 else []

    @property
    def loss_scale(self):
        """The factor of the loss and of the gradients: above 1 under float16."""
        return self.optimizer.dynamic_scale.value if self._is_scaled else 1.0

    @property
    def _is_scaled(self) -> bool:
        return isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)

    def norm(self, gradients: Sequence):
        """The norm of all gradients together, with those of the classes of all workers.

        Args:
            gradients: one for each of `variables`, summed over the workers where it is not local; then, with `rows`,
                that of the sampled centres.
        """
        if self.workers.count == 1:
            return tf.linalg.global_norm(gradients)
        pairs = list(zip(gradients, [*self.is_local, *([True] * (self.rows is not None))], strict=True))
        shared = tf.linalg.global_norm([g for g, is_local in pairs if not is_local] or [0.0])
        local = tf.linalg.global_norm([g for g, is_local in pairs if is_local] or [0.0])
        return tf.sqrt(tf.square(shared) + self.workers.sum(tf.square(local)))

    def __call__(self, gradients: Sequence, sampled: SampledClasses | None = None) -> None:
        """Takes one step.

        Args:
            gradients: of the scaled loss, one for each of `variables`; then, with `rows`, that of the sampled centres.
            sampled: with `rows`, the classes of this step.
        """
        scale, norm, by_centres = self.loss_scale, None, None
        if self.workers.count > 1 or self.rows:
            norm = self.norm(gradients)
        if self.rows:
            *gradients, by_centres = gradients
        if self._is_scaled and norm is not None:  # after an overflow in the classes of one worker, all skip the step
            gradients = [g + 0.0 * norm for g in gradients]
        if self.stage.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.stage.clip_norm * scale, use_norm=norm)
        if self.rows:
            self._move_rows(by_centres, sampled, scale, norm)
        before = [tf.identity(v.value) for v in self.slow]
        gradients = self._decayed(gradients, scale)
        self.optimizer.apply(gradients, self.variables)
        for variable, old in zip(self.slow, before, strict=True):
            variable.assign(old + self.stage.backbone_rate * (variable.value - old))

    def _decayed(self, gradients: Sequence, scale) -> list:
        """Decays the weights; returns the gradients, which contain the decay unless it is decoupled."""
        triples = list(zip(self.variables, gradients, self.decays, strict=True))
        if not self.is_decoupled:
            return [g + d * scale * v.value if d else g for v, g, d in triples]
        rate = tf.cast(self.optimizer.learning_rate, "float32")
        for variable, _, decay in triples:
            if decay:
                variable.assign(variable.value * (1.0 - rate * decay))
        return list(gradients)

    def _move_rows(self, gradient, sampled: SampledClasses, scale, norm) -> None:
        is_wanted = tf.math.is_finite(norm) if self._is_scaled else True
        most = self.stage.clip_norm * scale
        factor = (most / tf.maximum(norm, most) if self.stage.clip_norm else 1.0) / scale
        rate = tf.cast(self.optimizer.learning_rate, tf.float32)
        step = tf.cast(self.optimizer.iterations.value + 1, tf.float32)
        rows = rows_of(sampled.classes, self.rows.table.shape[0] // sampled.num_held)
        decay = self.stage.weight_decay * self.stage.last_layer_decay
        self.rows.apply(rows, gradient, rate, decay, step, factor, is_wanted)
