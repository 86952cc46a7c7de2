"""Which layer of the Keras model a node of a graph, or a tensor of a .tflite, came from."""

import re
from collections.abc import Sequence


def layer_of(name: str) -> str:
    """'mobilefacenet_1/stem_conv_1/Relu6;...' -> 'stem_conv': the scope that the operation stands in.

    The number behind it is that of the model's scope, counted up each time a model is traced.
    """
    scopes = name.partition(";")[0].split("/")
    if len(scopes) < 2:
        return scopes[0]
    number = re.search(r"_\d+$", scopes[0])
    return scopes[-2].removesuffix(number.group()) if number and len(scopes) > 2 else scopes[-2]


def is_of(name: str, layers: Sequence[str]) -> bool:
    """Whether the layer of a node or tensor begins with one of `layers`."""
    return any(layer_of(part).startswith(tuple(layers)) for part in name.split(";"))
