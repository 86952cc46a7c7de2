"""A network with another activation and otherwise the same weights. Names Keras."""

import keras

from facelib.errors import FaceError
from facelib.models.layers import PReLU, activation

SWAPPED = (PReLU, keras.layers.PReLU, keras.layers.ReLU, keras.layers.LeakyReLU)


def swap_activations(model: keras.Model, kind: str, where: str) -> tuple[keras.Model, int]:
    """(A new model whose PReLU, ReLU and LeakyReLU layers are all of `kind`, how many were another).

    Every other layer has the same name, configuration and weights; the new layers have the names of the old ones. What
    is a function inside another layer, such as the hard sigmoid of a GhostFaceNet, stays.

    Args:
        kind: 'relu', 'relu6' or 'leaky_relu', see `facelib.models.layers.activation`.   where: names the model in errors.

    Raises:
        FaceError: nothing to swap.
    """
    num_swapped = 0

    def twin_of(layer):
        nonlocal num_swapped
        if not isinstance(layer, SWAPPED):
            return type(layer).from_config(layer.get_config())
        new = activation(kind, layer.name)
        new.dtype_policy = layer.dtype_policy
        num_swapped += not _is_alike(layer, new)
        return new

    twin = keras.models.clone_model(model, clone_function=twin_of)
    if not num_swapped:
        kinds = ", ".join(sorted({type(layer).__name__ for layer in model.layers if isinstance(layer, SWAPPED)}))
        raise FaceError(
            f"The twin of a model has another activation. '{where}' has no layer that is not {kind} already "
            f"({kinds or 'no PReLU, ReLU or LeakyReLU at all'}): choose another --to."
        )
    for layer in twin.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return twin, num_swapped


def _is_alike(layer, new) -> bool:
    """Whether two activation layers compute the same."""
    own = ("max_value", "negative_slope", "threshold")
    return type(layer) is type(new) and all(getattr(layer, k, None) == getattr(new, k, None) for k in own)
