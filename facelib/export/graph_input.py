"""Brings a graph of any origin into the form that the converters take: one sized input, an embedding before its norm.

Graphs of TensorFlow 1 leave the size of their input open, end with an l2_normalize, and take scaled pixels, often BGR.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from facelib.export.fold_batch_norm import with_nodes
from facelib.model_input import PIXEL_SCALINGS, Io
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
