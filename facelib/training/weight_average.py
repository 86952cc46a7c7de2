"""The exponential moving average (EMA) of the weights of a training."""

import keras
import numpy as np
import tensorflow as tf


class WeightAverage:
    """An exponential moving average of a model's variables, BN statistics included.

    After step t, `average = d * average + (1 - d) * value` with d = min(decay, (1 + t) / (10 + t)): the first values,
    which are far from trained, soon lose their weight.

    As a context manager it gives the model the averages as its weights, and restores the trained weights at the end.

    Args:
        model: the Keras model that is trained.
        decay: d after many steps, in [0, 1).
    """

    def __init__(self, model: keras.Model, decay: float):
        self.decay = decay
        self.model_variables = [v for v in model.variables if "float" in v.dtype]  # not the random state of dropout
        self.variables = [
            keras.Variable(tf.identity(v.value), trainable=False, name=f"average_{i}")  # a copy
            for i, v in enumerate(self.model_variables)
        ]
        self._update = tf.function(self._step)

    def update(self, step: int) -> None:
        """Adds the model's weights to the average.

        Args:
            step: t, counted from 0 in this stage.
        """
        self._update(tf.constant(min(self.decay, (1 + step) / (10 + step)), tf.float32))

    def _step(self, decay):
        for average, variable in zip(self.variables, self.model_variables, strict=True):
            average.assign(average.value + (1.0 - decay) * (variable.value - average.value))

    def __enter__(self):
        self._trained = [np.array(v.numpy()) for v in self.model_variables]  # a copy: numpy() may be the memory itself
        for average, variable in zip(self.variables, self.model_variables, strict=True):
            variable.assign(average.value)
        return self

    def __exit__(self, *exc):
        for variable, value in zip(self.model_variables, self._trained, strict=True):
            variable.assign(value)
