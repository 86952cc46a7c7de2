"""Folds batch normalisation into convolutions, where TensorFlow's optimize_for_inference leaves it.

Exact up to rounding. Constants are computed once, `conv(x, w) * s` becomes `conv(x, w * s)`, and a FusedBatchNorm
without a convolution before it becomes one multiplication and one addition. All other nodes stay as they are.
"""

import numpy as np

from facelib.errors import FaceError
from facelib.runtimes.frozen_graph import node_of, prune

_PURE = ("Rsqrt", "Sqrt", "Square", "Add", "AddV2", "Sub", "Mul", "RealDiv", "Neg", "Maximum", "Minimum", "Reshape",
         "Identity", "Cast", "ExpandDims", "Squeeze", "Abs", "Max", "Round", "StopGradient", "StridedSlice", "Pack",
         "ConcatV2", "Prod", "Less", "Sum", "GatherV2", "MatMul")  # fmt: skip
_BATCH_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
MAX_FOLDED_BYTES = 64 << 20  # a larger constant stays a computation


def fold_batch_norms(graph, output: str, keep_fused: bool = False):
    """A GraphDef that computes the same `output` without Rsqrt and FusedBatchNorm* nodes.

    Args:
        graph: a frozen GraphDef, NHWC.
        output: node name.
        keep_fused: whether FusedBatchNorm* nodes stay as they are.

    Raises:
        FaceError: a batch normalisation whose statistics are not constants.
    """
    graph = fold_constants(graph, output)
    graph = graph if keep_fused else prune(_replace_batch_norms(graph), [output])
    return prune(_scale_convolutions(graph, output), [output])


def fold_constants(graph, output: str):
    """A GraphDef in which every pure node with constant inputs is replaced by its value; `output` is a node name."""
    import tensorflow as tf

    constant, folded = {node.name for node in graph.node if node.op == "Const"}, []
    for node in _sorted_nodes(graph):
        if node.op in _PURE and node.name != output and node.input and all(ref in constant for ref in node.input):
            constant.add(node.name)
            folded.append(node.name)
    if not folded:
        return graph
    with tf.Graph().as_default() as inside:
        tf.import_graph_def(prune(graph, folded), name="")
        with tf.compat.v1.Session(graph=inside) as session:
            values = dict(zip(folded, session.run([f"{name}:0" for name in folded]), strict=True))
    kept = [
        constant_node(node.name, values[node.name])
        if node.name in values and values[node.name].nbytes <= MAX_FOLDED_BYTES
        else node
        for node in graph.node
    ]
    return prune(with_nodes(graph, kept), [output])


def constants_of(graph) -> dict[str, np.ndarray]:
    """{node name: value} of every constant of a GraphDef."""
    import tensorflow as tf

    return {node.name: tf.make_ndarray(node.attr["value"].tensor) for node in graph.node if node.op == "Const"}


def constant_node(name: str, value: np.ndarray):
    """A Const node that holds `value`."""
    import tensorflow as tf

    node = tf.compat.v1.NodeDef(name=name, op="Const")
    tensor = tf.make_tensor_proto(value)
    node.attr["dtype"].type = tensor.dtype
    node.attr["value"].tensor.CopyFrom(tensor)
    return node


def with_nodes(graph, nodes):
    """A GraphDef with these nodes and the versions and function library of `graph`."""
    result = type(graph)()
    result.versions.CopyFrom(graph.versions)
    result.library.CopyFrom(graph.library)
    result.node.extend(nodes)
    return result


def _replace_batch_norms(graph):
    """FusedBatchNorm(x, gamma, beta, mean, variance) -> x * scale + offset."""
    constants, nodes = constants_of(graph), []
    for node in graph.node:
        if node.op not in _BATCH_NORMS:
            nodes.append(node)
            continue
        gamma, beta, mean, variance = (constants.get(name) for name in node.input[1:5])
        if gamma is None or beta is None or mean is None or variance is None or node.attr["is_training"].b:
            raise FaceError(
                f"Batch normalisation can be folded only if its statistics are constants. The node '{node.name}' "
                "still computes its statistics: freeze the model in inference mode (h5_2_pb.py does this)."
            )
        if node.attr["data_format"].s not in (b"", b"NHWC"):
            raise FaceError(
                f"optimize_pb.sh accepts only NHWC graphs. The node '{node.name}' is "
                f"{node.attr['data_format'].s.decode()}."
            )
        scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + node.attr["epsilon"].f)
        offset = beta - mean * scale
        nodes += [
            constant_node(f"{node.name}/scale", scale.astype(np.float32)),
            constant_node(f"{node.name}/offset", offset.astype(np.float32)),
            _binary("Mul", f"{node.name}/scaled", node.input[0], f"{node.name}/scale"),
            _binary("AddV2", node.name, f"{node.name}/scaled", f"{node.name}/offset"),
        ]
    return with_nodes(graph, nodes)


def _scale_convolutions(graph, output: str):
    """conv(x, w) * s -> conv(x, w * s), if nothing else reads the convolution and `s` has one number a channel."""
    by_name, constants, uses = {node.name: node for node in graph.node}, constants_of(graph), _count_uses(graph)
    nodes = []
    for node in graph.node:
        found = _scaled_convolution(node, by_name, constants, uses) if node.name != output else None
        if found is None:
            nodes.append(node)
            continue
        convolution, scale = found
        kernel = constants[convolution.input[1]]
        factor = scale.reshape(kernel.shape[2:]) if convolution.op == "DepthwiseConv2dNative" else scale.reshape(-1)
        folded = type(node)()
        folded.CopyFrom(convolution)
        folded.name = node.name  # what read the product now reads the convolution
        folded.input[1] = f"{node.name}/kernel"
        nodes += [constant_node(folded.input[1], (kernel * factor).astype(kernel.dtype)), folded]
    return with_nodes(graph, nodes)


def _scaled_convolution(node, by_name, constants, uses):
    """(convolution node, scale [C]) if `node` is the product of the two and can be folded, else None."""
    if node.op != "Mul" or len(node.input) != 2:
        return None
    for reference, other in ((node.input[0], node.input[1]), (node.input[1], node.input[0])):
        convolution, scale = by_name.get(reference), constants.get(other)
        if convolution is None or scale is None or convolution.op not in _CONVOLUTIONS or uses[reference] != 1:
            continue
        kernel = constants.get(convolution.input[1])
        if kernel is None or convolution.attr["data_format"].s not in (b"", b"NHWC"):
            continue
        channels = kernel.shape[3] if convolution.op == "Conv2D" else kernel.shape[2] * kernel.shape[3]
        if scale.size == channels and scale.shape[-1:] == (channels,):
            return convolution, scale
    return None


def _binary(op: str, name: str, first: str, second: str):
    import tensorflow as tf

    node = tf.compat.v1.NodeDef(name=name, op=op, input=[first, second])
    node.attr["T"].type = tf.float32.as_datatype_enum
    return node


def _count_uses(graph) -> dict[str, int]:
    uses = {node.name: 0 for node in graph.node}
    for node in graph.node:
        for reference in node.input:
            uses[node_of(reference)] += 1
    return uses


def _sorted_nodes(graph) -> list:
    """The nodes of `graph`, inputs first."""
    nodes, done, ordered = {node.name: node for node in graph.node}, set(), []
    stack = [(node.name, False) for node in reversed(graph.node)]
    while stack:
        name, is_ready = stack.pop()
        if name in done:
            continue
        if is_ready:
            done.add(name)
            ordered.append(nodes[name])
            continue
        stack.append((name, True))
        stack += [(node_of(reference), False) for reference in nodes[name].input if node_of(reference) not in done]
    return ordered
