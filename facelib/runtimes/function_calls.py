"""Inlines calls of functions in a graph: If nodes that a constant decides, and plain calls.

TensorFlow 2 writes tf.cond as a node that calls one of two functions. The converters read nodes, not functions.
"""

from facelib.runtimes.phase import node_of

MAX_NODES = 200_000  # of the graph; functions that call each other twice would fill the memory
_BRANCHES = {"If": ("else_branch", "then_branch"), "StatelessIf": ("else_branch", "then_branch")}
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def inline_calls(graph, truth_of) -> None:
    """Puts the nodes of each called function in the place of its call; a branch that is not taken goes.

    A call whose branch depends on the faces stays as it is.

    Args:
        graph: a GraphDef whose functions do not call themselves; changed in place.
        truth_of: `(tensor name, {name: node}) -> bool`, or None for what no constant decides.
    """
    functions = {function.signature.name: function for function in graph.library.function}
    while len(graph.node) < MAX_NODES:
        nodes = {node.name: node for node in graph.node}
        calls = {}
        for node in graph.node:
            if name := _called(node, truth_of, nodes):
                calls[node.name] = functions.get(name)
        calls = {name: function for name, function in calls.items() if function is not None}
        if not calls:
            if not any(node.op in (*_BRANCHES, *_CALLS, "Case", "StatelessCase", *functions) for node in graph.node):
                graph.library.Clear()
            return
        name, function = next(iter(calls.items()))
        _inline(graph, nodes[name], function)


def _called(node, truth_of, nodes: dict) -> str | None:
    if node.op in _CALLS:
        return node.attr["f"].func.name
    truth = truth_of(node.input[0], nodes) if node.op in _BRANCHES and node.input else None
    return node.attr[_BRANCHES[node.op][truth]].func.name if truth is not None else None


def _inline(graph, call, function) -> None:
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

    body, tensor_names = function_def_to_graph_def(function)
    given = list(call.input)[1:] if call.op in _BRANCHES else list(call.input)
    given = [name for name in given if not name.startswith("^")]
    prefix = f"{call.name}/inlined"
    while any(node.name.startswith(prefix) for node in graph.node):
        prefix += "_"
    arguments = dict(zip((arg.name for arg in function.signature.input_arg), given, strict=True))

    def outside(reference: str) -> str:
        """A tensor name of the body as one of the graph."""
        if node_of(reference) in arguments:
            return arguments[node_of(reference)]
        control, name = ("^", reference[1:]) if reference.startswith("^") else ("", reference)
        return f"{control}{prefix}/{name.removesuffix(':0')}"

    results = []
    for output in function.signature.output_arg:
        inner = function.ret[output.name]
        results.append(outside(tensor_names.get(inner, inner)))
    ends = {f"{call.name}:{place}": result for place, result in enumerate(results)}
    for node in graph.node:
        node.input[:] = [ends.get(name, name) for name in node.input]
    for node in body.node:
        if node.name in arguments:
            continue
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.name = f"{prefix}/{node.name}"
        copy.input[:] = [outside(name) for name in node.input]
    kind = function.signature.output_arg[0].type if results else 0
    call.op, call.input[:] = ("Identity", results[:1]) if results else ("NoOp", [])
    call.attr.clear()
    if results:
        call.attr["T"].type = kind
