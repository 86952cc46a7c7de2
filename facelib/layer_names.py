"""Which layer of the Keras model a node of a graph, or a tensor of a .tflite, came from."""

from collections.abc import Sequence


def layer_of(name: str) -> str:
    """'mobilefacenet_1/stem_conv_1/Relu6;...' -> 'stem_conv_1': the scope that the operation stands in."""
    parts = name.partition(";")[0].split("/")
    return parts[-2] if len(parts) > 1 else parts[0]


def is_of(name: str, layers: Sequence[str]) -> bool:
    """Whether the layer of a node or tensor begins with one of `layers`."""
    return any(layer_of(part).startswith(tuple(layers)) for part in name.split(";"))
