"""TensorFlow made ready for a training. Names TensorFlow."""

import os
from functools import cache

from facelib.tensorflow_env import quiet_tensorflow
from facelib.training.recipe.schema import Recipe


@cache
def import_tensorflow():
    """TensorFlow, in the environment of a training, which must be set before the first import."""
    # Without it every activation is fresh memory from the system: a quarter of a CPU training step goes to page faults.
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    quiet_tensorflow()
    import tensorflow as tf

    return tf


def prepare_tensorflow(recipe: Recipe) -> None:
    """Memory growth, seeds and precision."""
    tf = import_tensorflow()
    import keras

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy(recipe.precision)
