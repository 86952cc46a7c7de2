"""Which operations a TensorFlow graph may hold: those that compute their output from their inputs and do nothing else.

TensorFlow runs whatever a graph file says: some operations write and read files, start Python or open connections, and
a loop may never end. A face embedder needs none of them, so a graph is refused unless every operation is listed here.
"""

import math
from pathlib import Path

from facelib.errors import FaceError, short_name

MAX_CONST_BYTES = 2**30  # of all constants as tensors; the largest face nets have 0.3 GB of weights
MAX_LISTED = 10

# Every operation that a frozen inference graph of TensorFlow 1.4 to 2.21 may hold. An operation that touches files,
# the network, Python, the terminal, other devices' memory or an earlier call does not belong here, nor does a loop.
_NAMES = """
Placeholder PlaceholderV2 PlaceholderWithDefault Const NoOp Identity IdentityN Snapshot StopGradient PreventGradient
CheckNumerics Assert GuaranteeConst EnsureShape

Switch Merge If StatelessIf Case StatelessCase PartitionedCall StatefulPartitionedCall

Abs Add AddN AddV2 AccumulateNV2 Acos Asin Atan Atan2 Ceil ClipByValue Cos Cosh Div DivNoNan Elu Erf Erfc Exp Expm1
Floor FloorDiv FloorMod Inv IsFinite IsInf IsNan L2Loss LeakyRelu Log Log1p LogSoftmax Maximum Minimum Mod Mul
MulNoNan Neg Pow RealDiv Reciprocal Relu Relu6 Rint Round Rsqrt Selu Sigmoid Sign Sin Sinh Softmax Softplus Softsign
Sqrt Square SquaredDifference Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlogy

Equal Greater GreaterEqual Less LessEqual LogicalAnd LogicalNot LogicalOr NotEqual Select SelectV2 Where

All Any ArgMax ArgMin Cumprod Cumsum EuclideanNorm Max Mean Min Prod Sum TopK TopKV2

BatchMatMul BatchMatMulV2 BatchMatMulV3 BiasAdd BiasAddV1 Einsum MatMul

AvgPool Conv2D Conv2DBackpropInput DepthwiseConv2dNative FusedPadConv2D FusedResizeAndPadConv2D LRN MaxPool MaxPoolV2
BatchNormWithGlobalNormalization FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 ExtractImagePatches

BatchToSpace BatchToSpaceND BroadcastArgs BroadcastTo Concat ConcatOffset ConcatV2 DepthToSpace DynamicStitch Empty
ExpandDims Fill Gather GatherNd GatherV2 InvertPermutation MatrixDiag MatrixDiagPart MirrorPad OneHot OnesLike Pack
Pad PadV2 Range Rank Reshape Reverse ReverseV2 Roll ScatterNd Shape ShapeN Size Slice SpaceToBatch SpaceToBatchND
SpaceToDepth Split SplitV Squeeze StridedSlice Tile Transpose Unpack ZerosLike

Bitcast Cast Dequantize FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel
QuantizeAndDequantize QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeV2

CropAndResize ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor

RandomStandardNormal RandomUniform RandomUniformInt TruncatedNormal StatelessRandomNormal StatelessRandomNormalV2
StatelessRandomUniform StatelessRandomUniformV2 StatelessRandomGetAlg StatelessRandomGetKeyCounter
"""
PURE_OPS = frozenset(_NAMES.split())


def check_ops(graph, path: Path | str) -> None:
    """Checks that running `graph` can only compute: pure operations, no loop, no recursion, constants that fit.

    Args:
        graph: a GraphDef; the functions in its library are checked too, whether called or not.
        path: named in errors.

    Raises:
        FaceError: an operation that is not pure, named; functions that call each other for ever; or constants of more
            than `MAX_CONST_BYTES`.
    """
    functions = {function.signature.name: function.node_def for function in graph.library.function}
    bodies = [graph.node, *functions.values()]
    found = {node.op for body in bodies for node in body}
    refused = sorted((found - PURE_OPS - functions.keys()) | (functions.keys() & _registered(functions)))
    if refused:
        more = f" and {len(refused) - MAX_LISTED} more" if len(refused) > MAX_LISTED else ""
        raise FaceError(
            f"The operations of a face net must only compute. The graph '{path}' has operations that may do other "
            "things (files, Python, loops) or that are unknown here: "
            f"{', '.join(map(short_name, refused[:MAX_LISTED]))}{more}. The graph was not run: freeze the net for "
            "inference only (python h5_2_pb.py MODEL.h5 does)."
        )
    calls = {name: {called for node in body for called in _called(node)} for name, body in functions.items()}
    if endless := _recursive(calls):
        raise FaceError(
            f"A graph must not call itself endlessly. In '{path}' the function {short_name(endless)} calls itself. "
            "The graph was not run."
        )
    num_bytes = sum(_const_bytes(node) for body in bodies for node in body if node.op == "Const")
    if num_bytes > MAX_CONST_BYTES:
        raise FaceError(
            f"The constants of a graph may take up to {MAX_CONST_BYTES / 2**30:.0f} GiB as tensors. The constants of "
            f"'{path}' take {num_bytes / 2**30:.1f} GiB: the file is damaged or was made to fill the memory. Make the "
            "file again, or copy it again."
        )


def _registered(names) -> set[str]:
    """Those of `names` that TensorFlow takes for operations of its own."""
    from tensorflow.python.framework import op_def_registry

    return {name for name in names if op_def_registry.get(name) is not None}


def _called(node) -> list[str]:
    """Names of the functions that `node` may call."""
    attributes = node.attr.values()
    return [node.op, *(a.func.name for a in attributes), *(f.name for a in attributes for f in a.list.func)]


def _recursive(calls: dict[str, set[str]]) -> str | None:
    """A function that calls itself, directly or through others, or that calls one that does; None if there is none."""
    waiting = {name: called & calls.keys() for name, called in calls.items()}
    while ends := {name for name, called in waiting.items() if not called}:
        waiting = {name: called - ends for name, called in waiting.items() if name not in ends}
    return min(waiting, default=None)


def _const_bytes(node) -> int:
    """Bytes of a constant as a tensor. One value in the file may stand for a tensor of any shape."""
    import tensorflow as tf

    tensor = node.attr["value"].tensor
    try:
        size = tf.dtypes.as_dtype(tensor.dtype).size
    except TypeError:  # no type that exists: TensorFlow refuses it
        return 0
    return math.prod(max(0, dim.size) for dim in tensor.tensor_shape.dim) * size
