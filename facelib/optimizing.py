"""Optimizers with weight decay where it belongs, and clipped gradients. Names TensorFlow."""

import keras
import tensorflow as tf

from facelib.recipe import StageConfig


def make_optimizer(stage: StageConfig):
    """A Keras optimizer without weight decay of its own, wrapped for loss scaling under float16.

    The names are fixed: Keras would number them (sgd, sgd_1, ...) by what the process made before, and a checkpoint
    of a later stage would not fit the process that resumes it.
    """
    if stage.optimizer == "adamw":  # the decoupled decay is in `apply_gradients`, which knows the last layers
        optimizer = keras.optimizers.Adam(stage.learning_rate, name="adam")
    else:
        optimizer = keras.optimizers.SGD(stage.learning_rate, momentum=stage.momentum, name="sgd")
    if keras.mixed_precision.dtype_policy().compute_dtype == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")
    return optimizer


def weight_decays(variables, last_layers, stage: StageConfig) -> list[float]:
    """The decay of each variable: `weight_decay` for kernels, times `last_layer_decay` for those of `last_layers`.

    Biases, BN parameters and PReLU slopes have none: pulling a slope to 0 turns PReLU into ReLU, and pulling gamma
    to 0 does nothing that the next layer cannot undo.

    Args:
        last_layers: the variables after the global operator and the class centres.
    """
    last = {id(v) for v in last_layers}
    kernels = {"kernel", "centres"}
    factor = {True: stage.last_layer_decay, False: 1.0}
    return [stage.weight_decay * factor[id(v) in last] if v.name in kernels else 0.0 for v in variables]


def apply_gradients(optimizer, variables, gradients, decays, stage: StageConfig) -> None:
    """Clips, decays and applies. SGD: L2, added to the gradient; AdamW: decoupled (Loshchilov & Hutter, 1711.05101).

    Args:
        variables, gradients, decays: lists of equal length; the gradients are of the scaled loss where the optimizer
            scales losses.
    """
    scale = optimizer.dynamic_scale.value if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else 1.0
    if stage.clip_norm:
        gradients, _ = tf.clip_by_global_norm(gradients, stage.clip_norm * scale)
    triples = list(zip(variables, gradients, decays, strict=True))
    if stage.optimizer == "sgd":
        gradients = [g + d * scale * v.value if d else g for v, g, d in triples]
    else:
        rate = tf.cast(optimizer.learning_rate, "float32")
        for variable, _, decay in triples:
            if decay:
                variable.assign(variable.value * (1.0 - rate * decay))
    optimizer.apply(gradients, variables)
