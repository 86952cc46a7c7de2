"""Finds the embedding of a net: what comes before a margin head, a softmax or a normalisation at its end."""

from dataclasses import dataclass, field

import keras
import numpy as np

from facelib.errors import FaceError, short_name
from facelib.runtimes.keras2 import TensorFlowFunction
from facelib.runtimes.keras_config import CutHead

_NORMALISES = ("math.l2_normalize", "nn.l2_normalize", "linalg.l2_normalize")


@dataclass
class Ending:
    """The end of a net.

    Attributes:
        embedding: the tensor before L2 normalisation.
        lines: what was left out, a line each.
        is_normalised: whether a normalisation was left out.
        centres: class centres of a dense layer with softmax, float32 [C, D]; None if there was none.
    """

    embedding: keras.KerasTensor
    lines: list[str] = field(default_factory=list)
    is_normalised: bool = False
    centres: np.ndarray | None = None


def find_ending(model: keras.Model, heads: dict[str, str], name: str) -> Ending:
    """The embedding of a net, without the layers that serve training alone.

    Args:
        model: of another system, nets within it opened.
        heads: {name of a `CutHead`: class of the margin head that it was}.
        name: of the file, for errors.

    Raises:
        FaceError: several outputs that are not of the same embedding.
    """
    endings = [_strip(output, heads) for output in model.outputs]
    tensors = {id(ending.embedding): ending.embedding for ending in endings}
    if len(tensors) != 1:
        names = ", ".join(short_name(tensor._keras_history.operation.name) for tensor in tensors.values())
        raise FaceError(
            f"An embedder must have one output. '{name}' has the outputs {names}: save the net with only the output "
            "that you need."
        )
    lines = list(dict.fromkeys(line for ending in endings for line in ending.lines))
    centres = next((ending.centres for ending in endings if ending.centres is not None), None)
    return Ending(endings[0].embedding, lines, any(ending.is_normalised for ending in endings), centres)


def _strip(tensor: keras.KerasTensor, heads: dict[str, str]) -> Ending:
    """`tensor` without what follows the embedding."""
    ending, is_softmax = Ending(tensor), False
    while True:
        layer = ending.embedding._keras_history.operation
        if isinstance(layer, CutHead):
            ending.lines.append(f"margin head {short_name(layer.name)} ({heads[layer.name]}) was left out")
        elif _normalises(layer):
            ending.lines.append(
                f"normalisation {short_name(layer.name)} was left out: embedders here return the values before it"
            )
            ending.is_normalised = True
        elif isinstance(layer, keras.layers.Dense) and (is_softmax or layer.activation is keras.activations.softmax):
            ending.lines.append(f"softmax head {short_name(layer.name)} was left out: {layer.units:,} identities")
            ending.centres, is_softmax = layer.kernel.numpy().T, False
        elif _is_softmax(layer):
            is_softmax = True
        elif not (isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.linear):
            return ending
        ending.embedding = layer.input[0] if isinstance(layer.input, list) else layer.input


def _is_softmax(layer) -> bool:
    is_activation = isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.softmax
    return is_activation or isinstance(layer, keras.layers.Softmax)


def _normalises(layer) -> bool:
    if isinstance(layer, TensorFlowFunction):
        return layer.function in _NORMALISES
    return isinstance(layer, keras.layers.UnitNormalization) or type(layer).__name__ == "Normalize"  # keras.ops
