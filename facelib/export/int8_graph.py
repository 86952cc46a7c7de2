"""What int8 TFLite is slow at, said in another way before the conversion. Names TensorFlow.

XNNPACK has depthwise int8 kernels for up to 25 weights a channel. MobileFaceNet's global depthwise convolution has 49,
falls back to a matrix product with one column for each of its 512 channels, and takes a third of the net's time. Split
into the sums of each column of the map and the sum of those, it takes almost none.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from facelib.export.fold_batch_norm import constants_of
from facelib.runtimes.frozen_graph import node_of, prune

MAX_TAPS = 25  # weights a channel of XNNPACK's largest depthwise kernel


@dataclass(frozen=True)
class GlobalDepthwise:
    """A depthwise convolution over a whole map. kernel: float32 [H, W, C, 1].   source: the node that it reads."""

    name: str
    source: str
    kernel: np.ndarray


def is_global(kernel_shape: tuple[int, ...], map_shape: tuple[int, ...]) -> bool:
    """Whether a depthwise kernel [H, W, C, M] covers the map [H, W, C], and is too large for XNNPACK."""
    return (
        tuple(kernel_shape[:2]) == tuple(map_shape[:2])
        and kernel_shape[3] == 1
        and kernel_shape[0] * kernel_shape[1] > MAX_TAPS
    )


def split_global_depthwise(graph, output: str, look: Callable[[str], np.ndarray]):
    """A GraphDef that gives the same `output` (node name) with each global depthwise convolution in two.

    The sums of columns are one tensor with one scale, so each channel is first brought to the same range; the second
    convolution divides again.

    Args:
        look: node name -> its values on calibration crops, float32 [N, H, W, C].
    """
    import tensorflow as tf

    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph)
    for found in _find(graph):
        maps = look(found.source)
        if not is_global(found.kernel.shape, maps.shape[1:]):
            continue
        columns = np.einsum("nhwc,hwc->nwc", maps, found.kernel[..., 0])
        _split(result, found, even_factors(np.abs(columns).max((0, 1))))
    return prune(result, [output])


def join_global_depthwise(graph, output: str):
    """The inverse of `split_global_depthwise`: a GraphDef with one convolution again, for every other form."""
    import tensorflow as tf

    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph)
    nodes, constants = {node.name: node for node in result.node}, constants_of(result)

    def before(node, op: str):
        """The node that `node` reads, identities aside, where it is an `op`."""
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


def even_factors(largest: np.ndarray) -> np.ndarray:
    """What brings channels with these largest magnitudes to one range: float32 [C], at least 1, at most 1000."""
    return np.clip(largest.max() / np.maximum(largest, 1e-9), 1, 1000).astype(np.float32)


def column_shapes(height: int, width: int, channels: int) -> tuple[list[int], list[int]]:
    """Shapes that a map [N, H, W, C] takes: for the sums of its columns, and for the sum of those."""
    return [-1, height, 1, width * channels], [-1, width, 1, channels]


def column_kernels(kernel, factors):
    """(kernel [H, 1, W C, 1] of the columns, kernel [W, 1, C, 1] of their sum) of a global one [H, W, C, 1]; arrays or
    tensors."""
    import tensorflow as tf

    height, width, channels, _ = kernel.shape
    first = tf.reshape(kernel * tf.reshape(factors, [1, 1, -1, 1]), [height, 1, width * channels, 1])
    second = tf.ones([width, 1, 1, 1]) * tf.reshape(1.0 / factors, [1, 1, -1, 1])
    return first, second


def _find(graph) -> list[GlobalDepthwise]:
    constants, found = constants_of(graph), []
    for node in graph.node:
        kernel = constants.get(node_of(node.input[1])) if node.op == "DepthwiseConv2dNative" else None
        if kernel is None or node.attr["padding"].s != b"VALID":
            continue
        if is_global(kernel.shape, kernel.shape):  # the map is looked at later
            found.append(GlobalDepthwise(node.name, node_of(node.input[0]), kernel))
    return found


def _split(graph, found: GlobalDepthwise, factors: np.ndarray) -> None:
    """Replaces the node `found` of `graph` by four."""
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
