"""The optimizers of a recipe by name, and `RowOptimizer`, which updates the class centres that a step has sampled."""

import keras
import tensorflow as tf

from facelib.tensorflow_env import has_gpu
from facelib.training.recipe.schema import ROW_OPTIMIZERS, Stage

_BLOCK = 2048  # rows at a time: the temporary values stay in the cache of a CPU
_GPU_BLOCK = 16_384

DECOUPLED = ("adamw", "lion")


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
        self.is_decoupled = self.kind in DECOUPLED
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
        num_rows = tf.size(rows)  # not int64: the host counts the blocks
        at_once = _GPU_BLOCK if has_gpu() else _BLOCK

        def block(start):
            part = slice(start, start + at_once)
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
            return [start + at_once]

        tf.while_loop(lambda start: start < num_rows, block, [tf.constant(0)], parallel_iterations=1)

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
    """Copies state from one optimizer to another, for every variable of the same path and shape.

    Args:
        new: variables of an optimizer, which are set.
        old: variables of an optimizer.
    """
    known = {v.path: v for v in old}
    for variable in new:
        if variable.path in known and known[variable.path].shape == variable.shape:
            variable.assign(known[variable.path].numpy())
