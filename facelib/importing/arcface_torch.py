"""InsightFace's nets from their state dicts: the names of the weights and how the layers follow each other, as ONNX.

The structure is that of deepinsight/insightface, recognition/arcface_torch/backbones: iresnet.py and mobilefacenet.py
(`mbf`). As ONNX, the net can be run here and read by the importer of ONNX.
"""

from pathlib import Path
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.models.registry import IRESNET_DEPTHS

EPSILON = 1e-5  # of every normalisation there
_INPUT, _OUTPUT = "input_1", "embeddings"
_ROAD = (
    "Only nets of InsightFace's arcface_torch are supported: iresnet18, 34, 50, 100 and mbf. Export a "
    "different net to ONNX in its own project (torch.onnx.export), and import the .onnx"
)


def to_onnx(tensors: dict[str, np.ndarray], path: Path, size: tuple[int, int]):
    """The net of a state dict as an `onnx.ModelProto`, NCHW, RGB, (x-127.5)/127.5.

    Args:
        tensors: float32, by the names of the state dict.
        path: of the file, for errors.
        size: (height, width) of the faces in pixels.

    Raises:
        FaceError: another net.
    """
    net = _Net({name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}, path)
    if "layer1.0.bn1.weight" in tensors:
        _iresnet(net)
    elif "conv_sep.layers.0.weight" in tensors:
        _mbf(net)
    else:
        raise net.unknown(f"it begins with {next(iter(tensors), 'nothing')!a}")
    if left := net.tensors.keys() - net.used:
        raise net.unknown(f"it also has {min(left)!a}")
    return net.model(size)


class _Net:
    """Adds layer after layer, each on the tensor `at`.

    Args:
        tensors: the state dict.
        path: of the file, for errors.
    """

    def __init__(self, tensors: dict[str, np.ndarray], path: Path):
        self.tensors, self.path = tensors, path
        self.used: set[str] = set()
        self.nodes: list[Any] = []
        self.at, self.channels = _INPUT, 3

    def unknown(self, what: str) -> FaceError:
        return FaceError(f"'{self.path}' is a different net: {what}. {_ROAD}.")

    def count(self, prefix: str) -> int:
        """How many numbered parts begin with `prefix`: 'layer1.' -> blocks of the first group."""
        return len({name[len(prefix) :].partition(".")[0] for name in self.tensors if name.startswith(prefix)})

    def conv(self, name: str, stride: int = 1, pad: int = 0) -> None:
        weights = self._take(f"{name}.weight", 4)
        out, inner, *kernel = weights.shape
        if not inner or self.channels % inner:
            raise self.unknown(f"{name!a} does not have {self.channels} input channels")
        words = {"kernel_shape": kernel, "strides": [stride] * 2, "pads": [pad] * 4, "group": self.channels // inner}
        self.add("Conv", self.at, f"{name}.weight", **words)
        self.channels = out

    def norm(self, name: str) -> None:
        parts = [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        for part in parts:
            if len(self._take(part, 1)) != self.channels:
                raise self.unknown(f"{part!a} does not have {self.channels} values")
        self.add("BatchNormalization", self.at, *parts, epsilon=EPSILON)

    def prelu(self, name: str) -> None:
        slopes = self._take(f"{name}.weight", 1)
        self.tensors[f"{name}.weight"] = slopes.reshape(-1, 1, 1)
        self.add("PRelu", self.at, f"{name}.weight")

    def dense(self, name: str) -> None:
        self.channels = len(self._take(f"{name}.weight", 2))
        biases = [f"{name}.bias"] if f"{name}.bias" in self.tensors else []
        for bias in biases:
            self._take(bias, 1)
        self.add("Flatten", self.at)
        self.add("Gemm", self.at, f"{name}.weight", *biases, transB=1)

    def add(self, op: str, *inputs: str, **attributes) -> None:
        from onnx import helper

        self.at = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [self.at], name=self.at, **attributes))

    def model(self, size: tuple[int, int]):
        from onnx import TensorProto, helper, numpy_helper

        self.nodes[-1].output[0] = _OUTPUT
        graph = helper.make_graph(
            self.nodes,
            "arcface_torch",
            [helper.make_tensor_value_info(_INPUT, TensorProto.FLOAT, ["N", 3, *size])],
            [helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, ["N", self.channels])],
            [numpy_helper.from_array(np.ascontiguousarray(self.tensors[name]), name) for name in sorted(self.used)],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _take(self, name: str, rank: int) -> np.ndarray:
        value = self.tensors.get(name)
        if value is None or value.ndim != rank:
            raise self.unknown(f"it has no {name!a} with {rank} axes")
        self.used.add(name)
        return value


def _iresnet(net: _Net) -> None:
    repeats = tuple(net.count(f"layer{group}.") for group in (1, 2, 3, 4))
    if repeats not in IRESNET_DEPTHS.values():
        raise net.unknown(f"its groups have {repeats} blocks")
    net.conv("conv1", pad=1)
    net.norm("bn1")
    net.prelu("prelu")
    for group, count in enumerate(repeats, start=1):
        for block in range(count):
            _block(net, f"layer{group}.{block}", stride=2 if block == 0 else 1)
    net.norm("bn2")
    net.dense("fc")
    net.norm("features")


def _block(net: _Net, name: str, stride: int) -> None:
    start, channels = net.at, net.channels
    net.norm(f"{name}.bn1")
    net.conv(f"{name}.conv1", pad=1)
    net.norm(f"{name}.bn2")
    net.prelu(f"{name}.prelu")
    net.conv(f"{name}.conv2", stride, pad=1)
    net.norm(f"{name}.bn3")
    way, out = net.at, net.channels
    net.at, net.channels = start, channels
    if stride == 2:
        net.conv(f"{name}.downsample.0", stride)
        net.norm(f"{name}.downsample.1")
    if net.channels != out:
        raise net.unknown(f"{name!a} adds {net.channels} channels to {out}")
    net.add("Add", way, net.at)


def _mbf(net: _Net) -> None:
    _conv_block(net, "layers.0", stride=2, pad=1)
    if "layers.1.layers.0.layers.0.layers.0.weight" in net.tensors:
        raise net.unknown("it is the large mbf, which is not supported here")
    _conv_block(net, "layers.1", pad=1)
    for group in range(2, net.count("layers.")):
        if f"layers.{group}.layers.0.layers.0.layers.0.weight" in net.tensors:
            for block in range(net.count(f"layers.{group}.layers.")):
                start = net.at
                _bottleneck(net, f"layers.{group}.layers.{block}", 1)
                net.add("Add", start, net.at)
        else:
            _bottleneck(net, f"layers.{group}", 2)
    _conv_block(net, "conv_sep")
    _conv_block(net, "features.layers.0", linear=True)
    net.dense("features.layers.2")
    net.norm("features.layers.3")


def _bottleneck(net: _Net, name: str, stride: int) -> None:
    _conv_block(net, f"{name}.layers.0")
    _conv_block(net, f"{name}.layers.1", stride, pad=1)
    _conv_block(net, f"{name}.layers.2", linear=True)


def _conv_block(net: _Net, name: str, stride: int = 1, pad: int = 0, linear: bool = False) -> None:
    net.conv(f"{name}.layers.0", stride, pad)
    net.norm(f"{name}.layers.1")
    if not linear:
        net.prelu(f"{name}.layers.2")
