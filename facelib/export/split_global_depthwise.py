"""Splits the global depthwise convolution (7x7) in two for int8 TFLite, and joins the two again for other targets.

XNNPACK has int8 kernels for depthwise convolutions of up to 25 weights for each channel. MobileFaceNet's global
depthwise convolution has 49. XNNPACK computes it as a matrix product with one column for each of its 512 channels,
which takes a third of the net's time. Here it becomes a sum over each column of the map and a sum of those sums, which
takes almost no time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from facelib.export.fold_batch_norm import constants_of
from facelib.models.column_sums import column_kernels, column_shapes, even_factors, is_global
from facelib.runtimes.frozen_graph import node_of, prune


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
        first, second = (constants.get(node_of(each.input[1])) if unrolled else None for each in (columns, node))
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
