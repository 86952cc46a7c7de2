"""Reads a traced function as TensorFlow would place it on a GPU, on a machine without one.

TensorFlow's Linux wheel registers its CUDA kernels everywhere. `audit` looks each operation of a traced function, and
of every function that it calls, up in that register: has it a kernel for a GPU with its types, and which of its inputs
and outputs does that kernel keep in the memory of the host? A value that is made on the device and read on the host is
a fetch: the host waits until the device has computed it. The rules are those of TensorFlow's placer and of
`MemoryTypesForNode` (tensorflow/core/framework/memory_types.cc): int32, resources and strings cross the border of a
function in the memory of the host, everything else on the device.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

from tensorflow.core.framework import types_pb2
from tensorflow.python.framework import op_def_registry
from tensorflow.python.framework.kernels import get_registered_kernels_for_op

# Operations that have no kernel, because TensorFlow replaces them by the body of a function before it runs a graph.
CALLS = {"PartitionedCall", "StatefulPartitionedCall", "If", "StatelessIf", "While", "StatelessWhile", "Case",
         "StatelessCase", "SymbolicGradient"}  # fmt: skip
# Their kernels fetch the size of the output from the device.
SIZED_BY_VALUES = {"Where", "Unique", "UniqueV2", "UniqueWithCounts", "UniqueWithCountsV2", "DynamicPartition"}
COLLECTIVES = {"CollectiveReduceV2", "CollectiveGatherV2"}
# What crosses the border between Python and the device, or is text.
ROUND_TRIPS = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "Print", "PrintV2", "Assert", "StringFormat", "AsString",
               "HostConst", "NumericalGradient", "XlaHostCompute", "_XlaSendFromHost"}  # fmt: skip
_ON_HOST = {types_pb2.DT_INT32, types_pb2.DT_STRING, types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT}


@dataclass
class Audit:
    """What an audit found.

    Attributes:
        nodes: number of operations, constants and arguments left out; the body of a loop counts once.
        without_kernel: {(operation, types): names of nodes} that no GPU kernel takes.
        round_trips: {operation: names of nodes} that leave the graph, or whose values are text.
        pinned: {(operation, device): names of nodes} with a device in the graph.
        fetched: {(operation and output that make the value, operation and input that read it): names of the readers}.
        sized: {operation: names of nodes} whose values decide the size of their output, which the host waits for.
        compiled: names of the functions that XLA must compile.
        kinds: the operations that occur.
    """

    nodes: int = 0
    without_kernel: dict = field(default_factory=lambda: defaultdict(list))
    round_trips: dict = field(default_factory=lambda: defaultdict(list))
    pinned: dict = field(default_factory=lambda: defaultdict(list))
    fetched: dict = field(default_factory=lambda: defaultdict(list))
    sized: dict = field(default_factory=lambda: defaultdict(list))
    compiled: set = field(default_factory=set)
    kinds: set = field(default_factory=set)


def audit(traced) -> Audit:
    """Audits a traced function and all that it calls.

    Args:
        traced: a ConcreteFunction.
    """
    graph = traced.graph.as_graph_def()
    library = {each.signature.name: each for each in graph.library.function}
    functions = [traced.function_def, *library.values()]
    conditions = {node.attr["cond"].func.name for each in functions for node in each.node_def if "While" in node.op}
    found, todo, seen = Audit(), [traced.function_def], set()
    while todo:
        function = todo.pop()
        if function.signature.name in seen:
            continue
        seen.add(function.signature.name)
        if function.attr["_XlaMustCompile"].b:
            found.compiled.add(function.signature.name)
        _Function(function, found, function.signature.name in conditions).read()
        called = (name for node in function.node_def for name in _called(node))
        todo += [library[name] for name in called if name in library]
    return found


def collectives(traced) -> tuple[list, list]:
    """The collective operations of a traced function, and pairs of neighbours that nothing puts in an order.

    Args:
        traced: a ConcreteFunction.

    Returns:
        (nodes, [(name, name of the next that does not wait for it)]), of the function and of all that it calls.
    """
    graph = traced.graph.as_graph_def()
    library = {each.signature.name: each for each in graph.library.function}
    nodes, loose = [], []

    def communicates(node) -> bool:
        called = (library[name] for name in _called(node) if name in library)
        return node.op in COLLECTIVES or any(communicates(each) for function in called for each in function.node_def)

    for function in (traced.function_def, *library.values()):
        waits_for = {
            node.name: {source.lstrip("^").partition(":")[0] for source in node.input} for node in function.node_def
        }
        here = [node for node in function.node_def if communicates(node)]
        nodes += [node for node in here if node.op in COLLECTIVES]
        before = {node.name: _ancestors(node.name, waits_for) for node in here}
        here.sort(key=lambda node: len(before[node.name] & before.keys()))
        loose += [(a.name, b.name) for a, b in pairwise(here) if a.name not in before[b.name]]
    return nodes, loose


def _ancestors(name, waits_for) -> set:
    found, todo = set(), [name]
    while todo:
        new = waits_for.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return found


def _called(node):
    """The names of the functions in the attributes of a node."""
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (each.name for each in value.list.func)


class _Function:
    """The body of one function: a FunctionDef. `is_condition`: the host reads from it whether a loop goes on."""

    def __init__(self, function, found: Audit, is_condition: bool):
        self.function, self.found, self.is_condition = function, found, is_condition
        self.nodes = {node.name: node for node in function.node_def}

    def read(self):
        for node in self.function.node_def:
            self._read_node(node)
        kinds = {each.name: each.type for each in self.function.signature.output_arg}
        for name, source in self.function.ret.items():
            if self.is_condition or kinds[name] in _ON_HOST:
                self._note_fetch(source, "loop" if self.is_condition else "return", name)

    def _read_node(self, node):
        found = self.found
        found.kinds.add(node.op)
        found.nodes += node.op not in ("Const", "Identity", "NoOp")
        if node.op in ROUND_TRIPS or "String" in node.op or _has_text(node):
            found.round_trips[node.op].append(node.name)
        if node.op in SIZED_BY_VALUES:
            found.sized[node.op].append(node.name)
        if node.device:
            found.pinned[node.op, node.device].append(node.name)
        if node.op not in CALLS and kernel_of(node) is None:
            found.without_kernel[node.op, types_of(node)].append(node.name)
            return
        for source, argument, is_host in zip(_data_inputs(node), *_inputs_of(node), strict=True):
            if is_host:
                self._note_fetch(source, node.op, argument, node.name)

    def _note_fetch(self, source, reader, argument, name=""):
        node_name, _, output = source.partition(":")
        while node_name in self.nodes and self.nodes[node_name].op == "Identity":  # TensorFlow removes it
            node_name, _, output = _data_inputs(self.nodes[node_name])[0].partition(":")
        if node_name not in self.nodes:  # an argument of the function
            types = {each.name: each.type for each in self.function.signature.input_arg}
            if types[node_name] not in _ON_HOST:
                self.found.fetched["argument", f"{reader}.{argument}"].append(name or node_name)
            return
        node, (output, idx) = self.nodes[node_name], output.split(":")
        if node.op in CALLS or kernel_of(node) is None:
            is_host = _output_type(node, output, int(idx)) in _ON_HOST
        else:
            is_host = output in kernel_of(node).host_memory_arg
        if not is_host and node.op != "Const":
            self.found.fetched[f"{node.op}.{output}", f"{reader}.{argument}"].append(name or node_name)


def _data_inputs(node):
    return [source for source in node.input if not source.startswith("^")]


@cache
def op_def(name):
    return op_def_registry.get(name)


def _count(argument, node):
    if argument.number_attr:
        return node.attr[argument.number_attr].i
    return len(node.attr[argument.type_list_attr].list.type) if argument.type_list_attr else 1


def _argument_types(argument, node):
    if argument.type_list_attr:
        return list(node.attr[argument.type_list_attr].list.type)
    kind = node.attr[argument.type_attr].type if argument.type_attr else argument.type
    return [kind] * _count(argument, node)


def _inputs_of(node):
    """(name, whether it is read in the memory of the host) of each input."""
    names, on_host = [], []
    kernel = None if node.op in CALLS else kernel_of(node)
    for argument in op_def(node.op).input_arg:
        for kind in _argument_types(argument, node):
            names.append(argument.name)
            is_condition = node.op in ("If", "StatelessIf") and argument.name == "cond"
            is_host = kind in _ON_HOST or is_condition
            on_host.append(is_host if kernel is None else argument.name in kernel.host_memory_arg)
    return names, on_host


def _output_type(node, output, idx):
    return next(_argument_types(each, node)[idx] for each in op_def(node.op).output_arg if each.name == output)


def _has_text(node):
    definition = op_def(node.op)
    kinds = [kind for each in [*definition.input_arg, *definition.output_arg] for kind in _argument_types(each, node)]
    return types_pb2.DT_STRING in kinds


def types_of(node) -> tuple:
    """The values of a node's attributes that are types, as 'T=float32'."""
    return tuple(
        f"{name}={types_pb2.DataType.Name(value.type)[3:].lower()}"
        for name, value in sorted(node.attr.items())
        if value.HasField("type")
    )


@cache
def _kernels(op):
    """The kernels that a GPU may run, the best first. 'DEFAULT' is for every device without one of its own."""
    found = [kernel for kernel in get_registered_kernels_for_op(op).kernel if kernel.device_type in ("GPU", "DEFAULT")]
    return sorted(found, key=lambda kernel: (kernel.device_type != "GPU", -kernel.priority))


def kernel_of(node):
    """The KernelDef that a GPU would run a node with, or None."""
    return next((kernel for kernel in _kernels(node.op) if not kernel.label and _fits(kernel, node)), None)


def _fits(kernel, node):
    for constraint in kernel.constraint:
        value, allowed = node.attr[constraint.name], set(constraint.allowed_values.list.type)
        kinds = [value.type] if value.HasField("type") else value.list.type
        if not all(kind in allowed for kind in kinds):
            return False
    return True


def has_gpu_kernels() -> bool:
    """Whether this TensorFlow registers CUDA kernels; tensorflow-cpu does not."""
    return any(kernel.device_type == "GPU" for kernel in get_registered_kernels_for_op("Conv2D").kernel)
