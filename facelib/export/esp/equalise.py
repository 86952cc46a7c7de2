"""Evens out the weights of an ONNX model (`facelib.models.equalisation`), before esp-ppq quantises it."""

from pathlib import Path

import numpy as np

from facelib.models.equalisation import Kernel, Link, equalise

ACTIVATIONS = ("Relu", "Clip", "LeakyRelu")


def equalise_onnx(path: Path, pixels: np.ndarray) -> bytes:
    """The bytes of a model that computes the same, with even weights.

    Args:
        path: a float model of batch 1.
        pixels: float32 [N, 3, H, W], as the model takes them: faces that show which channels an activation cuts.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    graph = model.graph
    tensors = {each.name: each for each in graph.initializer}
    readers: dict[str, list] = {each.name: [None] for each in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    kernels = {node.name: kernel for node in graph.node if (kernel := _kernel(node, tensors, readers)) is not None}
    found = [each for name in kernels if (each := _link_after(_named(graph, name), readers, kernels)) is not None]
    clips = {act.output[0]: act for _, act, _ in found if act is not None and act.op_type == "Clip"}
    bounds = {
        name: [float(numpy_helper.to_array(tensors[each])) for each in act.input[1:3]] for name, act in clips.items()
    }
    peaks = _peaks(model, list(clips), pixels)
    links = []
    for first, act, second in found:
        name = act.output[0] if act is not None else ""
        low, limit = bounds.get(name, (0.0, None))
        if low == 0:  # only then it commutes with a factor
            links.append(Link(kernels[first.name], kernels[second.name], limit, peaks.get(name)))
    equalise(links)
    for name, kernel in kernels.items():
        node = _named(graph, name)
        for reference, value in ((node.input[1], kernel.weights), (node.input[2], kernel.bias)):
            tensors[reference].CopyFrom(numpy_helper.from_array(value.astype(np.float32), reference))
    return model.SerializeToString()


def _named(graph, name: str):
    return next(node for node in graph.node if node.name == name)


def _kernel(node, tensors: dict, readers: dict) -> Kernel | None:
    """The weights of a plain or depthwise convolution with a bias, which no other node reads; None for other nodes."""
    from onnx import numpy_helper

    if node.op_type != "Conv" or len(node.input) != 3:
        return None
    if any(name not in tensors or len(readers[name]) != 1 for name in node.input[1:]):
        return None
    weights, bias = (numpy_helper.to_array(tensors[name]) for name in node.input[1:])
    groups = next((each.i for each in node.attribute if each.name == "group"), 1)
    if groups not in (1, len(weights)) or (groups > 1 and weights.shape[1] != 1):
        return None
    return Kernel(weights, bias, groups > 1)


def _link_after(node, readers: dict, kernels: dict):
    """(`node`, the activation or None, the convolution that alone reads it); None if there is no such convolution."""
    after, act = readers.get(node.output[0], []), None
    if len(after) == 1 and after[0] is not None and after[0].op_type in ACTIVATIONS:
        act = after[0]
        after = readers.get(act.output[0], [])
    if len(after) != 1 or after[0] is None or after[0].name not in kernels:
        return None
    return node, act, after[0]


def _peaks(model, names: list[str], pixels: np.ndarray) -> dict[str, np.ndarray]:
    """{tensor: its largest values, float [channels]} over all faces."""
    import onnx
    import onnxruntime

    if not names:
        return {}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    seen = [[value.max((0, 2, 3)) for value in session.run(names, {source: face[None]})] for face in pixels]
    return {name: np.max([each[i] for each in seen], axis=0) for i, name in enumerate(names)}
