"""Optimizer steps of some rows of a table: the centres that a step has drawn, and no others. Names TensorFlow."""

import keras
import tensorflow as tf

from facelib.training.recipe.stage import ROW_OPTIMIZERS, Stage

_BLOCK = 2048  # rows a time: the temporary values stay in the cache, and small beside the table


class RowOptimizer:
    """Keras's rule of `kind`, for the rows that a step has read; rows that were not drawn keep value and state.

    A row's momentum so stands still between two draws, and Adam's bias correction counts steps of the training, not
    draws of the row, as in TensorFlow's lazy optimizers. With all rows drawn it is Keras's optimizer.

    Args:
        table: variable [R, D].   stage: momentum, nesterov, epsilon.   kind: one of ROW_OPTIMIZERS.
    """

    def __init__(self, table, stage: Stage, kind: str):
        self.table, self.stage, self.kind = table, stage, kind
        self.is_decoupled = kind in ("adamw", "lion")
        self.variables = [
            keras.Variable(initializer="zeros", shape=table.shape, trainable=False, name=f"row_{kind}_{i}")
            for i in range(ROW_OPTIMIZERS[kind])
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
