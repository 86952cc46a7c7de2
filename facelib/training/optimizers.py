"""Optimizers with weight decay where it belongs, clipped gradients, and a rate of its own for the backbone.

Names TensorFlow.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from facelib.distributed.workers import ONE_WORKER, Workers
from facelib.losses.partial_fc import rows_of
from facelib.training.recipe.schema import ROW_OPTIMIZERS, Stage

_BLOCK = 2048  # rows a time: the temporary values stay in the cache, and small beside the table

_DECOUPLED = ("adamw", "lion")


class RowOptimizer:
    """Keras's rule of `kind`, for the rows that a step has read; rows that were not drawn keep value and state.

    A row's momentum so stands still between two draws, and Adam's bias correction counts steps of the training, not
    draws of the row, as in TensorFlow's lazy optimizers. With all rows drawn it is Keras's optimizer.

    Args:
        table: variable [R, D].   stage: momentum, nesterov, epsilon.   kind: one of ROW_OPTIMIZERS.
    """

    def __init__(self, table, stage: Stage):
        self.table, self.stage, self.kind = table, stage, stage.optimizer_kind
        self.is_decoupled = self.kind in _DECOUPLED
        self.variables = [
            keras.Variable(initializer="zeros", shape=table.shape, trainable=False, name=f"row_{self.kind}_{i}")
            for i in range(ROW_OPTIMIZERS[self.kind])
        ]

    def apply(self, rows, gradient, rate, decay: float, step, factor=1.0, is_wanted=True) -> None:
        """Moves the rows.

        Args:
            rows: int64 [n], each once.   gradient: float32 [n, D].   rate: learning rate.   decay: weight decay.
            step: float32, of the optimizer, from 1.   factor: of the gradient; block by block, for want of memory.
            is_wanted: when a False tensor, nothing changes.
        """
        num_rows = tf.size(rows, tf.int64)

        def block(start):
            part = slice(start, start + _BLOCK)
            where, g = rows[part], gradient[part] * factor
            values = tf.gather(self.table.value, where)
            states = [tf.gather(slot.value, where) for slot in self.variables]
            if self.is_decoupled:
                moved = values * (1.0 - rate * decay)
            else:
                moved, g = values, g + decay * values
            moved, new_states = self._rule(moved, g, states, rate, step)
            for variable, new, old in zip([self.table, *self.variables], [moved, *new_states], [values, *states],
                                          strict=True):  # fmt: skip
                new = new if is_wanted is True else tf.where(is_wanted, new, old)
                variable.value.scatter_update(tf.IndexedSlices(new, where))
            return [start + _BLOCK]

        tf.while_loop(lambda start: start < num_rows, block, [tf.constant(0, tf.int64)], parallel_iterations=1)

    def _rule(self, w, g, states, rate, step):
        if self.kind == "sgd":
            momentum = self.stage.momentum
            m = momentum * states[0] - rate * g
            return w + (momentum * m - rate * g if self.stage.nesterov else m), [m]
        if self.kind == "lion":
            move = tf.sign(0.9 * states[0] + 0.1 * g)
            return w - rate * move, [0.99 * states[0] + 0.01 * g]
        epsilon = 1e-7 if self.stage.epsilon is None else self.stage.epsilon
        m, v = 0.9 * states[0] + 0.1 * g, 0.999 * states[1] + 0.001 * tf.square(g)
        alpha = rate * tf.sqrt(1.0 - tf.pow(0.999, step)) / (1.0 - tf.pow(0.9, step))
        return w - alpha * m / (tf.sqrt(v) + epsilon), [m, v]


def make_optimizer(stage: Stage):
    """A Keras optimizer without weight decay of its own, wrapped for loss scaling under float16.

    The names are fixed: Keras would number them (sgd, sgd_1, ...) by what the process made before, and a checkpoint
    of a later stage would not fit the process that resumes it.

    Args:
        kind: sgd | adam | adamw | nadam | lion.
    """
    epsilon = 1e-7 if stage.epsilon is None else stage.epsilon
    rate = stage.learning_rate
    makers = {
        "sgd": lambda: keras.optimizers.SGD(rate, momentum=stage.momentum, nesterov=stage.nesterov, name="sgd"),
        "adam": lambda: keras.optimizers.Adam(rate, epsilon=epsilon, name="adam"),
        "adamw": lambda: keras.optimizers.Adam(rate, epsilon=epsilon, name="adam"),  # `apply` decays, per variable
        "nadam": lambda: keras.optimizers.Nadam(rate, epsilon=epsilon, name="nadam"),
        "lion": lambda: keras.optimizers.Lion(rate, name="lion"),
    }
    optimizer = makers[stage.optimizer_kind]()
    if keras.mixed_precision.dtype_policy().compute_dtype == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")
    return optimizer


def take_over(new, old) -> None:
    """Copies what `old` has accumulated into `new`, both built, for every variable of the same path and shape."""
    known = {v.path: v for v in old.variables}
    for variable in new.variables:
        if variable.path in known and known[variable.path].shape == variable.shape:
            variable.assign(known[variable.path])


def last_layers(embedder: keras.Model) -> list:
    """The variables after the global operator: those of the last layer that has a kernel."""
    with_kernel = [layer for layer in embedder.layers if any(v.name == "kernel" for v in layer.trainable_variables)]
    return list(with_kernel[-1].trainable_variables) if with_kernel else []


def weight_decays(variables, last: Sequence, stage: Stage) -> list[float]:
    """The decay of each variable: `weight_decay` for kernels, times `last_layer_decay` for those of `last`.

    Biases, BN parameters and PReLU slopes have none: pulling a slope to 0 turns PReLU into ReLU, and pulling gamma
    to 0 does nothing that the next layer cannot undo.

    Args:
        last: the variables after the global operator and the class centres.
    """
    ids = {id(v) for v in last}
    kernels = {"kernel", "centres"}
    factor = {True: stage.last_layer_decay, False: 1.0}
    return [stage.weight_decay * factor[id(v) in ids] if v.name in kernels else 0.0 for v in variables]


class Updater:
    """Clips, decays and applies the gradients of one stage.

    SGD, Adam and Nadam decay by L2, added to the gradient; AdamW and Lion decoupled (Loshchilov & Hutter,
    https://arxiv.org/abs/1711.05101). The variables of `slow` move by `backbone_rate` of what the optimizer says.

    Args:
        variables: those that this stage trains; the optimizer is built over these and perhaps more.
        last: see `weight_decays`.   slow: the embedder's variables.
        own: of `variables`, those that each worker has for itself: the centres of its classes.
        rows: moves the drawn centres of a sampled head, which are not among `variables`.
    """

    def __init__(
        self, optimizer, stage: Stage, variables: Sequence, last: Sequence, slow: Sequence,
        own: Sequence = (), rows: RowOptimizer | None = None, workers: Workers = ONE_WORKER,
    ):  # fmt: skip
        self.optimizer, self.stage, self.variables = optimizer, stage, list(variables)
        self.rows, self.workers = rows, workers
        own_ids = {id(v) for v in own} if workers.count > 1 else set()
        self.is_own = [id(v) in own_ids for v in self.variables]
        self.is_decoupled = stage.optimizer_kind in _DECOUPLED
        self.decays = weight_decays(self.variables, last, stage)
        ids = {id(v) for v in slow}
        self.slow = [v for v in self.variables if id(v) in ids] if stage.backbone_rate != 1.0 else []

    @property
    def loss_scale(self):
        """By what the loss and so the gradients are multiplied, under float16."""
        is_scaled = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        return self.optimizer.dynamic_scale.value if is_scaled else 1.0

    def norm(self, gradients: Sequence):
        """The norm of all gradients together, those of all workers' classes included.

        Args:
            gradients: one for each of `variables`, summed over the workers where all have it; and after them the drawn
                centres' when there are `rows`.
        """
        if self.workers.count == 1:
            return tf.linalg.global_norm(gradients)
        is_own = [*self.is_own, *([True] * (self.rows is not None))]
        shared = tf.linalg.global_norm([g for g, own in zip(gradients, is_own, strict=True) if not own] or [0.0])
        here = tf.linalg.global_norm([g for g, own in zip(gradients, is_own, strict=True) if own] or [0.0])
        return tf.sqrt(tf.square(shared) + self.workers.sum(tf.square(here)))

    def __call__(self, gradients: Sequence, columns=None) -> None:
        """Takes one step.

        Args:
            gradients: of the scaled loss, one for each of `variables`, and one for the drawn centres when there are
                `rows`.   columns: of the head, then.
        """
        scale, norm, drawn = self.loss_scale, None, None
        is_scaled = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        if self.workers.count > 1 or self.rows:
            norm = self.norm(gradients)
        if self.rows:
            *gradients, drawn = gradients
        if is_scaled and norm is not None:  # an overflow in one worker's classes is one for all: each skips the step
            gradients = [g + 0.0 * norm for g in gradients]
        if self.stage.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.stage.clip_norm * scale, use_norm=norm)
        if self.rows:
            self._move_rows(drawn, columns, scale, norm, tf.math.is_finite(norm) if is_scaled else True)
        before = [tf.identity(v.value) for v in self.slow]
        triples = list(zip(self.variables, gradients, self.decays, strict=True))
        if self.is_decoupled:
            rate = tf.cast(self.optimizer.learning_rate, "float32")
            for variable, _, decay in triples:
                if decay:
                    variable.assign(variable.value * (1.0 - rate * decay))
        else:
            gradients = [g + d * scale * v.value if d else g for v, g, d in triples]
        self.optimizer.apply(gradients, self.variables)
        for variable, old in zip(self.slow, before, strict=True):
            variable.assign(old + self.stage.backbone_rate * (variable.value - old))

    def _move_rows(self, gradient, columns, scale, norm, is_wanted) -> None:
        most = self.stage.clip_norm * scale
        factor = (most / tf.maximum(norm, most) if self.stage.clip_norm else 1.0) / scale
        rate = tf.cast(self.optimizer.learning_rate, tf.float32)
        step = tf.cast(self.optimizer.iterations.value + 1, tf.float32)
        rows = rows_of(columns.classes, self.rows.table.shape[0] // columns.num_held)
        decay = self.stage.weight_decay * self.stage.last_layer_decay
        self.rows.apply(rows, gradient, rate, decay, step, factor, is_wanted)
