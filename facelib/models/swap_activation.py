"""Copies a network with another activation and otherwise the same weights."""

import keras

from facelib.errors import FaceError
from facelib.models.layers import PReLU, activation

SWAPPED = (PReLU, keras.layers.PReLU, keras.layers.ReLU, keras.layers.LeakyReLU)
_SETTINGS = ("max_value", "negative_slope", "threshold")  # that tell two activation layers of one class apart


def swap_activations(model: keras.Model, kind: str, where: str) -> tuple[keras.Model, int]:
    """Makes a copy whose PReLU, ReLU and LeakyReLU layers are all of one kind.

    Every other layer has the same name, configuration and weights. The new layers have the names of the old ones.
    Activation functions inside other layers stay, such as the hard sigmoid of a GhostFaceNet.

    Args:
        model: the original; it is not changed.
        kind: 'relu', 'relu6' or 'leaky_relu'; see `facelib.models.layers.activation`.
        where: names the model in errors.

    Returns:
        (the copy, how many layers were of another kind).

    Raises:
        FaceError: no layer is of another kind.
    """
    num_swapped = 0

    def copy_layer(layer):
        nonlocal num_swapped
        if not isinstance(layer, SWAPPED):
            return type(layer).from_config(layer.get_config())
        new = activation(kind, layer.name)
        new.dtype_policy = layer.dtype_policy
        num_swapped += not _is_same(layer, new)
        return new

    copy = keras.models.clone_model(model, clone_function=copy_layer)
    if not num_swapped:
        kinds = ", ".join(sorted({type(layer).__name__ for layer in model.layers if isinstance(layer, SWAPPED)}))
        raise FaceError(
            f"A swap must change at least one activation. '{where}' has no activation to change to {kind} (found: "
            f"{kinds or 'no PReLU, ReLU or LeakyReLU at all'}): choose a different --to."
        )
    for layer in copy.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return copy, num_swapped


def _is_same(layer, new) -> bool:
    """Whether two activation layers compute the same."""
    return type(layer) is type(new) and all(getattr(layer, k, None) == getattr(new, k, None) for k in _SETTINGS)
