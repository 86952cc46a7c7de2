"""Converts a frozen graph to TFLite: float, fp16, dynamic or int8.

int8 is per channel. Its ranges are measured on real crops, or are those that quantisation-aware training left in the
graph. The global depthwise convolution is split first (facelib/export/int8_graph.py).
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from facelib.data.readers.calibration_crops import with_full_range
from facelib.errors import FaceError
from facelib.export.int8_graph import fold_input_scale, has_fake_quant, split_global_depthwise, without_fake_quant
from facelib.model_input import Io, to_model_input
from facelib.runtimes.frozen_graph import is_of, layer_of, node_of, open_graph
from facelib.runtimes.tflite import read_ops
from facelib.tensorflow_env import quiet_stderr

MODES = ("float", "fp16", "dynamic", "int8")
EDGES = {"uint8": ("uint8", "int8"), "int8": ("int8", "int8"), "float": ("float32", "float32")}  # (input, output)


@dataclass(frozen=True)
class TfliteOptions:
    """How to convert a graph to TFLite.

    Attributes:
        mode: one of `MODES`.
        crops: uint8 [N, H, W, 3], RGB, to measure int8 ranges on; None if the net was trained for int8.
        edges: one of `EDGES`: the types of an int8 model's input and output.
        keep_float: prefixes of layer names; an int8 model computes these layers in float.
    """

    mode: str
    crops: np.ndarray | None = None
    edges: str = "uint8"
    keep_float: tuple[str, ...] = ()


def graph_to_tflite(graph, io: Io, shape: tuple[int, ...], options: TfliteOptions) -> bytes:
    """The bytes of a .tflite that computes what `graph` computes.

    Args:
        graph: a frozen GraphDef. Without fake quantisation unless the mode is int8.
        io: names and pixel format of its input, name of its output.
        shape: of the input, (1, H, W, 3).
        options: mode, and the choices of int8.

    Raises:
        FaceError: an operation that TFLite does not have, or a prefix in `keep_float` that fits no layer.
    """
    if options.keep_float:
        check_layers(graph, options.keep_float)
    if options.mode == "dynamic":
        dynamic, full = (_run(_converter(graph, io, shape, mode), mode) for mode in ("dynamic", "float"))
        return restore_depthwise(dynamic, full)
    if options.mode != "int8":
        return _run(_converter(graph, io, shape, options.mode), options.mode)
    if has_fake_quant(graph):
        graph = without_fake_quant(graph, node_of(io.output), options.keep_float) if options.keep_float else graph
        return _with_edges(_run(_converter(graph, io, shape, "int8"), "int8"), options.edges)
    if options.crops is None:
        raise ValueError("int8 without fake quantisation measures the ranges on `crops`. Received: crops=None")
    graph = fold_input_scale(graph, node_of(io.input), node_of(io.output))
    graph = split_global_depthwise(graph, node_of(io.output), _values_on(options.crops, graph, io))
    converter = _converter(graph, io, shape, "int8")
    converter.representative_dataset = calibration_steps(options.crops, io)
    if not options.keep_float:
        import tensorflow as tf

        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        return _with_edges(_run(converter, "int8"), options.edges)
    ops = read_ops(graph_to_tflite(graph, io, shape, TfliteOptions("float")))
    kept = [op.output.name for op in ops if is_of(op.output.name, options.keep_float)]
    return _with_edges(_run(converter, "int8", kept), options.edges)


def check_layers(graph, names: Sequence[str]) -> None:
    """Checks that every name is the prefix of a layer name.

    Raises:
        FaceError: one is not; lists the nearest layer names.
    """
    layers = sorted({layer_of(node.name) for node in graph.node if node.op != "Const"})
    for name in names:
        if not any(layer.startswith(name) for layer in layers):
            near = difflib.get_close_matches(name, layers, 3, 0.0)
            raise FaceError(
                f"--keep-float must be a list of prefixes of layer names. No layer name begins with '{name}'. Similar "
                f"names: {', '.join(near)}."
            )


def _values_on(crops: np.ndarray, graph, io: Io) -> Callable[[str], np.ndarray]:
    """A function from a node name to the values of that node on `crops`."""
    pixels = to_model_input(crops, io).astype(np.float32)
    return lambda node: open_graph(graph, "the graph", io.input, node)(pixels)


def calibration_steps(crops: np.ndarray, io: Io) -> Callable:
    """The calibration data for the converter: a generator function of one crop at a time, float32 [1, H, W, 3].

    The input has scale 1 only if the range 0..255 is seen.
    """
    crops = with_full_range(crops)

    def steps():
        for crop in crops:
            yield [to_model_input(crop[None], io).astype(np.float32)]

    return steps


def _converter(graph, io: Io, shape: tuple[int, ...], mode: str):
    import tensorflow as tf

    source, target = node_of(io.input), node_of(io.output)

    def forward(pixels):
        (output,) = tf.graph_util.import_graph_def(
            graph, input_map={f"{source}:0": pixels}, return_elements=[f"{target}:0"], name=""
        )
        return tf.identity(output, name=target)

    spec = tf.TensorSpec(shape, tf.float32, name=source)
    function = tf.compat.v1.wrap_function(forward, [spec])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], function.graph)
    if mode != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    return converter


def _run(converter, mode: str, kept_float: Sequence[str] = ()) -> bytes:
    """Runs the converter and returns the model. An int8 model still has float edges.

    Args:
        converter: a tf.lite.TFLiteConverter.
        mode: named in errors.
        kept_float: names of tensors; the operations that write them stay in float.
    """
    import tensorflow as tf

    try:
        with quiet_stderr():
            if not kept_float:
                return converter.convert()
            debug = tf.lite.experimental
            options = debug.QuantizationDebugOptions(denylisted_nodes=list(kept_float))
            found = debug.QuantizationDebugger(
                converter=converter, debug_dataset=converter.representative_dataset, debug_options=options
            )
            return found.get_nondebug_quantized_model()
    except Exception as error:  # ConverterError is not public
        if type(error).__name__ != "ConverterError":
            raise
        reason = " ".join(str(error).split())[:200]
        raise FaceError(f"TFLite cannot convert this graph as {mode}: {reason}. Try --mode dynamic.") from error


def _with_edges(model: bytes, edges: str) -> bytes:
    """The quantised `model`, its float input and output replaced by the types of `EDGES`."""
    import tensorflow as tf
    from tensorflow.lite.python.util import modify_model_io_type

    with quiet_stderr():
        return bytes(modify_model_io_type(model, *(getattr(tf, name) for name in EDGES[edges])))


def restore_depthwise(dynamic: bytes, full: bytes) -> bytes:
    """The dynamic-range model with the depthwise kernels of the float32 model.

    Depthwise kernels are 6 % of MobileFaceNet's weights and lose most in int8: they have 9 weights a channel, and their
    activations share one scale. XNNPACK has no mixed kernel for them, so the graph would be cut into 17 delegated
    pieces. With float kernels the worst cosine of the pretrained net on 64 LFW crops is 0.9989 instead of 0.9930, at
    half the time and 7 % more bytes.

    Args:
        dynamic: a .tflite of mode dynamic.
        full: a .tflite of mode float, of the same graph.
    """
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(dynamic))
    source = flatbuffer_utils.convert_bytearray_to_object(bytearray(full))
    float_tensors = {tensor.name: tensor for tensor in source.subgraphs[0].tensors}
    graph = model.subgraphs[0]
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        kernel = graph.tensors[operator.inputs[1]] if code == schema.BuiltinOperator.DEPTHWISE_CONV_2D else None
        original = float_tensors.get(kernel.name) if kernel is not None else None
        if kernel is None or original is None or kernel.type != schema.TensorType.INT8:
            continue
        kernel.type, kernel.quantization = schema.TensorType.FLOAT32, None
        model.buffers[kernel.buffer].data = source.buffers[original.buffer].data
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
