"""Quantises an ONNX model to int8, by ONNX Runtime: QuantizeLinear and DequantizeLinear around each operation (QDQ).

Activations are uint8 with one scale for a tensor, weights int8 with one scale for a channel. Ranges are the smallest
and largest values on the calibration crops, as TFLite measures them. The input stays float32: its scaling is computed
in float, and 255 steps of the first convolution's input are the 255 steps of a pixel.

The scaling is written as a convolution of each channel. ONNX Runtime computes int8 convolutions with the channels last,
and moves the Transpose of the input behind a Sub and a Div of three numbers. There they take 400 of 4450 microseconds,
the convolution 30 (public net, an EPYC without VNNI).
"""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facelib.data.readers.calibration_crops import with_full_range
from facelib.model_input import Io, to_model_input

FIRST_PER_CHANNEL = 13  # the first opset with a scale for each channel


def quantise_onnx(model: bytes, crops: np.ndarray, io: Io, batch: int = 0) -> bytes:
    """The bytes of an int8 model that computes nearly what `model` computes.

    Weights have 7 bits: x86 CPUs without VNNI add two products in 16 bits, which overflow with 8. The public net, on
    24 LFW crops and such a CPU: worst cosine to float 0.981 with 7 bits, 0.940 with 8.

    Args:
        model: bytes of a float32 ONNX model with one input.
        crops: uint8 [N, H, W, 3], RGB: faces to measure the ranges on.
        io: how the model is fed.
        batch: images that it takes in one call; 0 for any number.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    graph = onnx.load_from_string(model)
    before = scale_by_convolution(graph.graph)
    calls = _Calls(crops, io, graph.graph.input[0].name, max(batch, 1))
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a pre-processing that is done
    try:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "int8.onnx"
            quantize_static(
                graph, out, calls, quant_format=QuantFormat.QDQ, nodes_to_exclude=before,
                per_channel=True, reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )  # fmt: skip
            return out.read_bytes()
    finally:
        root.setLevel(level)


def scale_by_convolution(graph) -> list[str]:
    """Writes the scaling of the pixels as a 1x1 convolution of each channel, in place.

    Args:
        graph: an `onnx.GraphProto` of images [N, 3, H, W], or [N, H, W, 3] that a Transpose turns.

    Returns:
        names of the nodes before the net: layout and scaling of the pixels. Their values stay float.
    """
    from onnx import helper, numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = list(graph.node)
    before = [node for node in nodes[:1] if node.op_type == "Transpose"]
    scaling: list = []
    factor, offset = np.ones(3), np.zeros(3)
    for node in nodes[len(before) :]:
        value = constants.get(node.input[1]) if node.op_type in _SCALING and len(node.input) == 2 else None
        if value is None or value.size not in (1, 3):
            break
        factor, offset = _SCALING[node.op_type](factor, offset, value.ravel().astype(float))
        scaling.append(node)
    if scaling:
        name = f"{scaling[-1].name}/convolution"
        kernel, bias = factor.reshape(3, 1, 1, 1).astype(np.float32), offset.astype(np.float32)
        for part, values in (("kernel", kernel), ("bias", bias)):
            graph.initializer.append(numpy_helper.from_array(values, f"{name}/{part}"))
        inputs = [scaling[0].input[0], f"{name}/kernel", f"{name}/bias"]
        convolution = helper.make_node("Conv", inputs, scaling[-1].output[:], name=name, group=3, kernel_shape=[1, 1])
        rest = nodes[len(before) + len(scaling) :]
        before = [*before, convolution]
        unused = {node.input[1] for node in scaling} - {name for node in rest for name in node.input}
        for tensor in [each for each in graph.initializer if each.name in unused]:
            graph.initializer.remove(tensor)
        del graph.node[:]
        graph.node.extend([*before, *rest])
    return [node.name for node in before]


_SCALING = {  # operation: (factor, offset, its constant) -> factor and offset with it
    "Sub": lambda factor, offset, value: (factor, offset - value),
    "Add": lambda factor, offset, value: (factor, offset + value),
    "Mul": lambda factor, offset, value: (factor * value, offset * value),
    "Div": lambda factor, offset, value: (factor / value, offset / value),
}


class _Calls:
    """The calibration data as ONNX Runtime reads it: `get_next` gives the inputs of one call, and None at the end.

    Args:
        crops: uint8 [N, H, W, 3], RGB.
        io: how the model is fed.
        name: of its input.
        batch: images in a call, which are the same crop.
    """

    def __init__(self, crops: np.ndarray, io: Io, name: str, batch: int):
        self._name = name
        self._pixels: Iterator[np.ndarray] = (
            np.repeat(to_model_input(crop[None], io).astype(np.float32), batch, axis=0)
            for crop in with_full_range(crops)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """{input: float32 [batch, ...]} of the next crop."""
        pixels = next(self._pixels, None)
        return None if pixels is None else {self._name: pixels}
