"""What Ascend's converter (atc) needs of a graph: static shapes for one face, and operations that its parser knows.

**Static shapes.** Graphs of this project take any number of faces, so they compute the shape of the last Reshape when
they run: Shape, StridedSlice, Pack. For one face these become constants (`fix_shapes`). A shape that still depends on
the data is refused, because atc takes static shapes only.

**Operations.** atc takes "only the FrozenGraphDef format", no "inputs with dynamic shapes", and "only the operators
listed in Operator Specifications" (Huawei EDOC1100164848; CANN 8.0 manual, ATC, general restrictions). Those lists come
as one archive for each chip. The source of atc's TensorFlow parser is public, and `KNOWN_OPS` is taken from it:

- `tensorflow_op_map` in parser/parser/common/op_map.cc of CANN's graph engine;
- REGISTER_CUSTOM_OP(...).FrameworkType(TENSORFLOW).OriginOpType(...) in ops/built-in/framework/tf_plugin/ of CANN's
  operator library, Apache-2.0, 2019 to 2022. Each operation below was looked up there.

The table is not complete: the library registers several hundred operations, and these are the ones of convolutional
nets. A chip may still refuse an operation in the table for its data type or size; only atc itself knows that.
"""

from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.export.fold_batch_norm import constant_node, fold_constants, with_nodes
from facelib.runtimes.frozen_graph import MAX_LISTED, node_of, prune

_PARSER = ("BroadcastArgs", "Const", "Empty", "ExpandDims", "Fill", "Identity", "IdentityN", "Placeholder",
           "PlaceholderWithDefault", "PreventGradient", "Rank", "Reshape", "Shape", "ShapeN", "Size", "Snapshot",
           "Squeeze", "StopGradient")  # fmt: skip
_PLUGINS = ("Abs", "Add", "AddN", "AddV2", "AvgPool", "BatchMatMul", "BatchMatMulV2", "BiasAdd", "Cast", "ConcatV2",
            "Conv2D", "DepthwiseConv2dNative", "Elu", "Exp", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3",
            "GatherV2", "LeakyRelu", "Log", "MatMul", "Max", "MaxPool", "Maximum", "Mean", "Min", "Minimum", "Mul",
            "Neg", "Pack", "Pad", "PadV2", "Pow", "Prod", "RealDiv", "Relu", "Relu6", "Rsqrt", "Selu", "Sigmoid",
            "Slice", "Softmax", "Softplus", "Split", "SplitV", "Sqrt", "Square", "SquaredDifference", "StridedSlice",
            "Sub", "Sum", "Tanh", "Tile", "Transpose", "Unpack")  # fmt: skip
KNOWN_OPS = frozenset(_PARSER + _PLUGINS)
_ASKS_SHAPE = ("Shape", "ShapeN", "Size", "Rank")


def input_shape(graph, input_name: str, path: Path) -> list[int]:
    """[1, H, W, C] of the Placeholder `input_name`.

    Raises:
        FaceError: its height, width or channels are open, or its batch is a fixed number other than 1.
    """
    placeholder = next(node for node in graph.node if node.name == node_of(input_name))
    shape = placeholder.attr["shape"].shape
    dims = [dim.size for dim in shape.dim]
    if shape.unknown_rank or len(dims) != 4 or min(dims[1:]) < 1:
        shown = "unknown" if shape.unknown_rank else f"[{', '.join('?' if n < 1 else str(n) for n in dims)}]"
        raise FaceError(
            "Ascend needs static shapes: only the number of faces may be unknown, [?, H, W, C]. The input "
            f"'{input_name}' of '{path}' is {shown}. Freeze a net with a fixed image size (python h5_2_pb.py "
            "MODEL.h5), or pass the size with --crop H,W."
        )
    if dims[0] not in (-1, 0, 1):
        raise FaceError(
            f"On Ascend a net must take one face at a time. '{input_name}' of '{path}' takes {dims[0]} faces. Freeze "
            "the net for any number of faces (python h5_2_pb.py MODEL.h5)."
        )
    return [1, *dims[1:]]


def asks_shapes(graph, output_name: str) -> bool:
    """Whether `output_name` depends on a node that reads a shape while the graph runs."""
    return any(node.op in _ASKS_SHAPE for node in prune(graph, [node_of(output_name)]).node)


def fix_shapes(graph, input_name: str, output_name: str, path: Path):
    """A GraphDef that computes the same for a batch of one, with computed shapes replaced by constants.

    Args:
        graph: a frozen GraphDef.
        input_name: of its Placeholder.
        output_name: of its embedding.
        path: names the graph in errors.

    Raises:
        FaceError: the sizes of some nodes depend on more than the batch; names them.
    """
    shape, target = input_shape(graph, input_name, path), node_of(output_name)
    fixed = prune(graph, [target])
    for node in fixed.node:
        node.attr.pop("_output_shapes", None)
        if node.name == node_of(input_name):
            for dim, size in zip(node.attr["shape"].shape.dim, shape, strict=True):
                dim.size = size
    fixed = fold_constants(_with_known_shapes(fixed), target)
    unknown = [
        f"'{operation.name}' ({operation.type})"
        for operation in _import(fixed).get_operations()
        if operation.type in _ASKS_SHAPE or not all(out.shape.is_fully_defined() for out in _used(operation, target))
    ]
    if unknown:
        more = f" and {len(unknown) - MAX_LISTED} more" if len(unknown) > MAX_LISTED else ""
        raise FaceError(
            f"Ascend needs static shapes. In '{path}' the sizes of {', '.join(unknown[:MAX_LISTED])}{more} are known "
            "only at run time, even for a batch of 1. Remove these operations, or pass an --output before them."
        )
    return fixed


def find_unknown_ops(graph) -> dict[str, list[str]]:
    """{operation: names of its nodes} for the operations of a GraphDef that are not in `KNOWN_OPS`, sorted."""
    found: dict[str, list[str]] = {}
    for node in graph.node:
        if node.op not in KNOWN_OPS:
            found.setdefault(node.op, []).append(node.name)
    return dict(sorted(found.items()))


def _with_known_shapes(graph):
    """Shape nodes of tensors whose shape is known become constants."""
    inside, nodes = _import(graph), []
    for node in graph.node:
        if node.op == "Shape":
            operation = inside.get_operation_by_name(node.name)
            shape = operation.inputs[0].shape
            if shape.is_fully_defined():
                node = constant_node(node.name, np.array(shape.as_list(), operation.outputs[0].dtype.as_numpy_dtype))
        nodes.append(node)
    return with_nodes(graph, nodes)


def _used(operation, target: str) -> list:
    """The outputs that are read. Batch normalisation has others, for training, whose shape is unknown."""
    return [out for out in operation.outputs if out.consumers() or operation.name == target]


def _import(graph):
    """The GraphDef as a tf.Graph, which infers every shape it can."""
    import tensorflow as tf

    with tf.Graph().as_default() as inside:
        tf.import_graph_def(graph, name="")
    return inside
