"""Reads convolutional ONNX models as a plain list of convolutions, each with what follows it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facelib.cli import FaceError
from facelib.files import require_file

# What a chain of convolutions may hold beside Conv, and what it does to numbers in inference.
_ACTIVATIONS = ("Relu", "Clip", "PRelu", "LeakyRelu")
_SHAPING = ("Reshape", "Flatten", "Squeeze", "Identity", "Dropout", "Constant", "Shape", "Gather", "Unsqueeze",
            "Concat", "Slice", "Cast")  # fmt: skip


@dataclass
class Convolution:
    """One Conv node, the batch normalisation and the activation after it.

    name: of the node.   kernel: float32, ONNX order [out, in / groups, kh, kw].   pads: top, left, bottom, right.
    scale, mean, beta: float32 [out], `y = scale * (conv(x) - mean) + beta`, bias and normalisation in one.
    activation: 'linear' | 'relu' | 'prelu' | 'leaky_relu'.   max_value: of 'relu', or None.
    slope: float32 [out] of 'prelu', one number of 'leaky_relu'.   is_added: whether a shortcut is added after it.
    """

    name: str
    kernel: np.ndarray
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    groups: int
    scale: np.ndarray
    mean: np.ndarray
    beta: np.ndarray
    activation: str = "linear"
    max_value: float | None = None
    slope: np.ndarray | float | None = None
    is_added: bool = False

    @property
    def is_depthwise(self) -> bool:
        return self.groups > 1

    def describe(self) -> str:
        """'3x3 depthwise, 128 channels, stride 2', for messages."""
        out, _, height, width = self.kernel.shape
        what = f"depthwise, {out} channels" if self.is_depthwise else f"convolution, {self.in_channels} to {out}"
        return f"{height}x{width} {what}, stride {self.strides[0]}"

    @property
    def in_channels(self) -> int:
        return self.kernel.shape[1] * self.groups


def load_onnx(path: Path):
    """Reads and checks an ONNX model; a FaceError where the file is none."""
    import onnx

    data = require_file(path, "ONNX model").read_bytes()
    try:
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's DecodeError and onnx's ValidationError
        if type(error).__name__ not in ("DecodeError", "ValidationError"):
            raise
        reason = " ".join(str(error).split())[:160]
        raise FaceError(f"'{path}' is no ONNX model, or a damaged one ({reason}). Copy it again.") from error
    if not model.graph.node:
        raise FaceError(f"'{path}' is no ONNX model: it holds no nodes. Copy it again.")
    return model


def input_size(model) -> tuple[int, int]:
    """(height, width) of the NCHW input; 112x112 where the model leaves it open."""
    stored = {tensor.name for tensor in model.graph.initializer}
    (tensor, *more) = [tensor for tensor in model.graph.input if tensor.name not in stored]
    dims = [dim.dim_value for dim in tensor.type.tensor_type.shape.dim]
    if more or len(dims) != 4 or dims[1] not in (0, 3):
        raise FaceError(f"A face model has one input [N, 3, H, W]. Received: '{tensor.name}' {dims}.")
    return (dims[2] or 112, dims[3] or 112)


def list_convolutions(model, path: Path) -> list[Convolution]:
    """The convolutions in the order they run.

    Raises:
        FaceError: an operation that is no part of such a chain, named.
    """
    from onnx import helper, numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found: list[Convolution] = []
    for node in model.graph.node:
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
        elif node.op_type == "Conv":
            found.append(_read_convolution(node, attributes, constants, path))
        elif node.op_type in ("BatchNormalization", *_ACTIVATIONS, "Add"):
            if not found:
                raise FaceError(f"'{path}' begins with {node.op_type}; a chain of convolutions begins with Conv.")
            _add_to(found[-1], node, attributes, constants, path)
        elif node.op_type not in _SHAPING:
            raise FaceError(
                f"'{path}' has an operation '{node.op_type}' ({node.name or node.output[0]}) that no MobileFaceNet "
                f"has: it is another architecture, and import_onnx.py cannot take its weights."
            )
    if not found:
        raise FaceError(f"'{path}' has no convolutions: it is no face model that import_onnx.py knows.")
    return found


def _read_convolution(node, attributes, constants, path: Path) -> Convolution:
    kernel = constants.get(node.input[1])
    if kernel is None or kernel.ndim != 4:
        raise FaceError(f"'{path}': the weights of convolution '{node.name}' are no 4-D constant.")
    if any(step != 1 for step in attributes.get("dilations", [1, 1])) or attributes.get("auto_pad", b"NOTSET") not in (
        b"NOTSET",
        b"VALID",
    ):
        raise FaceError(f"'{path}': convolution '{node.name}' is dilated or pads by itself; no MobileFaceNet does.")
    out = kernel.shape[0]
    bias = constants.get(node.input[2]) if len(node.input) > 2 else None
    return Convolution(
        node.name or node.output[0],
        kernel.astype(np.float32),
        tuple(attributes.get("strides", [1, 1])),
        tuple(attributes.get("pads", [0, 0, 0, 0])),
        attributes.get("group", 1),
        scale=np.ones(out, np.float32),
        mean=np.zeros(out, np.float32),
        beta=np.zeros(out, np.float32) if bias is None else bias.astype(np.float32),
    )


def _add_to(convolution: Convolution, node, attributes, constants, path: Path) -> None:
    if node.op_type == "Add":
        convolution.is_added = True
    elif node.op_type == "BatchNormalization":
        if convolution.activation != "linear" or convolution.is_added:
            raise FaceError(f"'{path}': '{node.name}' normalises after an activation; no MobileFaceNet does.")
        gamma, beta, mean, variance = (constants[name].astype(np.float64) for name in node.input[1:5])
        scale = gamma / np.sqrt(variance + attributes.get("epsilon", 1e-5))
        convolution.mean = (mean - convolution.beta).astype(np.float32)
        convolution.scale, convolution.beta = scale.astype(np.float32), beta.astype(np.float32)
    elif node.op_type == "Clip":
        low, high = (constants.get(name) if name else None for name in (*node.input[1:3], "", "")[:2])
        low = attributes.get("min", None if low is None else float(low))
        high = attributes.get("max", None if high is None else float(high))
        if low != 0 or high is None:
            raise FaceError(f"'{path}': '{node.name}' clips to {low}..{high}; ReLU6 is 0..6.")
        convolution.activation, convolution.max_value = "relu", float(high)
    elif node.op_type == "PRelu":
        slope = np.asarray(constants[node.input[1]], np.float32)
        convolution.activation, convolution.slope = "prelu", slope.reshape(-1)
    elif node.op_type == "LeakyRelu":
        convolution.activation, convolution.slope = "leaky_relu", float(attributes.get("alpha", 0.01))
    else:
        convolution.activation = "relu"
