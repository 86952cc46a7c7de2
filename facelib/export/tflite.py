"""A frozen graph as TFLite, in the modes of pb_2_tflite.py. Names TensorFlow."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from facelib.errors import FaceError
from facelib.export.fake_quant_graph import has_fake_quant, without_fake_quant
from facelib.export.split_global_depthwise import split_global_depthwise
from facelib.model_input import Io, to_model_input
from facelib.runtimes.frozen_graph import is_of, layer_of, node_of, open_graph
from facelib.runtimes.tflite import Watched
from facelib.tensorflow_env import quiet_stderr

MODES = ("float", "fp16", "dynamic", "int8")
EDGES = {"uint8": ("uint8", "int8"), "int8": ("int8", "int8"), "float": ("float32", "float32")}  # of input and output


@dataclass(frozen=True)
class Wanted:
    """What a conversion is to give.

    mode: one of `MODES`.   crops: uint8 [N, H, W, 3], RGB, that int8 ranges are measured on; None for a net that was
    trained for int8, which has its own.   edges: one of `EDGES`, the types of an int8 model's input and output.
    keep_float: beginnings of the names of layers that an int8 model computes in float.
    """

    mode: str
    crops: np.ndarray | None = None
    edges: str = "uint8"
    keep_float: tuple[str, ...] = ()


def convert(graph, io: Io, shape: tuple[int, ...], wanted: Wanted) -> bytes:
    """GraphDef -> the bytes of a .tflite with input `shape` [1, H, W, 3]; float modes want no fake quantisation in it.

    Raises:
        FaceError: what TFLite cannot express; a name in `keep_float` that no layer begins with.
    """
    if wanted.keep_float:
        check_layers(graph, wanted.keep_float)
    if wanted.mode == "dynamic":
        dynamic, full = (_run(_converter(graph, io, shape, mode), mode) for mode in ("dynamic", "float"))
        return restore_depthwise(dynamic, full)
    if wanted.mode != "int8":
        return _run(_converter(graph, io, shape, wanted.mode), wanted.mode)
    if has_fake_quant(graph):
        graph = without_fake_quant(graph, node_of(io.output), wanted.keep_float) if wanted.keep_float else graph
        return _with_edges(_run(_converter(graph, io, shape, "int8"), "int8"), wanted.edges)
    graph = split_global_depthwise(graph, node_of(io.output), _looker(graph, io, wanted.crops))
    converter = _converter(graph, io, shape, "int8")
    converter.representative_dataset = calibration_steps(wanted.crops, io)
    if not wanted.keep_float:
        import tensorflow as tf

        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        return _with_edges(_run(converter, "int8"), wanted.edges)
    full = Watched(convert(graph, io, shape, Wanted("float")))
    kept = [operation.tensor for operation in full.operations if is_of(operation.tensor, wanted.keep_float)]
    return _with_edges(_run(converter, "int8", kept), wanted.edges)


def check_layers(graph, names: Sequence[str]) -> None:
    """Raises a FaceError for a name that no layer of the graph begins with."""
    layers = sorted({layer_of(node.name) for node in graph.node if node.op != "Const"})
    for name in names:
        if not any(layer.startswith(name) for layer in layers):
            near = difflib.get_close_matches(name, layers, 3, 0.0)
            raise FaceError(f"--keep-float names layers of the graph. None begins with '{name}': {', '.join(near)} do.")


def _looker(graph, io: Io, crops: np.ndarray) -> Callable[[str], np.ndarray]:
    """Node name -> its values on `crops`."""
    pixels = to_model_input(crops, io).astype(np.float32)
    return lambda node: open_graph(graph, "the graph", io.input, node)(pixels)


def calibration_steps(crops: np.ndarray, io: Io) -> Callable:
    """What the converter measures ranges on: each crop alone, float32 [1, H, W, 3].

    The first crop gets one black and one white pixel: only over the whole range 0..255 has the input scale 1.
    """
    crops = crops.copy()
    crops[0, 0, 0], crops[0, 0, 1] = 0, 255

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
    """The converter's model; of int8 with float edges."""
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
    except Exception as error:  # the converter raises a type of its own
        if type(error).__name__ != "ConverterError":
            raise
        reason = " ".join(str(error).split())[:200]
        raise FaceError(f"TFLite cannot express this graph as {mode}: {reason}. Try --mode dynamic.") from error


def _with_edges(model: bytes, edges: str) -> bytes:
    """A quantised model with float edges -> the same with the input and output types of `EDGES`."""
    import tensorflow as tf
    from tensorflow.lite.python.util import modify_model_io_type

    with quiet_stderr():
        return bytes(modify_model_io_type(model, *(getattr(tf, name) for name in EDGES[edges])))


def restore_depthwise(dynamic: bytes, full: bytes) -> bytes:
    """The model `dynamic` with the depthwise kernels of `full`, the float32 model of the same graph."""
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
        if original is None or kernel.type != schema.TensorType.INT8:
            continue
        kernel.type, kernel.quantization = schema.TensorType.FLOAT32, None
        model.buffers[kernel.buffer].data = source.buffers[original.buffer].data
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
