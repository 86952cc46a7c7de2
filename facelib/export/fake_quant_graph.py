"""Graphs of nets that were trained for int8: the roundings in them, and the same graph without. Names TensorFlow."""

from collections.abc import Sequence

from facelib.export.split_global_depthwise import join_global_depthwise
from facelib.runtimes.frozen_graph import is_of, prune

_OPS = ("FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxArgs")


def has_fake_quant(graph) -> bool:
    """Whether the net was trained for int8."""
    return any(node.op in _OPS for node in graph.node)


def without_fake_quant(graph, output: str, layers: Sequence[str] | None = None):
    """A GraphDef whose values pass unrounded: for float artefacts, or of some layers for a mixed one.

    Args:
        output: node that the result is pruned to.   layers: beginnings of layer names; None = all.
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
