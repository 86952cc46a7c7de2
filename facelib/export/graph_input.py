"""Brings a graph of any origin into the form that the converters take: one sized input, an embedding before its norm.

Graphs of TensorFlow 1 leave the size of their input open, end with an l2_normalize, and take scaled pixels, often BGR.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.export.fold_batch_norm import constants_of, with_nodes
from facelib.model_input import PIXEL_SCALINGS, Io, scaling_of
from facelib.runtimes.frozen_graph import check_names, input_size, load_graph, node_of, prune


def load_sized(path: Path, io: Io, is_open_allowed: bool = True):
    """Reads a graph for a converter.

    Args:
        path: the .pb file.
        io: how it is fed; its size is that of a graph that leaves it open.
        is_open_allowed: whether the graph may leave it open; if not, it stays open.

    Returns:
        The GraphDef, whose input has a height and a width; `io` with that size.

    Raises:
        FaceError: no graph, or one without this input and this output.
    """
    graph = load_graph(path)
    check_names(graph, path, io.input, io.output)
    size = input_size(graph, io.input, io.layout)
    if size is None and is_open_allowed:
        size = io.size
        node = _node(graph, io.input)
        shape = (*size, 3) if io.layout == "nhwc" else (3, *size)
        dims = node.attr["shape"].shape.dim
        batch = dims[0].size if len(dims) == 4 else -1
        _set_shape(node, (batch, *shape))
    return graph, replace(io, size=size or io.size)


def static_shapes(graph, source: str, shape: tuple[int, ...]) -> dict[str, list]:
    """{node: shape of its first output} for any number of images; open sizes are None.

    A size that is computed from the number of images (Shape, StridedSlice, Pack) is found with two numbers of images.

    Args:
        graph: a GraphDef.
        source: node name of its input.
        shape: of one image at the input.
    """
    shapes = _shapes(graph, source, (None, *shape))
    if any(shape is None or None in shape[1:] for shape in shapes.values()):
        try:
            two, three = (_shapes(graph, source, (batch, *shape)) for batch in (2, 3))
        except ValueError:  # the graph takes one number of images
            two, three = shapes, shapes
        for name, known in two.items():
            other = three[name]
            if known is not None and other is not None and len(known) == len(other):
                shapes[name] = [a if a == b else None for a, b in zip(known, other, strict=True)]
    return {name: shape for name, shape in shapes.items() if shape is not None}


def without_normalisation(graph, io: Io):
    """A GraphDef whose output is the embedding before L2 normalisation; it keeps the name of the output.

    The embedder normalises, and a normalised embedding has too few steps in int8. A graph whose output is not
    normalised stays as it is.

    Args:
        graph: GraphDef with a sized input.
        io: its input and output.
    """
    target = node_of(io.output)
    last, by_name = _node(graph, target), {node.name: node for node in graph.node}
    while last.op == "Identity":
        last = by_name[node_of(last.input[0])]
    if last.op not in ("Mul", "RealDiv"):
        return graph
    image = (*io.size, 3) if io.layout == "nhwc" else (3, *io.size)
    shapes = static_shapes(graph, node_of(io.input), image)
    for x, norm in (last.input[:2], *([last.input[1::-1]] if last.op == "Mul" else [])):
        values, norms = shapes.get(node_of(x), []), shapes.get(node_of(norm), [])
        is_row = len(values) == len(norms) == 2 and norms[1] == 1 and values[1] != 1
        if is_row and node_of(x) in {node.name for node in prune(graph, [node_of(norm)]).node}:
            end = type(last)(name=target, op="Identity", input=[x])
            end.attr["T"].CopyFrom(last.attr["T"])
            return prune(with_nodes(graph, [node for node in graph.node if node.name != target] + [end]), [target])
    return graph


def with_raw_pixels(graph, io: Io):
    """A GraphDef that takes raw RGB pixels, NHWC, and does what its user did before: order, scaling, layout.

    One 1x1 convolution does it: in int8, its three weights and its output lose next to nothing.

    Args:
        graph: GraphDef with a sized input.
        io: how it is fed.

    Returns:
        The GraphDef, with the same names of input and output; the `Io` of it.
    """
    raw = replace(io, dtype="float32", layout="nhwc", colour="rgb", pixels="raw")
    if raw == replace(io, dtype="float32"):
        return graph, io
    source = node_of(io.input)
    pixels = type(graph.node[0])()
    pixels.CopyFrom(_node(graph, source))
    _set_shape(pixels, (-1, *io.size, 3))
    nodes = [pixels, *_scaling_nodes(source, io)]
    scaled = nodes[-1].name
    for node in graph.node:
        if node.name != source:
            copy = type(node)()
            copy.CopyFrom(node)
            copy.input[:] = [scaled if node_of(name) == source else name for name in node.input]
            nodes.append(copy)
    return with_nodes(graph, nodes), raw


def without_scaling(graph, io: Io, path: Path):
    """A GraphDef that takes scaled pixels: its own scaling at the input is removed.

    Args:
        graph: an optimised GraphDef. It scales pixels by Sub, Mul, Add and RealDiv with constants.
        io: how it is fed.
        path: of the graph, for the error.

    Returns:
        The GraphDef; the `Io` of it, whose `pixels` names the scaling. Both are unchanged if it takes scaled pixels.

    Raises:
        FaceError: the graph takes raw pixels and its scaling is none of `PIXEL_SCALINGS`.
    """
    if io.pixels != "raw":
        return graph, io
    constants, source = constants_of(graph), node_of(io.input)
    scale, offset, at, found = np.ones(3), np.zeros(3), source, None
    while True:
        readers = [node for node in graph.node if at in map(node_of, node.input)]
        if len(readers) != 1 or (step := _affine(readers[0], at, constants)) is None:
            break
        scale, offset, at = scale * step[0], offset * step[0] + step[1], readers[0].name
        found = (at, name) if (name := _scaling_name(scale, offset, io)) else found
    if found is None or found[0] == node_of(io.output):
        raise FaceError(
            "--pixels outside removes the pixel scaling from the beginning of the graph. The scaling must be one of "
            f"{', '.join(PIXEL_SCALINGS)}. '{path}' begins with a different operation. Use --pixels inside."
        )
    nodes = []
    for node in graph.node:
        copy = type(node)()
        copy.CopyFrom(node)
        copy.input[:] = [source if node_of(name) == found[0] else name for name in node.input]
        nodes.append(copy)
    return prune(with_nodes(graph, nodes), [node_of(io.output)]), replace(io, dtype="float32", pixels=found[1])


def _affine(node, at: str, constants: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, offset), float64 [3] each, if `node` is scale * x + offset of the node `at`; else None."""
    one, zero = np.ones(3), np.zeros(3)
    if node.op == "Identity":
        return one, zero
    names = [node_of(name) for name in node.input]
    value = next((constants[name] for name in names if name in constants), None)
    if len(names) != 2 or value is None or value.size not in (1, 3) or value.shape[-1:] not in ((), (1,), (3,)):
        return None
    number = np.broadcast_to(value.reshape(-1).astype(np.float64), 3)
    is_first = names[0] == at
    if node.op in ("Add", "AddV2"):
        return one, number
    if node.op == "Mul":
        return number, zero
    if node.op == "Sub":
        return (one, -number) if is_first else (-one, number)
    return (1 / number, zero) if node.op == "RealDiv" and is_first else None


def _scaling_name(scale: np.ndarray, offset: np.ndarray, io: Io) -> str | None:
    """The key of `PIXEL_SCALINGS` that is scale * x + offset, to within the rounding of float32; None for others."""
    for name in PIXEL_SCALINGS:
        mean, std = map(np.array, scaling_of(replace(io, pixels=name)).values())
        if name != "raw" and np.allclose(scale * std, 1, atol=1e-5) and np.allclose(offset, -mean / std, atol=1e-4):
            return name
    return None


def _scaling_nodes(source: str, io: Io) -> list:
    """The nodes from raw pixels to what the net takes; the last one is the result."""
    import tensorflow as tf

    mean, std = (np.broadcast_to(np.asarray(value, np.float64), 3) for value in PIXEL_SCALINGS[io.pixels])
    order = [0, 1, 2] if io.colour == "rgb" else [2, 1, 0]
    kernel, bias = np.zeros((1, 1, 3, 3), np.float32), np.zeros(3, np.float32)
    for channel, rgb in enumerate(order):
        kernel[0, 0, rgb, channel], bias[channel] = 1 / std[rgb], -mean[rgb] / std[rgb]
    inside = tf.Graph()
    with inside.as_default():
        images = tf.compat.v1.placeholder(tf.float32, [None, *io.size, 3], name=source)
        with tf.name_scope("raw_pixels/"):
            values = tf.nn.bias_add(tf.nn.conv2d(images, tf.constant(kernel), 1, "VALID"), tf.constant(bias))
            if io.layout == "nchw":
                tf.transpose(values, [0, 3, 1, 2])
    return [node for node in inside.as_graph_def().node if node.name != source]


def _shapes(graph, source: str, shape: tuple) -> dict[str, list | None]:
    import tensorflow as tf

    with tf.Graph().as_default() as inside:
        kind = tf.dtypes.as_dtype(_node(graph, source).attr["dtype"].type)
        images = tf.compat.v1.placeholder(kind, shape)
        tf.import_graph_def(graph, input_map={f"{source}:0": images}, name="")
        outputs = {op.name: op.outputs[0].shape for op in inside.get_operations() if op.outputs}
    shapes = {name: None if found.rank is None else found.as_list() for name, found in outputs.items()}
    return {**shapes, source: list(shape)}


def _set_shape(node, shape: tuple[int, ...]) -> None:
    import tensorflow as tf

    sizes = [None if size < 0 else size for size in shape]
    node.attr["shape"].shape.CopyFrom(tf.TensorShape(sizes).as_proto())


def _node(graph, name: str):
    return next(node for node in graph.node if node.name == node_of(name))
