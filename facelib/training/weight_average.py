"""The exponential moving average (EMA) of the weights of a training."""

import keras
import numpy as np
import tensorflow as tf


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
