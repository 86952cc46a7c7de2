"""Rewrites graphs for int8: scales pixels in the first convolution, splits the global (7x7) depthwise convolution, and
removes fake quantisation.

The division of the pixels is a layer over the largest map. XNNPACK does it in passing; on an Ethos-U55 it takes more
time than any other layer (docs/mcu.md). `fold_input_scale` puts it into the weights of the first convolution.

XNNPACK has int8 kernels for depthwise convolutions of up to 25 weights for each channel. MobileFaceNet's global
depthwise convolution has 49. XNNPACK computes it as a matrix product with one column for each of its 512 channels,
which takes a third of the net's time. `split_global_depthwise` writes it as a sum over each column of the map and a sum
of those sums, which takes almost no time; `join_global_depthwise` undoes that for other targets.

Quantisation-aware training (tools/quantize_aware.py) leaves FakeQuant nodes, which round values as int8 will. Every
target but int8 TFLite wants the graph without them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from facelib.export.fold_batch_norm import constant_node, constants_of
from facelib.models.column_sums import column_kernels, column_shapes, even_factors, is_global
from facelib.runtimes.frozen_graph import is_of, node_of, prune

_OPS = ("FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxArgs")


def has_fake_quant(graph) -> bool:
    """Whether the net was trained for int8: the graph has fake quantisation."""
    return any(node.op in _OPS for node in graph.node)


def without_fake_quant(graph, output: str, layers: Sequence[str] | None = None):
    """A copy of the GraphDef in which FakeQuant nodes are replaced by Identity.

    If all layers are taken, the two halves of a split global depthwise convolution are joined again too.

    Args:
        graph: GraphDef.
        output: node name that the result is pruned to.
        layers: prefixes of layer names; None = all layers.
    """
    import tensorflow as tf

    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph)
    for node in result.node:
        if node.op in _OPS and (layers is None or is_of(node.name, layers)):
            dtype = tf.compat.v1.AttrValue(type=tf.float32.as_datatype_enum)
            node.op, node.input[:] = "Identity", node.input[:1]
            node.attr.clear()
            node.attr["T"].CopyFrom(dtype)
    return join_global_depthwise(result, output) if layers is None else prune(result, [output])


def fold_input_scale(graph, source: str, output: str):
    """A GraphDef whose first convolution divides the pixels, in place of a layer before it.

    Args:
        graph: a frozen GraphDef. It is returned as it is where the pixels are not divided, or not only for plain
            convolutions with constant kernels.
        source: node name of the input.
        output: node name.
    """
    import tensorflow as tf

    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph)
    constants, readers = constants_of(result), _readers(result)
    for each in result.node:  # a frozen variable is read through an Identity
        if each.op == "Identity" and node_of(each.input[0]) in constants:
            constants[each.name] = constants[node_of(each.input[0])]
    node = source
    factor: np.ndarray | None = None
    while factor is None:  # over the subtraction of the mean to the division
        if len(following := readers.get(node, [])) != 1:
            return graph
        (step,) = following
        value = constants.get(node_of(step.input[1])) if len(step.input) == 2 else None
        if step.op in ("RealDiv", "Mul") and value is not None and value.size in (1, 3):
            factor = 1 / value if step.op == "RealDiv" else value
        elif not (step.op == "Identity" or (step.op in ("Sub", "AddV2") and value is not None)):
            return graph
        before, node = node, step.name
    scaled = [step]
    convolutions: list = []
    for reader in scaled:  # grows: zeros that pad a map stay zeros
        for each in readers.get(reader.name, []):
            (scaled if each.op in ("Pad", "Identity") else convolutions).append(each)
    kernels = [constants[node_of(each.input[1])] for each in convolutions if _has_kernel(each, constants)]
    if not kernels or len(kernels) < len(convolutions) or node_of(output) in {each.name for each in scaled}:
        return graph
    for each, kernel in zip(convolutions, kernels, strict=True):
        new = result.node.add()
        new.CopyFrom(constant_node(f"{each.name}/scaled_kernel", (kernel * factor.reshape(-1, 1)).astype(np.float32)))
        each.input[1] = new.name
    for reader in readers[step.name]:
        reader.input[:] = [before if node_of(name) == step.name else name for name in reader.input]
    return prune(result, [output])


def _has_kernel(node, constants: dict[str, np.ndarray]) -> bool:
    return node.op == "Conv2D" and node_of(node.input[1]) in constants


def _readers(graph) -> dict[str, list]:
    """{node name: the nodes that read it}."""
    readers: dict[str, list] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(node_of(name.lstrip("^")), []).append(node)
    return readers


@dataclass(frozen=True)
class GlobalDepthwise:
    """A depthwise convolution over a whole map.

    Attributes:
        name: of its node.
        source: name of the node that it reads.
        kernel: float32 [H, W, C, 1].
    """

    name: str
    source: str
    kernel: np.ndarray


def split_global_depthwise(graph, output: str, values_of: Callable[[str], np.ndarray]):
    """A GraphDef that computes the same `output`, with each global depthwise convolution split in two.

    The sums of columns are one tensor, and int8 gives it one scale. So the first kernel multiplies each channel by a
    factor that brings all channels to the same range, and the second kernel divides by it.

    Args:
        graph: a frozen GraphDef.
        output: node name.
        values_of: node name -> its values on calibration crops, float32 [N, H, W, C].
    """
    import tensorflow as tf

    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph)
    for found in _find(graph):
        maps = values_of(found.source)
        if not is_global(found.kernel.shape, maps.shape[1:]):
            continue
        columns = np.einsum("nhwc,hwc->nwc", maps, found.kernel[..., 0])
        _split(result, found, even_factors(np.abs(columns).max((0, 1))))
    return prune(result, [output])


def join_global_depthwise(graph, output: str):
    """The inverse of `split_global_depthwise`: a GraphDef in which each pair is one convolution again.

    Args:
        graph: a frozen GraphDef. Identity nodes between the two halves are skipped.
        output: node name.
    """
    import tensorflow as tf

    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph)
    nodes, constants = {node.name: node for node in result.node}, constants_of(result)

    def before(node, op: str):
        """The node that `node` reads, Identity nodes skipped, if its operation is `op`; else None."""
        found = node and nodes[node_of(node.input[0])]
        while found is not None and found.op == "Identity":
            found = nodes[node_of(found.input[0])]
        return found if found is not None and found.op == op else None

    for node in list(result.node):
        columns = (
            before(before(node, "Reshape"), "DepthwiseConv2dNative") if node.op == "DepthwiseConv2dNative" else None
        )
        unrolled = before(columns, "Reshape") if columns else None
        if columns is None or unrolled is None:
            continue
        first, second = (constants.get(node_of(each.input[1])) for each in (columns, node))
        if first is None or second is None or first.shape[1::2] != (1, 1) or second.shape[1::2] != (1, 1):
            continue
        (height, _, _, _), (width, _, channels, _) = first.shape, second.shape
        if first.shape[2] != width * channels:
            continue
        kernel = first.reshape(height, width, channels, 1) * second.reshape(1, width, channels, 1)
        new = result.node.add(op="Const", name=f"{node.name}/joined")
        tensor = tf.make_tensor_proto(kernel)
        new.attr["dtype"].type = tensor.dtype
        new.attr["value"].tensor.CopyFrom(tensor)
        node.input[:] = [unrolled.input[0], new.name]
    return prune(result, [output])


def _find(graph) -> list[GlobalDepthwise]:
    constants, found = constants_of(graph), []
    for node in graph.node:
        kernel = constants.get(node_of(node.input[1])) if node.op == "DepthwiseConv2dNative" else None
        if kernel is None or node.attr["padding"].s != b"VALID":
            continue
        if is_global(kernel.shape, kernel.shape):  # the size of the map is checked later
            found.append(GlobalDepthwise(node.name, node_of(node.input[0]), kernel))
    return found


def _split(graph, found: GlobalDepthwise, factors: np.ndarray) -> None:
    """Replaces the node `found` of `graph` by four: reshape, sums of columns, reshape, sum of the sums."""
    import tensorflow as tf

    (node,) = (node for node in graph.node if node.name == found.name)
    first, second = (np.asarray(kernel) for kernel in column_kernels(found.kernel, factors))
    before, between = column_shapes(*found.kernel.shape[:3])

    def constant(name: str, value) -> str:
        tensor = tf.make_tensor_proto(np.asarray(value))
        new = graph.node.add(op="Const", name=f"{found.name}/{name}")
        new.attr["dtype"].type = tensor.dtype
        new.attr["value"].tensor.CopyFrom(tensor)
        return new.name

    def reshape(name: str, source: str, shape: list[int]) -> str:
        new = graph.node.add(op="Reshape", name=f"{found.name}/{name}")
        new.input.extend([source, constant(f"{name}/shape", np.array(shape, np.int32))])
        new.attr["T"].type, new.attr["Tshape"].type = tf.float32.as_datatype_enum, tf.int32.as_datatype_enum
        return new.name

    columns = graph.node.add()
    columns.CopyFrom(node)
    columns.name = f"{found.name}/columns"
    columns.input[:] = [reshape("unrolled", node.input[0], before), constant("columns/kernel", first)]
    node.input[:] = [reshape("rolled", columns.name, between), constant("sum/kernel", second)]
