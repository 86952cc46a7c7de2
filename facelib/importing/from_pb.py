"""Reads frozen graphs of TensorFlow 1 (.pb) whose net is a MobileFaceNet, such as those of sirius-ai and Ascend.

The graph becomes ONNX in memory with its batch normalisation as it is, and is then read like any ONNX model. The import
is compared with the graph that TensorFlow runs.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from facelib.cli import print_notes
from facelib.errors import FaceError
from facelib.importing.from_onnx import rebuild
from facelib.importing.job import Imported, Job
from facelib.model_input import Io
from facelib.runtimes.phase import node_of
from facelib.sidecar import check_sidecar
from facelib.tensorflow_env import quiet_tensorflow

MAX_OPERATIONS = 12  # of a PReLU
_RECTIFIERS = ("Relu", "Abs")
# Operations with f(c * x) = c * f(x) for c > 0; a product with a constant is one.
_COMPUTE: dict[str, Callable] = {
    "Relu": lambda x: np.maximum(x, 0), "Abs": np.abs, "Neg": np.negative, "Mul": np.multiply, "Add": np.add,
    "Sub": np.subtract, "Max": np.maximum,
}  # fmt: skip


def read(job: Job) -> Imported:
    """The backbone of ours that a frozen graph is, with its weights.

    Raises:
        FaceError: no graph, or a net that is none of ours.
    """
    quiet_tensorflow()
    from facelib.export.graph_input import load_sized, without_normalisation
    from facelib.runtimes.frozen_graph import GraphEmbedder

    io = _find_io(job)
    graph, io = load_sized(job.path, io)
    if io.layout != "nhwc":
        raise FaceError(
            f"A frozen graph must be NHWC to be imported. '{job.path}' is {io.layout}: import the net's ONNX file "
            "instead."
        )
    embedder = without_normalisation(graph, io)
    model = _to_onnx(embedder, io)
    if io.colour == "bgr":
        _swap_colours(model)
    pixels = job.pixels or (io.pixels if _is_said(job) else None)
    imported = rebuild(model, replace(job, pixels=pixels, colour="rgb"), is_file=False)
    imported.original = GraphEmbedder(job.path, replace(io, pixels=imported.pixels)).raw
    imported.is_normalised = embedder is not graph
    imported.record["colour"] = io.colour
    return imported


def _is_said(job: Job) -> bool:
    return check_sidecar(job.path) is not None


def _find_io(job: Job) -> Io:
    """How the graph is fed: from its sidecar, or its only input and output, and what the user says."""
    sidecar = check_sidecar(job.path)
    said = {"pixels": job.pixels, "colour": job.colour, "layout": job.layout, "size": job.size}
    given: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if sidecar is not None:
        return replace(sidecar.io, **given)
    from facelib.runtimes.frozen_graph import find_ends, load_graph

    inputs, outputs = find_ends(load_graph(job.path))
    if len(inputs) != 1 or len(outputs) != 1:
        raise FaceError(
            f"'{job.path}' has the inputs {', '.join(inputs) or 'none'} and the outputs {', '.join(outputs[-5:])}: "
            f"choose one of each with ./optimize_pb.sh {job.path} --input NAME --output NAME. Then import the result."
        )
    if job.colour is None:
        print_notes(
            [
                (
                    f"'{job.path}' has no colour order, so RGB is assumed; if it needs BGR, as with cv2.imread, use "
                    "--color bgr"
                )
            ]
        )
    return replace(Io(input=inputs[0], output=outputs[0]), **given)


def _to_onnx(graph, io: Io):
    """The graph as an `onnx.ModelProto`, NCHW, with PReLU and batch normalisation as nodes."""
    import tensorflow as tf

    from facelib.export.fold_batch_norm import fold_batch_norms
    from facelib.export.onnx.convert import OnnxOptions, graph_to_onnx

    source, target = node_of(io.input), node_of(io.output)
    plain = tf.compat.v1.graph_util.remove_training_nodes(graph, [source, target])
    plain = fold_batch_norms(plain, target, keep_fused=True)
    model = graph_to_onnx(plain, source, target, io.size, OnnxOptions(prelu_nodes=True))
    transpose = next(node for node in model.graph.node if node.op_type == "Transpose" and source in node.input)
    for node in model.graph.node:
        node.input[:] = [source if name == transpose.output[0] else name for name in node.input]
    model.graph.node.remove(transpose)
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim[1:], (3, *io.size), strict=True):
        dim.dim_value = size
    _join_prelus(model.graph)
    return model


def _swap_colours(model) -> None:
    """Lets the first convolution, which takes BGR, take RGB."""
    from onnx import numpy_helper

    source = model.graph.input[0].name
    kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv" and node.input[0] == source}
    for tensor in model.graph.initializer:
        if tensor.name in kernels:
            swapped = np.ascontiguousarray(numpy_helper.to_array(tensor)[:, ::-1])
            tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))


def _join_prelus(graph) -> None:
    """Joins the operations of a PReLU, such as relu(x) - a * relu(-x) and relu(x) + a * (x - |x|) / 2, to one node.

    They make a function f of one tensor with f(c * x) = c * f(x) for c > 0, so its values at 1 and -1 tell what it is.
    """
    from onnx import helper, numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    for node in list(graph.node):
        if node.op_type not in ("Add", "Sub", "Max"):
            continue
        inside = _Homogeneous(makers, constants)
        inside.walk(node.output[0])
        if len(inside.sources) != 1 or len(inside.seen) > MAX_OPERATIONS or not inside.kinds & set(_RECTIFIERS):
            continue
        (source,) = inside.sources
        up, down = (np.asarray(inside.value(node.output[0], np.float32(x))) for x in (1, -1))
        slopes = np.asarray(-down, np.float32)
        if not np.allclose(up, 1, atol=1e-6) or slopes.size not in (1, max(slopes.shape, default=1)):
            continue  # another function, or a slope for each pixel, which stays unknown to the reader
        name = f"{node.output[0]}/slope"
        graph.initializer.append(numpy_helper.from_array(slopes.reshape(-1, 1, 1), name))
        joined = helper.make_node("PRelu", [source, name], [node.output[0]], name=node.name)
        node.CopyFrom(joined)
        makers[node.output[0]] = node
    _drop_unused(graph)


class _Homogeneous:
    """The operations behind a tensor, back to the tensors that they begin with.

    Args:
        makers: {tensor: node}.
        constants: {tensor: value}.
    """

    def __init__(self, makers: dict, constants: dict[str, np.ndarray]):
        self.makers, self.constants = makers, constants
        self.sources: set[str] = set()
        self.kinds: set[str] = set()
        self.seen: set[str] = set()

    def walk(self, name: str) -> None:
        if name in self.seen or len(self.seen) > MAX_OPERATIONS:
            return
        self.seen.add(name)
        node = self.makers.get(name)
        takes_constant = node is not None and any(part in self.constants for part in node.input)
        if node is None or node.op_type not in _COMPUTE or takes_constant != (node.op_type == "Mul"):
            self.sources.add(name)
            return
        self.kinds.add(node.op_type)
        for part in node.input:
            if part not in self.constants:
                self.walk(part)

    def value(self, name: str, x: np.float32) -> np.ndarray:
        if name in self.constants:
            return self.constants[name]
        if name in self.sources:
            return np.asarray(x)
        node = self.makers[name]
        values = [self.value(part, x) for part in node.input]
        return _COMPUTE[node.op_type](*values)


def _drop_unused(graph) -> None:
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
