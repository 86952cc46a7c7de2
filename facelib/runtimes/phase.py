"""Fixes a graph in the phase of inference: what asks whether this is a training gets False, and its branches go.

Graphs of TensorFlow 1 choose with Switch and Merge between the statistics of a batch and those of the training. An
embedder uses the latter.
"""

import numpy as np

_INPUTS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


def fix_phase(graph) -> None:
    """Makes every input of type bool (is_training, phase_train, Keras 1's learning phase) the constant False.

    The branches of Switch and Merge that this decides are joined to the graph or removed.

    Args:
        graph: a GraphDef whose inputs are all there; changed in place.
    """
    import tensorflow as tf

    phases = [node for node in graph.node
              if node.op in _INPUTS and node.attr["dtype"].type == tf.bool.as_datatype_enum]  # fmt: skip
    for node in phases:
        shape = [max(1, dim.size) for dim in node.attr["shape"].shape.dim]
        false = tf.compat.v1.NodeDef(name=node.name, op="Const")
        false.attr["dtype"].type = tf.bool.as_datatype_enum
        false.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.zeros(shape, bool)))
        node.CopyFrom(false)
    if phases:
        _take_false_branches(graph, {node.name for node in phases})


def _take_false_branches(graph, false: set[str]) -> None:
    """Makes Switch and Merge nodes that depend on the constants named `false` Identity; removes the other branches."""
    nodes = {node.name: node for node in graph.node}
    dead: set[str] = set()  # nodes and tensors that never have a value

    def is_false(reference: str) -> bool:
        node, seen = nodes[node_of(reference)], set()
        while node.op == "Identity" and node.input and node.name not in seen:  # a damaged graph may go in circles
            seen.add(node.name)
            node = nodes[node_of(node.input[0])]
        return node.name in false

    def is_dead(reference: str) -> bool:
        return reference in dead or node_of(reference) in dead

    num_steps = -1
    while num_steps != (num_steps := len(dead) + sum(node.op == "Identity" for node in graph.node)):  # in any order
        for node in graph.node:
            if node.op == "Merge":
                live = [name for name in node.input if not is_dead(name)]
                if len(live) == 1 and len(node.input) > 1:
                    _make_identity(node, live)
            elif any(map(is_dead, node.input)):
                dead.add(node.name)
            elif node.op == "Switch" and len(node.input) > 1 and is_false(node.input[1]):
                _make_identity(node, [node.input[0], *node.input[2:]])
                dead.add(f"{node.name}:1")
    kept = [node for node in graph.node if node.name not in dead]
    del graph.node[:]
    graph.node.extend(kept)


def _make_identity(node, inputs: list[str]) -> None:
    kind = node.attr["T"].type
    node.op, node.input[:] = "Identity", inputs
    node.attr.clear()
    node.attr["T"].type = kind


def node_of(reference: str) -> str:
    """The node that an input or tensor name refers to: '^a/b' or 'a/b:1' -> 'a/b'."""
    return reference.lstrip("^").partition(":")[0]
