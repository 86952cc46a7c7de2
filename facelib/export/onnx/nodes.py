"""How each TensorFlow operation is written in ONNX: a writer for each, called by facelib/export/onnx/convert.py.

A writer takes the graph's builder and a node, adds ONNX nodes, and returns the name of the ONNX value. Values of rank 4
are NCHW. To support another operation, add its writer to `WRITERS`.
"""

import numpy as np

from facelib.errors import FaceError
from facelib.runtimes.frozen_graph import node_of

TO_CHANNELS_FIRST, TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def _placeholder(builder, node) -> str:
    if builder.options.layout == "nchw":
        return node.name
    return builder.add("Transpose", [node.name], f"{node.name}/channels_first", perm=TO_CHANNELS_FIRST)


def _convolution(builder, node, bias=None, name=None) -> str:
    source, pads = builder.unpadded(node)
    strides, kernel_shape, dilations = builder.window(node)
    kernel = builder.constant(node, node.input[1])
    channels = kernel.shape[2]
    groups = channels if node.op == "DepthwiseConv2dNative" else builder.shapes[node_of(source)][3] // channels
    if node.op == "DepthwiseConv2dNative":  # [H, W, C, M] -> [H, W, 1, C * M]
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    name = name or node.name
    inputs = [builder.value(source), builder.tensor(f"{name}/weights", kernel.transpose(3, 2, 0, 1))]
    inputs += [builder.tensor(f"{name}/bias", bias)] if bias is not None else []
    return builder.add(
        "Conv", inputs, name, kernel_shape=kernel_shape, strides=strides, dilations=dilations, pads=pads, group=groups
    )


def _bias(builder, node) -> str:
    convolution = builder.bias_of(node)
    if convolution is None:
        return _binary("Add")(builder, node)
    return _convolution(builder, convolution, builder.constant(node, node.input[1]), node.name)


def _binary(op):
    def write(builder, node):
        inputs = []
        for position, name in enumerate(node.input):
            constant = builder.constants.get(node_of(name))
            if constant is None:
                inputs.append(builder.value(name))
            else:
                inputs.append(builder.tensor(f"{node.name}/operand_{position}", builder.broadcast(node, constant)))
        ranks = {builder.rank(node_of(n)) for n in node.input if node_of(n) not in builder.constants}
        if len(ranks) > 1:
            raise unknown(node, f"operands of rank {sorted(ranks)}")
        return builder.add(op, inputs, node.name)

    return write


def _maximum(builder, node) -> str:
    found = builder.prelu(node)
    if found is None:
        return _binary("Max")(builder, node)
    x, slopes = found
    if builder.options.prelu_nodes or builder.rank(node.name) != 4:
        slope = builder.tensor(f"{node.name}/slope", builder.broadcast(node, slopes))
        return builder.add("PRelu", [builder.value(x), slope], node.name)
    return _prelu_in_blocks(builder, node, builder.value(x), slopes)


def _prelu_in_blocks(builder, node, x: str, slopes: np.ndarray) -> str:
    """x + (1 - slope) * relu(-x), the factors as 1x1 depthwise convolutions.

    ONNX Runtime keeps maps in blocks of channels through convolutions, ReLU and sums. At a PRelu it reorders every map
    twice, and MobileFaceNet takes twice as long.
    """
    channels = builder.shapes[node.name][-1]

    def scaled(source: str, factor: np.ndarray | np.float32, name: str) -> str:
        weights = np.broadcast_to(factor, channels).astype(np.float32).reshape(channels, 1, 1, 1)
        return builder.add("Conv", [source, builder.tensor(f"{name}/weights", weights)], name, group=channels)

    negative = builder.add("Relu", [scaled(x, np.float32(-1), f"{node.name}/minus")], f"{node.name}/negative")
    return builder.add("Add", [x, scaled(negative, 1 - slopes, f"{node.name}/bent")], node.name)


def _batch_norm(builder, node) -> str:
    """Of a graph that keeps its normalisation; that of an optimised graph is part of the convolutions."""
    if node.attr["is_training"].b or node.attr["data_format"].s not in (b"", b"NHWC"):
        raise unknown(node, "it computes its statistics, or its layout is not NHWC")
    parts = ("gamma", "beta", "mean", "variance")
    values = [builder.constant(node, name) for name in node.input[1:5]]
    inputs = [builder.tensor(f"{node.name}/{part}", value) for part, value in zip(parts, values, strict=True)]
    epsilon = node.attr["epsilon"].f
    return builder.add("BatchNormalization", [builder.value(node.input[0]), *inputs], node.name, epsilon=epsilon)


def _unary(op, **attributes):
    return lambda builder, node: builder.add(op, [builder.value(node.input[0])], node.name, **attributes)


def _relu6(builder, node) -> str:
    limits = [builder.tensor(f"clip_{limit}", np.float32(limit)) for limit in (0, 6)]
    return builder.add("Clip", [builder.value(node.input[0]), *limits], node.name)


def _leaky_relu(builder, node) -> str:
    return builder.add("LeakyRelu", [builder.value(node.input[0])], node.name, alpha=node.attr["alpha"].f)


def _pad(builder, node) -> str:
    before, after = builder.constant(node, node.input[1])[list(TO_CHANNELS_FIRST)].astype(np.int64).T
    pads = builder.tensor(f"{node.name}/pads", np.concatenate([before, after]))
    return builder.add("Pad", [builder.value(node.input[0]), pads], node.name)


def _pool(op):
    def write(builder, node):
        source, pads = builder.unpadded(node)
        strides, kernel_shape, _ = builder.window(node)
        return builder.add(
            op, [builder.value(source)], node.name, kernel_shape=kernel_shape, strides=strides, pads=pads
        )

    return write


def _mean(builder, node) -> str:
    rank, source = builder.rank(node_of(node.input[0])), builder.value(node.input[0])
    axes = sorted(axis % rank for axis in np.atleast_1d(builder.constant(node, node.input[1])).tolist())
    if rank == 4 and axes == [3] and node.attr["keep_dims"].b:
        return _mean_of_channels(builder, node, source)
    if rank != 4 or axes != [1, 2]:
        raise unknown(node, f"a mean over axes {axes}")
    pooled = f"{node.name}/pooled"
    if node.attr["keep_dims"].b:
        return builder.add("GlobalAveragePool", [source], node.name)
    return builder.add("Flatten", [builder.add("GlobalAveragePool", [source], pooled)], node.name)


def _mean_of_channels(builder, node, source: str) -> str:
    """A 1x1 convolution: ReduceMean has its axes in another place from opset 18 on."""
    channels = builder.shapes[node_of(node.input[0])][3]
    weights = np.full((1, channels, 1, 1), 1 / channels, np.float32)
    return builder.add("Conv", [source, builder.tensor(f"{node.name}/weights", weights)], node.name)


def _concat(builder, node) -> str:
    rank, axis = builder.rank(node.name), int(builder.constant(node, node.input[-1]))
    if rank != 4 or axis % rank != 3:
        raise unknown(node, f"a concatenation along axis {axis}")
    return builder.add("Concat", [builder.value(name) for name in node.input[:-1]], node.name, axis=1)


def _slice(builder, node) -> str:
    """A slice of channels: x[..., a:b]."""
    begin, strides = builder.constant(node, node.input[1]), builder.constant(node, node.input[3])
    takes, gives = builder.shapes[node_of(node.input[0])], builder.shapes[node.name]
    if len(takes) != 4 or len(gives) != 4 or takes[1:3] != gives[1:3] or strides[-1] != 1:
        raise unknown(node, "a slice of anything but channels")
    is_open = bool(node.attr["begin_mask"].i >> (len(begin) - 1) & 1)
    first = 0 if is_open else int(begin[-1]) % takes[3]
    limits = [("starts", [first]), ("ends", [first + gives[3]]), ("axes", [1])]
    inputs = [builder.tensor(f"{node.name}/{what}", np.array(value, np.int64)) for what, value in limits]
    return builder.add("Slice", [builder.value(node.input[0]), *inputs], node.name)


def _reshape(builder, node) -> str:
    """Between a map, [N, D] and [N, A, B], all but the map in TensorFlow's order: the channels of a map are last."""
    if builder.unturned(node):
        return _rows(builder, node)
    x, takes, gives = builder.value(node.input[0]), builder.shapes[node_of(node.input[0])], builder.shapes[node.name]
    if None in (*takes[1:], *gives[1:]):
        raise unknown(node, f"from {takes} to {gives}")
    if len(takes) == 4 and max(takes[1:3]) > 1:
        x = builder.add("Transpose", [x], f"{node.name}/channels_last", perm=TO_CHANNELS_LAST)
    if len(gives) == 2:
        return builder.add("Flatten", [x], node.name)
    if len(gives) == 3:
        return _reshaped(builder, x, gives, node.name, node.name)
    if len(gives) == 4 and max(gives[1:3]) == 1:
        return _reshaped(builder, x, (None, gives[3], 1, 1), node.name, node.name)
    if len(gives) == 4 and len(takes) == 3:
        x = _reshaped(builder, x, gives, node.name, f"{node.name}/map")
        return builder.add("Transpose", [x], node.name, perm=TO_CHANNELS_FIRST)
    raise unknown(node, f"from {takes} to {gives}")


def _reshaped(builder, x: str, gives, prefix: str, name: str) -> str:
    """`x` in the shape [-1, *gives[1:]]."""
    shape = builder.tensor(f"{prefix}/shape", np.array([-1, *gives[1:]], np.int64))
    return builder.add("Reshape", [x, shape], name)


def _rows(builder, node) -> str:
    """Between a map and its rows [N, C, H * W]."""
    gives = builder.shapes[node.name]
    gives = gives if len(gives) == 3 else [gives[axis] for axis in TO_CHANNELS_FIRST]
    return _reshaped(builder, builder.value(builder.unturned(node)), gives, node.name, node.name)


def _transpose(builder, node) -> str:
    if builder.unturned(node):
        return _rows(builder, node)
    order = builder.constant(node, node.input[1]).tolist()
    if len(order) != 3:
        raise unknown(node, f"an exchange of the axes {order}")
    return builder.add("Transpose", [builder.value(node.input[0])], node.name, perm=order)


def _softmax(builder, node) -> str:
    if builder.rank(node.name) == 4:
        raise unknown(node, "a softmax over a map")
    return builder.add("Softmax", [builder.value(node.input[0])], node.name, axis=builder.rank(node.name) - 1)


def _reciprocal_root(builder, node) -> str:
    root = builder.add("Sqrt", [builder.value(node.input[0])], f"{node.name}/root")
    return builder.add("Reciprocal", [root], node.name)


def _error_function(builder, node) -> str:
    """The complementary error function is 1 - erf(x)."""
    name = f"{node.name}/erf" if node.op == "Erfc" else node.name
    value = builder.add("Erf", [builder.value(node.input[0])], name)
    if node.op == "Erf":
        return value
    return builder.add("Sub", [builder.tensor(f"{node.name}/one", np.float32(1)), value], node.name)


def _batch_matmul(builder, node) -> str:
    """A product of two values [N, A, B], either of them transposed."""
    if builder.rank(node.name) != 3 or any(node_of(name) in builder.constants for name in node.input):
        raise unknown(node, "a product of anything but two values of rank 3")
    operands: list[str] = []
    for name, is_transposed in zip(node.input, (node.attr["adj_x"].b, node.attr["adj_y"].b), strict=True):
        value = builder.value(name)
        if is_transposed:
            value = builder.add("Transpose", [value], f"{node.name}/operand_{len(operands)}", perm=(0, 2, 1))
        operands.append(value)
    return builder.add("MatMul", operands, node.name)


def _matmul(builder, node) -> str:
    if node.attr["transpose_a"].b or node.attr["transpose_b"].b or builder.rank(node.name) != 2:
        raise unknown(node, "a transposed or batched product")
    weights = builder.tensor(f"{node.name}/weights", builder.constant(node, node.input[1]))
    return builder.add("MatMul", [builder.value(node.input[0]), weights], node.name)


CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
WINDOWED = (*CONVOLUTIONS, "MaxPool", "AvgPool")
WRITERS = {
    "Placeholder": _placeholder,
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _convolution,
    "BiasAdd": _bias,
    "Maximum": _maximum,
    "Relu6": _relu6,
    "LeakyRelu": _leaky_relu,
    "Pad": _pad,
    "Mean": _mean,
    "ConcatV2": _concat,
    "StridedSlice": _slice,
    "Reshape": _reshape,
    "Squeeze": _reshape,
    "MatMul": _matmul,
    "BatchMatMulV2": _batch_matmul,
    "Transpose": _transpose,
    "Softmax": _softmax,
    "Rsqrt": _reciprocal_root,
    "Erf": _error_function,
    "Erfc": _error_function,
    "Identity": _unary("Identity"),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), _batch_norm),
    "IdentityN": _unary("Identity"),  # Keras's swish; its first output is its first input
    "Relu": _unary("Relu"),
    "Sigmoid": _unary("Sigmoid"),
    "Neg": _unary("Neg"),
    "Abs": _unary("Abs"),
    "Tanh": _unary("Tanh"),
    "MaxPool": _pool("MaxPool"),
    "AvgPool": _pool("AveragePool"),
    "Minimum": _binary("Min"),
    "AddV2": _binary("Add"),
    "Add": _binary("Add"),
    "Sub": _binary("Sub"),
    "Mul": _binary("Mul"),
    "RealDiv": _binary("Div"),
}
BINARY = ("AddV2", "Add", "Sub", "Mul", "RealDiv", "Maximum", "Minimum")
TWO_VALUES = (*BINARY, "BatchMatMulV2")


def unknown(node, why: str) -> FaceError:
    """The error for a node that has no ONNX form here."""
    return FaceError(
        f"Every node of the graph must have an ONNX form. '{node.name}' ({node.op}) has no ONNX form: {why}. Convert "
        "a graph made by h5_2_pb.py and optimize_pb.sh, or use the original ONNX model of the net."
    )
