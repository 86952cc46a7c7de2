"""TensorFlow frozen graphs (.pb): run as an `Embedder`, read, written, pruned, and their names checked.

A frozen graph is a GraphDef without variables: one Placeholder in, one tensor out. facelib/export/freeze.py makes one.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from facelib.embedder import BATCH_SIZE, RuntimeEmbedder
from facelib.errors import FaceError, short_name
from facelib.files import require_file, write_bytes
from facelib.model_input import Io
from facelib.runtimes import executors
from facelib.runtimes.function_calls import inline_calls
from facelib.runtimes.phase import fix_phase, node_of, truth_of
from facelib.runtimes.pure_ops import check_ops
from facelib.tensorflow_env import quiet_tensorflow

INPUT, OUTPUT = "input_1", "embeddings"  # the names in every graph that this project freezes
MAX_LISTED = 5
_NO_RESULT = ("Const", "NoOp", "Assert", "Placeholder")


class GraphEmbedder(RuntimeEmbedder):
    """An `Embedder` over a frozen TensorFlow graph.

    Args:
        path: the .pb file.
        io: how the graph is fed; names its input and output.
        threads: of this graph; None = all cores.
        batch_size: most images in one call.
    """

    executor = executors.TENSORFLOW

    def __init__(self, path: Path, io: Io, threads: int | None = None, batch_size: int = BATCH_SIZE):
        quiet_tensorflow()
        self._reopen = None if threads == 1 else lambda: GraphEmbedder(path, io, 1, batch_size)
        graph = load_graph(path)
        self._graph = open_graph(graph, path, io.input, io.output, threads)
        if _input_dtype(graph, io.input) == np.uint8:
            io = replace(io, dtype="uint8")
        super().__init__(Path(path).name, io, batch_size)

    def on_one_thread(self) -> "GraphEmbedder":
        return self._reopen() if self._reopen else self

    def run(self, pixels: np.ndarray) -> np.ndarray:
        return self._graph(pixels)


def open_frozen(
    path: Path, input: str = INPUT, output: str = OUTPUT, threads: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """The graph file at `path` as a function; see `open_graph`."""
    return open_graph(load_graph(path), path, input, output, threads)


def open_graph(graph, path: Path | str, input_name: str = INPUT, output_name: str = OUTPUT, threads: int | None = None):
    """A GraphDef as a function of its input, float [N, H, W, C] or as its Placeholder says. It returns a NumPy array.

    Args:
        graph: a frozen GraphDef.
        path: named in errors.
        input_name: node or tensor name of the input.
        output_name: node or tensor name of the output.
        threads: of this graph; None = all cores.

    Raises:
        FaceError: a name that the graph does not have, or a graph that TensorFlow cannot load.
    """
    import tensorflow as tf

    check_names(graph, path, input_name, output_name)
    with tf.Graph().as_default() as inside:
        try:
            tf.import_graph_def(graph, name="")
            source, target = (inside.get_tensor_by_name(_tensor_name(name)) for name in (input_name, output_name))
        except (ValueError, KeyError, TypeError, tf.errors.OpError) as error:
            raise FaceError(
                f"This TensorFlow cannot load the graph '{path}' ({_one_line(error)}). Make the file again, or "
                "copy it again."
            ) from error
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads or 0, inter_op_parallelism_threads=1, use_per_session_threads=True
    )
    call = tf.compat.v1.Session(graph=inside, config=config).make_callable(target, [source])
    dtype = source.dtype.as_numpy_dtype

    def run(pixels: np.ndarray) -> np.ndarray:
        try:
            return call(np.asarray(pixels, dtype))
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            raise FaceError(
                f"'{path}' needs {source.shape}, but the faces have {list(pixels.shape)}. TensorFlow says: "
                f"{_one_line(error)}. Check --crop and --layout."
            ) from error
        except tf.errors.OpError as error:
            raise FaceError(
                f"TensorFlow cannot run '{path}' ({_one_line(error)}). Make the file again, or copy it again."
            ) from error

    return run


def load_graph(path: Path):
    """Reads a frozen GraphDef of pure operations. What asks for the phase of training is fed False.

    Raises:
        FaceError: no such file, or one that is empty, truncated, a SavedModel or no graph at all, or a graph that does
            more than compute (`pure_ops`).
    """
    graph = read_graph(path)
    variables = [node.name for node in graph.node if node.op in ("VariableV2", "VarHandleOp", "Variable")]
    if variables:
        raise FaceError(
            f"A frozen graph must hold only constants. '{path}' has {len(variables)} variables, such as "
            f"{short_name(variables[0])}: freeze the graph first (h5_2_pb.py does this)."
        )
    check_ops(graph, path)
    names = {node.name for node in graph.node}
    missing = [name for node in graph.node for name in map(node_of, node.input) if name not in names]
    if missing:
        raise FaceError(
            f"'{path}' is damaged: it needs a node {short_name(missing[0])}, which is missing. Make the file again, "
            "or copy it again."
        )
    fix_phase(graph)
    if any(function.signature.name for function in graph.library.function):
        inline_calls(graph, truth_of)
        fix_phase(graph)
    return graph


def read_graph(path: Path):
    """The GraphDef in a file, as it is. It was not checked: do not run it.

    Raises:
        FaceError: no such file, or one that is no graph.
    """
    import tensorflow as tf

    data = require_file(path, "frozen graph").read_bytes()
    hint = "Make the file again, or copy it again"
    if Path(path).name == "saved_model.pb":
        hint = "It belongs to a SavedModel: freeze the Keras model instead (python h5_2_pb.py MODEL.h5)"
    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(data)
    except Exception as error:  # each implementation of protobuf has its own DecodeError
        if type(error).__name__ != "DecodeError":
            raise
        raise FaceError(f"'{path}' is not a TensorFlow graph, or it is damaged. {hint}.") from error
    if not graph.node or not all(node.op for node in graph.node):
        raise FaceError(f"'{path}' holds no TensorFlow graph. {hint}.")
    return graph


def save_graph(graph, path: Path) -> None:
    """Writes a GraphDef atomically."""
    write_bytes(path, graph.SerializeToString(deterministic=True))


def check_names(graph, path: Path | str, input_name: str, output_name: str) -> None:
    """Checks that `graph` has this input and this output, and that the output needs no other input.

    Raises:
        FaceError: one of them is missing, or another input is needed; lists the names to choose from.
    """
    nodes = {node.name: node for node in graph.node}
    placeholders, sinks = find_ends(graph)
    if node_of(input_name) not in nodes:
        raise FaceError(
            f"'{path}' has no node {short_name(input_name)}. Its inputs: {_listed(placeholders)}. Use --input NAME."
        )
    if node_of(output_name) not in nodes:
        raise FaceError(
            f"'{path}' has no node {short_name(output_name)}. Its outputs: {_listed(sinks)}. Use --output NAME."
        )
    needed = [node.name for node in prune(graph, [node_of(output_name)]).node if node.op == "Placeholder"]
    if node_of(input_name) not in needed:
        raise FaceError(
            f"The output {short_name(output_name)} of '{path}' depends on {_listed(needed)}, not on "
            f"{short_name(input_name)}. "
            f"Use --input NAME."
        )
    if len(needed) > 1:
        raise FaceError(
            f"An embedder must have only one input. {short_name(output_name)} of '{path}' needs {_listed(needed)}."
        )


def find_ends(graph) -> tuple[list[str], list[str]]:
    """(names of the Placeholders of a GraphDef, names of the nodes whose result no other node takes)."""
    used = {node_of(reference) for node in graph.node for reference in node.input}
    sinks = [node.name for node in graph.node if node.name not in used and node.op not in _NO_RESULT]
    return [node.name for node in graph.node if node.op == "Placeholder"], sinks


def input_size(graph, input_name: str, layout: str = "nhwc") -> tuple[int, int] | None:
    """(height, width) in pixels of a Placeholder; None if the graph leaves it open.

    Args:
        graph: GraphDef.
        input_name: of the Placeholder.
        layout: order of its axes, 'nhwc' | 'nchw'.
    """
    node = next(node for node in graph.node if node.name == node_of(input_name))
    dims = [dim.size for dim in node.attr["shape"].shape.dim]
    sides = dims[1:3] if layout == "nhwc" else dims[2:]
    return (sides[0], sides[1]) if len(dims) == 4 and min(sides) > 0 else None


def _input_dtype(graph, input_name: str) -> np.dtype:
    import tensorflow as tf

    node = next(node for node in graph.node if node.name == node_of(input_name))
    return tf.dtypes.as_dtype(node.attr["dtype"].type).as_numpy_dtype


def prune(graph, outputs: list[str]):
    """The nodes of `graph` that `outputs` (node names) depend on, in the same order."""
    import tensorflow as tf

    nodes = {node.name: node for node in graph.node}
    needed, stack = set(), list(outputs)
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack += [node_of(reference) for reference in nodes[name].input]
    pruned = tf.compat.v1.GraphDef()
    pruned.versions.CopyFrom(graph.versions)
    pruned.library.CopyFrom(graph.library)
    pruned.node.extend(node for node in graph.node if node.name in needed)
    return pruned


def layer_of(name: str) -> str:
    """The innermost scope of an operation: 'mobilefacenet_1/stem_conv_1/Relu6;...' -> 'stem_conv'.

    TensorFlow appends a number to every scope each time a model is traced. The number of the model's scope is removed.
    """
    scopes = name.partition(";")[0].split("/")
    if len(scopes) < 2:
        return scopes[0]
    number = re.search(r"_\d+$", scopes[0])
    return scopes[-2].removesuffix(number.group()) if number and len(scopes) > 2 else scopes[-2]


def is_of(name: str, layers: Sequence[str]) -> bool:
    """Whether the layer name of a node or tensor begins with one of `layers`."""
    return any(layer_of(part).startswith(tuple(layers)) for part in name.split(";"))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _tensor_name(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(short_name(name)[1:-1] for name in names[-MAX_LISTED:]) + more if names else "none"
