"""Removes fake quantisation from the graph of a net that was trained for int8, for every target but int8 TFLite.

Quantisation-aware training (tools/quantize_aware.py) leaves FakeQuant nodes, which round values as int8 will.
"""

from collections.abc import Sequence

from facelib.export.split_global_depthwise import join_global_depthwise
from facelib.runtimes.frozen_graph import is_of, prune

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
