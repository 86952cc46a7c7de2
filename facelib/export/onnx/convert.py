"""Converts a frozen TensorFlow graph to ONNX, in the layout that ONNX Runtime computes fastest.

An NHWC input is transposed once to channels first. Padding and bias are part of the convolutions, and no operation
between them needs another layout. tf2onnx, in comparison, keeps a transpose at every PReLU and separate padding nodes.
Operators: onnx/onnx, docs/Operators.md.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.export.fold_batch_norm import constants_of
from facelib.export.graph_input import static_shapes
from facelib.export.onnx.nodes import CONVOLUTIONS, TO_CHANNELS_FIRST, TWO_VALUES, WINDOWED, WRITERS, unknown
from facelib.runtimes.frozen_graph import node_of

OPSETS = range(11, 22)  # the operators are written alike in all of them


@dataclass(frozen=True)
class OnnxOptions:
    """The form of an ONNX model.

    Attributes:
        layout: order of the axes of its input, 'nhwc' | 'nchw'.
        batch: images in a call; 0 for any number.
        opset: one of `OPSETS`. 17 is that of ONNX 1.12 (2022).
        prelu_nodes: whether PReLU becomes PRelu nodes. ONNX Runtime computes convolutions and ReLU faster.
    """

    layout: str = "nhwc"
    batch: int = 0
    opset: int = 17
    prelu_nodes: bool = False


def graph_to_onnx(
    graph, input_name: str, output_name: str, size: tuple[int, int], options: OnnxOptions = OnnxOptions()
):  # fmt: skip
    """An `onnx.ModelProto` that computes what `graph` computes.

    Args:
        graph: an optimised GraphDef: NHWC, batch normalisation folded.
        input_name: of its Placeholder; the ONNX input has the same name.
        output_name: of its embedding [N, D]; the ONNX output has the same name.
        size: (height, width) of the images in pixels. The input is float32 in the layout of `options`.
        options: the form of the model.

    Raises:
        FaceError: a node without an ONNX form; names it.
    """
    import onnx
    from onnx import helper

    source, target = node_of(input_name), node_of(output_name)
    builder = _Builder(graph, source, size, options)
    builder.value(target)
    if builder.rank(target) != 2:
        raise FaceError(
            f"The output must have the shape [N, D]. '{target}' has the shape {builder.shapes[target]}. Pass a "
            "different --output."
        )
    batch = options.batch or "N"
    image = [*size, 3] if options.layout == "nhwc" else [3, *size]
    embedding = [helper.make_tensor_value_info(target, onnx.TensorProto.FLOAT, [batch, builder.shapes[target][-1]])]
    images = [helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, [batch, *image])]
    body = helper.make_graph(builder.nodes, "embedder", images, embedding, list(builder.tensors.values()))
    opset = [helper.make_opsetid("", options.opset)]
    ir_version = helper.find_min_ir_version_for(opset)  # that of 17 is 8
    model = helper.make_model(body, opset_imports=opset, ir_version=ir_version, producer_name="MobileArc")
    onnx.checker.check_model(model, full_check=True)
    return model


def describe_tensors(model: bytes) -> dict[str, dict[str, Any]]:
    """The `tensors` of a sidecar: name, shape (-1 for any number of faces) and dtype of the input and the output."""
    import onnx

    graph = onnx.load_from_string(model).graph
    found = {}
    for side, value in (("input", graph.input[0]), ("output", graph.output[0])):
        kind = value.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        found[side] = {"name": value.name, "shape": shape, "dtype": dtype, "scale": 0.0, "zero_point": 0}
    return found


@dataclass
class _Builder:
    """Walks from the output to the input, so that only nodes that the output needs are written.

    Values of rank 4 are NCHW. All others have TensorFlow's order.

    Attributes:
        graph: GraphDef.
        source: node name of the input.
        size: (height, width) of the images in pixels.
        options: the form of the model.
        nodes: the ONNX nodes so far.
        tensors: {name: TensorProto}, the ONNX constants so far.
        names: {TensorFlow node: ONNX value}.
    """

    graph: Any  # TensorFlow has no types
    source: str
    size: tuple[int, int]
    options: OnnxOptions
    nodes: list = field(default_factory=list)
    tensors: dict = field(default_factory=dict)
    names: dict = field(default_factory=dict)

    def __post_init__(self):
        self.by_name = {node.name: node for node in self.graph.node}
        self.constants = constants_of(self.graph)
        self.uses: dict[str, int] = {}
        for node in self.graph.node:
            for reference in node.input:
                self.uses[node_of(reference)] = self.uses.get(node_of(reference), 0) + 1
        self.shapes = static_shapes(self.graph, self.source, (*self.size, 3))

    def rank(self, name: str) -> int:
        return len(self.shapes[name])

    def value(self, reference: str) -> str:
        """The ONNX value of a TensorFlow node. Writes the node and all that it needs, without deep recursion."""
        stack = [node_of(reference)]
        while stack:
            name = stack[-1]
            waiting = [n for n in self._operands(self.by_name[name]) if n not in self.names]
            if name in self.names or not waiting:
                stack.pop()
                if name not in self.names:
                    self.names[name] = self._write(self.by_name[name])
            else:
                stack += waiting
        return self.names[node_of(reference)]

    def add(self, op: str, inputs: list[str], name: str, **attributes) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def tensor(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        self.tensors[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def constant(self, node, reference: str) -> np.ndarray:
        """The constant operand `reference` of `node`."""
        found = self.constants.get(node_of(reference))
        if found is None:
            raise unknown(node, f"'{reference}' is not a constant")
        return found

    def _operands(self, node) -> list[str]:
        """The nodes whose values `node` needs, without constants, shapes, and nodes that are merged into it."""
        if node.op == "Placeholder":
            return []
        slope = self.prelu(node)
        if slope:
            return [slope[0]]
        if node.op == "BiasAdd" and self.bias_of(node):
            node = self.bias_of(node)
        if node.op in WINDOWED:
            return [node_of(self.unpadded(node)[0])]
        if (rows := self.unturned(node)) is not None:
            return [rows]
        count = {"ConcatV2": len(node.input) - 1}.get(node.op, 2 if node.op in TWO_VALUES else 1)
        return [node_of(name) for name in node.input[:count] if node_of(name) not in self.constants]

    def _write(self, node) -> str:
        write = WRITERS.get(node.op)
        if write is None:
            raise unknown(node, "its operation cannot be converted to ONNX here")
        return write(self, node)

    def prelu(self, node):
        """(node of x, slopes) if `node` is max(x, slopes * x), else None."""
        if node.op != "Maximum":
            return None
        for x, other in (node.input, reversed(node.input)):
            product = self.by_name[node_of(other)]
            if product.op != "Mul" or self.uses[product.name] != 1 or x not in product.input:
                continue
            slopes = self.constants.get(node_of(next(name for name in product.input if name != x)))
            if slopes is not None and slopes.max() <= 1:  # above 1, the maximum is no PReLU
                return node_of(x), slopes
        return None

    def bias_of(self, node):
        """The convolution before the BiasAdd `node`, if nothing else reads it; else None."""
        before = self.by_name[node_of(node.input[0])]
        is_only_reader = before.op in CONVOLUTIONS and self.uses[before.name] == 1
        return before if is_only_reader and node_of(node.input[1]) in self.constants else None

    def unturned(self, node) -> str | None:
        """The node of x, if `node` and the node before it exchange the two axes of the rows of x, for [N, H * W, C].

        A map is channels first already. Either x is a map and the result is [N, C, H * W], or the other way round.
        """
        if node.op not in ("Transpose", "Reshape"):
            return None
        before = self.by_name[node_of(node.input[0])]
        first, second = (before, node) if node.op == "Transpose" else (node, before)
        if (first.op, second.op) != ("Reshape", "Transpose") or self.rank(second.name) != 3:
            return None
        is_of_map = self.rank(node_of(before.input[0]) if first is before else node.name) == 4
        is_exchange = is_of_map and self.constant(second, second.input[1]).tolist() == [0, 2, 1]
        return node_of(before.input[0]) if is_exchange else None

    def unpadded(self, node) -> tuple[str, list[int]]:
        """(input of the window operation `node`, zeros around it [top, left, bottom, right])."""
        source = self.by_name[node_of(node.input[0])]
        zeros = [0, 0, 0, 0]
        if source.op == "Pad" and node.op in CONVOLUTIONS:
            paddings = self.constant(source, source.input[1])
            if paddings.shape == (4, 2) and not paddings[[0, 3]].any():
                zeros = [*paddings[1:3, 0].tolist(), *paddings[1:3, 1].tolist()]
                return source.input[0], [a + b for a, b in zip(zeros, self._same(node), strict=True)]
        return node.input[0], self._same(node)

    def _same(self, node) -> list[int]:
        """The padding of `node` [top, left, bottom, right]. TensorFlow's SAME adds an odd pixel at the end."""
        padding = node.attr["padding"].s.decode()
        if padding == "VALID":
            return [0, 0, 0, 0]
        if padding != "SAME":
            raise unknown(node, f"padding {padding}")
        strides, kernel, dilations = self.window(node)
        takes, gives = self.shapes[node_of(node.input[0])], self.shapes[node.name]
        total = [
            max(0, (gives[axis + 1] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 - takes[axis + 1])
            for axis in (0, 1)
        ]
        return [total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2]

    def window(self, node) -> tuple[list[int], list[int], list[int]]:
        """(strides, kernel size, dilations), each [height, width]."""
        if node.attr["data_format"].s not in (b"", b"NHWC"):
            raise unknown(node, "only NHWC graphs can be converted")
        strides = list(node.attr["strides"].list.i)[1:3]
        if node.op in CONVOLUTIONS:
            kernel = list(self.constant(node, node.input[1]).shape[:2])
            return strides, kernel, list(node.attr["dilations"].list.i)[1:3] or [1, 1]
        return strides, list(node.attr["ksize"].list.i)[1:3], [1, 1]

    def broadcast(self, node, value: np.ndarray) -> np.ndarray:
        """A constant operand of `node`, reshaped to broadcast over a value of the node's rank in ONNX's order."""
        value = value.astype(np.float32)
        if self.rank(node.name) != 4 or value.size == 1:
            return value
        return value.reshape((1,) * (4 - value.ndim) + value.shape).transpose(TO_CHANNELS_FIRST)[0]
