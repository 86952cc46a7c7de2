"""Lists a convolutional face model in ONNX as steps: a convolution or dense layer each, with what follows it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.models.onnx_import.reader import Node, find_input, read_nodes

_ACTIVATIONS = ("Relu", "Clip", "PRelu", "LeakyRelu")
# Operations that change no value between two steps, or compute a shape.
_SHAPING = ("Reshape", "Flatten", "Squeeze", "Identity", "Dropout", "Shape", "Gather", "Unsqueeze", "Concat", "Slice",
            "Cast")  # fmt: skip


@dataclass(eq=False)
class Step:
    """A convolution or a separate normalisation, then `y = scale * (x - mean) + beta`, and an activation.

    Attributes:
        name: of the node.
        kernel: float32, ONNX's order [out, in / groups, kh, kw]; None for a separate normalisation. A fully connected
            layer is a convolution whose kernel covers the map.
        strides: down, right.
        pads: top, left, bottom, right.
        groups: of the convolution.
        scale: float32 [out], of bias and normalisation together.
        mean: float32 [out].
        beta: float32 [out].
        origins: the steps whose results, or sums of results, this step takes.
        variance: float32 [out], the moving variance of the normalisation; None if the exporter folded it.
        activation: 'linear', 'relu', 'prelu' or 'leaky_relu'.
        max_value: of 'relu', or None.
        slope: float32 [out] for 'prelu', a number for 'leaky_relu'.
        is_added: whether a sum takes the result.
        pair: a second depthwise kernel, see `facelib.models.onnx_import.reader.pair_channels`.
    """

    name: str
    kernel: np.ndarray | None
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    groups: int
    scale: np.ndarray
    mean: np.ndarray
    beta: np.ndarray
    origins: "tuple[Step, ...]"
    variance: np.ndarray | None = None
    activation: str = "linear"
    max_value: float | None = None
    slope: np.ndarray | float | None = None
    is_added: bool = False
    pair: np.ndarray | None = None

    @property
    def is_depthwise(self) -> bool:
        return self.kernel is not None and self.groups > 1 and self.kernel.shape[1] == 1

    @property
    def channels(self) -> int:
        return len(self.scale)

    def describe(self) -> str:
        """'3x3 depthwise, 128 channels, stride 2', for messages and for comparison."""
        if self.kernel is None:
            return f"normalisation alone, {self.channels} channels"
        _, inputs, height, width = self.kernel.shape
        if self.is_depthwise:
            return describe(height, width, self.strides[0], depthwise=self.channels, is_paired=self.pair is not None)
        text = describe(height, width, self.strides[0], dense=(inputs * self.groups, self.channels))
        return text if self.groups == 1 else f"{text}, {self.groups} groups"


def describe(height: int, width: int, stride: int, *, dense=None, depthwise=None, is_paired=False) -> str:
    """Describes a convolution, for messages and for comparison.

    Args:
        height: of the kernel.
        width: of the kernel.
        stride: of both axes.
        dense: (channels in, channels out) of a convolution over all channels, else None.
        depthwise: channels of a depthwise convolution, else None.
        is_paired: whether it is the sum of two depthwise convolutions.
    """
    if depthwise is None:
        return f"{height}x{width} convolution, {dense[0]} to {dense[1]}, stride {stride}"
    return f"{height}x{width} depthwise{' in pairs' if is_paired else ''}, {depthwise} channels, stride {stride}"


def list_steps(model, path: Path) -> list[Step]:
    """Lists the steps in the order in which Keras lists layers: those farthest from the output first.

    The last convolution of a block and its shortcut are equally far; the shortcut, with its smaller kernel, is first.

    Args:
        model: from `load_onnx`.
        path: names it in errors.

    Raises:
        FaceError: an operation that does not belong to such a model.
    """
    nodes, constants = read_nodes(model)
    reader = _Reader(*find_input(model), constants, path)
    for node in nodes:
        reader.take(node)
    if not any(step.kernel is not None for step in reader.steps):
        raise FaceError(f"'{path}' has no convolutions, so it is not a face model that import_model.py supports.")
    return _in_keras_order(reader.steps)


def _in_keras_order(steps: list[Step]) -> list[Step]:
    distance = dict.fromkeys(steps, 0)  # to the output
    for step in reversed(steps):
        for origin in step.origins:
            distance[origin] = max(distance[origin], distance[step] + 1)
    return sorted(steps, key=lambda step: (-distance[step], 0 if step.kernel is None else step.kernel[0, 0].size))


@dataclass
class _Tensor:
    """What is known of a tensor.

    Attributes:
        step: the step whose result it is so far; None for a sum and for the input.
        shape: channels, height and width.
        origins: the steps whose results, or sums of results, it is.
    """

    step: Step | None
    shape: tuple[int, int, int]
    origins: tuple[Step, ...]


class _Reader:
    """Turns nodes into steps, and remembers for each tensor the step it comes from."""

    def __init__(self, input_name: str, size: tuple[int, int], constants: dict[str, np.ndarray], path: Path):
        self.constants, self.path = constants, path
        self.steps: list[Step] = []
        self.tensors = {input_name: _Tensor(None, (3, *size), ())}

    def take(self, node: Node) -> None:
        handlers = {
            "Conv": self._convolution,
            "Gemm": self._dense,
            "MatMul": self._dense,
            "BatchNormalization": self._normalisation,
            "Add": self._sum,
            **dict.fromkeys(_ACTIVATIONS, self._activation),
            **dict.fromkeys(_SHAPING, lambda node, source: source),
        }
        if node.op not in handlers:
            raise FaceError(
                f"import_model.py supports no network with the operation '{node.op}' ({node.name}) of '{self.path}'. "
                "The model has a different architecture and cannot be imported."
            )
        known = [self.tensors[name] for name in node.inputs if name in self.tensors]
        if not known:
            raise self._other_network(f"'{node.name}' ({node.op}) does not depend on the input")
        self.tensors[node.output] = handlers[node.op](node, known[0])

    def _other_network(self, what: str) -> FaceError:
        """The error for a network that import_model.py does not know."""
        return FaceError(
            f"'{self.path}' cannot be imported: {what}. import_model.py supports MobileFaceNets and arcface_torch "
            "networks. You can test other models without import: python onnx_test.py MODEL.onnx --help."
        )

    def _constant(self, node: Node, place: int, what: str, channels: int | None = None) -> np.ndarray:
        """An input of a node that must be constant.

        Args:
            node: that has the input.
            place: of the input, from 0.
            what: the input is, for messages.
            channels: how many numbers it must have; None for any.
        """
        value = self.constants.get(node.inputs[place])
        if value is None:
            raise self._other_network(f"the {what} of '{node.name}' ({node.op}) are not constant")
        if channels is not None and value.size != channels:
            raise self._other_network(f"'{node.name}' has {channels} channels, but {value.size} {what}")
        return value.astype(np.float32)

    def _biases(self, node: Node, channels: int) -> np.ndarray:
        has_some = len(node.inputs) > 2 and node.inputs[2]
        return self._constant(node, 2, "biases", channels).reshape(-1) if has_some else np.zeros(channels, np.float32)

    def _add_step(self, node: Node, source: _Tensor, kernel, beta: np.ndarray, **geometry) -> Step:
        words = {"strides": (1, 1), "pads": (0, 0, 0, 0), "groups": 1, **geometry}
        scale, mean = np.ones_like(beta), np.zeros_like(beta)
        step = Step(node.name, kernel, scale=scale, mean=mean, beta=beta, origins=source.origins, **words)
        self.steps.append(step)
        return step

    def _convolution(self, node: Node, source: _Tensor) -> _Tensor:
        kernel, given = self._constant(node, 1, "weights"), node.attributes
        strides, pads = tuple(given.get("strides", [1, 1])), tuple(given.get("pads", [0, 0, 0, 0]))
        is_plain = len(set(strides)) == 1 and len(pads) == 4 and set(given.get("dilations", [1])) == {1}
        if kernel.ndim != 4 or not is_plain or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise self._other_network(f"convolution '{node.name}' is not 2-D, is dilated or has automatic padding")
        bias = self._biases(node, len(kernel))
        step = self._add_step(node, source, kernel, bias, strides=strides, pads=pads, groups=given.get("group", 1))
        sides = [
            (size + pads[axis] + pads[axis + 2] - kernel.shape[2 + axis]) // strides[0] + 1
            for axis, size in enumerate(source.shape[1:])
        ]
        return _Tensor(step, (len(kernel), *sides), (step,))

    def _dense(self, node: Node, source: _Tensor) -> _Tensor:
        """A fully connected layer over a map that is flattened channel by channel, row by row."""
        given, weights = node.attributes, self._constant(node, 1, "weights")
        matrix = weights if given.get("transB", 0) else weights.T
        is_plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1 and not given.get("transA", 0)
        if matrix.ndim != 2 or matrix.shape[1] != np.prod(source.shape) or not is_plain:
            raise self._other_network(
                f"the weights of '{node.name}' ({node.op}), {list(weights.shape)}, do not match a feature map of "
                f"{list(source.shape)}"
            )
        kernel = matrix.reshape(-1, *source.shape)
        step = self._add_step(node, source, kernel, self._biases(node, len(matrix)))
        return _Tensor(step, (len(matrix), 1, 1), (step,))

    def _normalisation(self, node: Node, source: _Tensor) -> _Tensor:
        channels = source.shape[0]
        gamma, beta, mean, variance = (
            self._constant(node, place, "statistics", channels).astype(np.float64) for place in (1, 2, 3, 4)
        )
        step = source.step
        if step is None or step.activation != "linear" or step.variance is not None or step.kernel is None:
            step = self._add_step(node, source, None, np.zeros(channels, np.float32))
        variance = variance + node.attributes.get("epsilon", 1e-5)
        if not (variance > 0).all():
            raise self._other_network(f"'{node.name}' has a variance of {variance.min():g}, which must be above 0")
        step.mean = (mean - step.beta).astype(np.float32)  # of what comes before the bias
        step.scale, step.beta = (gamma / np.sqrt(variance)).astype(np.float32), beta.astype(np.float32)
        step.variance = variance.astype(np.float32)
        return _Tensor(step, source.shape, (step,))

    def _sum(self, node: Node, source: _Tensor) -> _Tensor:
        if constants := [self.constants[name] for name in node.inputs if name in self.constants]:
            step = source.step
            if step is None or step.activation != "linear" or constants[0].size != step.channels:
                raise self._other_network(f"'{node.name}' adds a constant where no bias is expected")
            step.beta = step.beta + constants[0].reshape(-1).astype(np.float32)
            return source
        summed = [self.tensors[name] for name in node.inputs if name in self.tensors]
        for tensor in summed:
            if tensor.step:
                tensor.step.is_added = True
        return _Tensor(None, source.shape, tuple({step: None for tensor in summed for step in tensor.origins}))

    def _activation(self, node: Node, source: _Tensor) -> _Tensor:
        step, given = source.step, node.attributes
        if step is None or step.activation != "linear":
            raise self._other_network(f"'{node.name}' ({node.op}) is an activation where none is expected")
        step.activation = "relu"
        if node.op == "Clip":
            limits = [self.constants.get(name) for name in node.inputs[1:3]] + [None, None]
            low, high = (given.get(key, limit) for key, limit in zip(("min", "max"), limits, strict=False))
            low, high = (float(np.ravel(value)[0]) if value is not None and np.size(value) == 1 else None
                         for value in (low, high))  # fmt: skip
            if low != 0 or high is None:
                raise self._other_network(f"'{node.name}' clips to {low}..{high}, but ReLU6 clips to 0..6")
            step.max_value = high
        elif node.op == "PRelu":
            slope = self._constant(node, 1, "slopes").reshape(-1)
            if slope.size not in (1, step.channels):
                raise self._other_network(f"'{node.name}' has {step.channels} channels, but {slope.size} slopes")
            step.activation, step.slope = "prelu", np.array(np.broadcast_to(slope, step.channels))
        elif node.op == "LeakyRelu":
            step.activation, step.slope = "leaky_relu", float(given.get("alpha", 0.01))
        return source
