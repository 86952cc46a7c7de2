"""Fixes a graph in the phase of inference: what asks whether this is a training gets False, and its branches go.

Graphs of TensorFlow 1 choose with Switch and Merge between the statistics of a batch and those of the training. An
embedder uses the latter. Colocation (`_class`) and control inputs go too: they name nodes that may be gone, and a graph
of pure operations needs no order.
"""

import numpy as np

_INPUTS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


def fix_phase(graph) -> None:
    """Makes every input of type bool (is_training, phase_train, Keras 1's learning phase) the constant False.

    The branches of Switch and Merge that this or another constant decides are joined to the graph or removed.

    An input of another type that has a default, such as keep_prob, becomes its default, unless it is the only input.

    Args:
        graph: a GraphDef whose inputs are all there; changed in place.
    """
    import tensorflow as tf

    has_input = any(node.op in _INPUTS[:2] and node.attr["dtype"].type != tf.bool.as_datatype_enum
                    for node in graph.node)  # fmt: skip
    for node in graph.node:
        node.attr.pop("_class", None)
        if node.op in _INPUTS and node.attr["dtype"].type == tf.bool.as_datatype_enum:
            shape = [max(1, dim.size) for dim in node.attr["shape"].shape.dim]
            false = tf.compat.v1.NodeDef(name=node.name, op="Const")
            false.attr["dtype"].type = tf.bool.as_datatype_enum
            false.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.zeros(shape, bool)))
            node.CopyFrom(false)
        elif node.op == "PlaceholderWithDefault":
            _take_default(node, is_input=not has_input)
    _take_branches(graph)
    if not any(node.op == "Switch" for node in graph.node):
        for node in graph.node:
            node.input[:] = [reference for reference in node.input if not reference.startswith("^")]


def _take_default(node, is_input: bool) -> None:
    """Makes a PlaceholderWithDefault its default, or a Placeholder if it is the input of the graph."""
    dtype = node.attr["dtype"].type
    if is_input:
        node.op, node.input[:] = "Placeholder", []
    else:
        node.op = "Identity"
        node.attr.clear()
        node.attr["T"].type = dtype


def truth_of(reference: str, nodes: dict) -> bool | None:
    """The value of a bool tensor that constants alone decide; None for another.

    Args:
        reference: name of the tensor.
        nodes: {name: node} of the graph.
    """
    import tensorflow as tf

    is_negated, seen = False, set()
    node = nodes[node_of(reference)]
    while (
        node.op in ("Identity", "Squeeze", "LogicalNot") and node.input and node.name not in seen
    ):  # a damaged graph may circle
        seen.add(node.name)
        is_negated ^= node.op == "LogicalNot"
        node = nodes[node_of(node.input[0])]
    if node.op != "Const" or node.attr["dtype"].type != tf.bool.as_datatype_enum:
        return None
    values = np.ravel(tf.make_ndarray(node.attr["value"].tensor))
    return bool(values[0]) ^ is_negated if len(values) == 1 else None


def _take_branches(graph) -> None:
    """Makes Switch and Merge nodes that constants decide Identity; removes the branches that are not taken."""
    nodes = {node.name: node for node in graph.node}
    switches = {node.name for node in graph.node if node.op == "Switch" or _is_of_bools(node)}
    dead: set[str] = set()  # nodes, and tensors with their number, that never have a value
    taken: set[str] = set()  # Switch nodes whose second output was taken

    def is_dead(reference: str) -> bool:
        return node_of(reference) in dead or _tensor(reference) in dead

    num_steps = -1
    while num_steps != (num_steps := len(dead) + sum(node.op == "Identity" for node in graph.node)):  # in any order
        for node in graph.node:
            if node.op == "Merge":
                live = [name for name in node.input if not is_dead(name)]
                if len(live) == 1 and len(node.input) > 1:
                    _make_identity(node, live)
            elif any(map(is_dead, node.input)):
                dead.add(node.name)
            elif node.op == "Switch" and len(node.input) > 1 and (truth := truth_of(node.input[1], nodes)) is not None:
                _make_identity(node, [node.input[0], *node.input[2:]])
                dead.add(f"{node.name}:{int(not truth)}")
                taken |= {node.name} if truth else set()
    kept = [node for node in graph.node if node.name not in dead]
    for node in kept:
        node.input[:] = [node_of(name) if name[:1] != "^" and node_of(name) in taken else name for name in node.input]
    num_kept = -1
    while num_kept != (num_kept := len(kept)):  # what fed removed branches alone is no output of the graph
        used = {node_of(name) for node in kept for name in node.input}
        kept = [node for node in kept if node.name in used or node.name not in switches]
    del graph.node[:]
    graph.node.extend(kept)


def _is_of_bools(node) -> bool:
    import tensorflow as tf

    return node.op == "Identity" and node.attr["T"].type == tf.bool.as_datatype_enum


def _tensor(reference: str) -> str:
    """'a' -> 'a:0'; '^a' and 'a:1' stay as they are."""
    return reference if ":" in reference or reference.startswith("^") else f"{reference}:0"


def _make_identity(node, inputs: list[str]) -> None:
    kind = node.attr["T"].type
    node.op, node.input[:] = "Identity", inputs
    node.attr.clear()
    node.attr["T"].type = kind


def node_of(reference: str) -> str:
    """The node that an input or tensor name refers to: '^a/b' or 'a/b:1' -> 'a/b'."""
    return reference.lstrip("^").partition(":")[0]
