"""What a [model] table sets on any network that was built: batch normalisation, slopes, first values of the kernels."""

import keras

from facelib.models.layers import FusedBatchNorm, PReLU
from facelib.models.registry import ModelConfig

# A new one for each kernel: one initialiser gives the same values each time.
_INITIALISERS = {
    "he_normal": keras.initializers.HeNormal,
    "glorot_normal": keras.initializers.GlorotNormal,
    "glorot_uniform": keras.initializers.GlorotUniform,
    "normal": lambda: keras.initializers.RandomNormal(stddev=0.1),
}


def apply_settings(net: keras.Model, model: ModelConfig) -> None:
    """Sets `slope`, `bn_momentum`, `bn_epsilon` and `kernel_init` where the table gives them.

    Args:
        net: with random weights; it is changed.
        model: the table.
    """
    for layer in net.layers:
        if isinstance(layer, FusedBatchNorm):
            layer.momentum = layer.momentum if model.bn_momentum is None else model.bn_momentum
            layer.epsilon = layer.epsilon if model.bn_epsilon is None else model.bn_epsilon
        if model.slope is not None:
            _set_slope(layer, model.slope)
        if model.kernel_init != "own" and hasattr(layer, "kernel"):
            layer.kernel.assign(_INITIALISERS[model.kernel_init]()(layer.kernel.shape))


def _set_slope(layer: keras.Layer, slope: float) -> None:
    if isinstance(layer, PReLU):
        layer.alpha.assign(keras.ops.full(layer.alpha.shape, slope))
    elif isinstance(layer, keras.layers.LeakyReLU):
        layer.negative_slope = slope
