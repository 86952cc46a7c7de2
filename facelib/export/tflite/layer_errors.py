"""The error of quantisation by layer: the cosine of each int8 operation to the same operation of the float model."""

import numpy as np

from facelib.export.layer_errors import LayerError
from facelib.runtimes.frozen_graph import layer_of
from facelib.runtimes.tflite import Watched


def layer_errors(full: bytes, quantised: bytes, pixels: np.ndarray) -> list[LayerError]:
    """The errors of all operations that both models have, in the order of execution.

    Args:
        full: the bytes of the float .tflite.
        quantised: the bytes of the int8 .tflite of the same graph.
        pixels: float32 [N, H, W, 3], as the graph takes them.
    """
    int8_net, float_net = Watched(quantised), Watched(full)
    by_name = {name: op.output for op in float_net.ops for name in op.output.name.split(";")}
    pairs = []
    for op in int8_net.ops:
        found = next((by_name[name] for name in op.output.name.split(";") if name in by_name), None)
        if found is not None:
            pairs.append((op, found))
    cosines = np.zeros((len(pixels), len(pairs)))
    for row, face in zip(cosines, pixels, strict=True):
        int8_net.run(face[None])
        float_net.run(face[None])
        row[:] = [_cosine(int8_net.value(op.output), float_net.value(other)) for op, other in pairs]
    known: dict[int, float] = {}  # {tensor number: cosine}
    errors = []
    for (op, _), cosine in zip(pairs, cosines.mean(0).tolist(), strict=True):
        before = min((known[tensor.index] for tensor in op.inputs if tensor.index in known), default=1.0)
        known[op.output.index] = cosine
        errors.append(LayerError(layer_of(op.output.name), op.kind, cosine, before - cosine))
    return errors


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two maps as vectors; 1 if both are all zeros."""
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else float(not (a.any() or b.any()))
