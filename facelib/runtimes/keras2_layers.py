"""The layers of Keras 2 in the terms of Keras 3: classes that had another name, keys that are gone, activations."""

import inspect
from typing import Any

import keras

from facelib.errors import FaceError, short_name, short_repr

_RENAMED = {"BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization",
            "SyncBatchNormalization": "BatchNormalization", "DepthwiseConv2DNative": "DepthwiseConv2D",
            "CuDNNBatchNormalization": "BatchNormalization"}  # fmt: skip
# Keys of every layer, and keys that Keras 3 takes without naming them.
_COMMON = {"name", "trainable", "dtype", "batch_input_shape", "batch_shape", "input_shape", "input_dtype", "sparse",
           "ragged", "optional", "alpha", "layers"}  # fmt: skip
# Keys that have no effect on what a layer computes in inference, whatever their value is.
_WITHOUT_EFFECT = ("fused", "renorm_clipping", "renorm_momentum", "virtual_batch_size", "implementation", "keep_dims")
_ONLY_IN_TRAINING = ("_initializer", "_regularizer", "_constraint")
_NEUTRAL = (None, False, 1, [1, 1])  # of any other key: groups 1, no renorm, no adjustment

_ACTIVATIONS = {"h_swish": "hard_swish", "hswish": "hard_swish", "relu_6": "relu6", "h_sigmoid": "hard_sigmoid",
                "hard_sigmoid": "face>hard_sigmoid_of_keras2", "silu": "swish"}  # fmt: skip
_KNOWN = {"relu", "leaky_relu", "relu6", "softmax", "elu", "selu", "softplus", "softsign", "swish", "gelu", "tanh",
          "sigmoid", "exponential", "linear", "mish", "hard_swish", "hard_sigmoid"}  # fmt: skip
_ROAD = "Export the net to ONNX where it was trained (tf2onnx), and import the ONNX file."


@keras.saving.register_keras_serializable(package="face", name="hard_sigmoid_of_keras2")
def hard_sigmoid_of_keras2(x):
    """`min(max(0.2 x + 0.5, 0), 1)`. The one of Keras 3 has the slope 1/6."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def renew_layer(kind: str, config: dict) -> tuple[str, dict]:
    """(class, configuration) of a layer in Keras 3.

    What matters to training alone (initialisers, regularisers, constraints) is left out: the recipe says it.

    Args:
        kind: class in Keras 2.
        config: its configuration. It is not changed.

    Raises:
        FaceError: a key that Keras 3 does not have and that changes what is computed, or an activation not known here.
    """
    kind = _RENAMED.get(kind, kind)
    layer = getattr(keras.layers, kind, None)
    if not inspect.isclass(layer):
        return kind, config
    if kind == "LeakyReLU" and "alpha" in config:
        config = {**config, "negative_slope": config["alpha"]}
        del config["alpha"]
    known = _parameters(layer)
    new = {}
    for key, value in config.items():
        if key.endswith(_ONLY_IN_TRAINING) or key in _WITHOUT_EFFECT:
            continue
        if key in known:
            new[key] = _plain(value)
        elif value not in _NEUTRAL:
            raise FaceError(
                f"The layer {short_name(config.get('name'))} is a {kind} with {short_name(key)} = "
                f"{short_repr(value)}, which Keras 3 does not support. {_ROAD}"
            )
    for key in ("activation", "recurrent_activation"):
        if key in new:
            new[key] = _renew_activation(new[key], config.get("name"))
    return kind, new


def _parameters(layer: type) -> frozenset[str]:
    """The names that a layer of Keras 3 takes."""
    makers = [vars(base)["__init__"] for base in layer.__mro__ if "__init__" in vars(base) and base is not object]
    names = [name for maker in makers for name in inspect.signature(maker).parameters]
    return frozenset(names) - {"self", "args", "kwargs"} | _COMMON


def _plain(value: Any) -> Any:
    """A number that Keras 2.0 to 2.2 wrote as an array."""
    return value["value"] if isinstance(value, dict) and value.get("type") == "ndarray" else value


def _renew_activation(value: Any, layer: Any) -> Any:
    """The name of an activation. One that was a function of the user is known by its name."""
    if isinstance(value, dict) and isinstance(value.get("config"), str):
        value = value["config"]
    if value is None or isinstance(value, dict):  # a layer in the place of a function: Keras reads it
        return value
    name = str(value).split(">")[-1]
    if name not in _KNOWN and name not in _ACTIVATIONS:
        raise FaceError(
            f"The layer {short_name(layer)} has the activation {short_name(name)}, a function that is not in the file "
            f"and is unknown here. {_ROAD}"
        )
    return _ACTIVATIONS.get(name, name)
