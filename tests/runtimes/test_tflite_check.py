"""What is wrong in a .tflite is said before LiteRT reads it: its numbers, and operations that do more than compute."""

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from facelib.errors import FaceError
from facelib.runtimes.tflite import Lite
from facelib.runtimes.tflite_check import check_tflite


def convert(function, samples=None) -> bytes:
    """The .tflite of a function of float32 [1, 4, 4, 3]."""
    spec = tf.TensorSpec([1, 4, 4, 3], tf.float32)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([tf.function(function).get_concrete_function(spec)])
    if samples is not None:
        converter.optimizations, converter.representative_dataset = [tf.lite.Optimize.DEFAULT], lambda: [[samples]]
    return converter.convert()


@pytest.fixture(scope="module")
def int8_model() -> bytes:
    kernel = np.random.default_rng(0).normal(0, 1, (3, 3, 3, 5)).astype(np.float32)
    samples = np.random.default_rng(1).uniform(0, 1, (1, 4, 4, 3)).astype(np.float32)
    return convert(lambda x: tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME")), [1, 2]), samples)


def changed(data: bytes, change) -> bytes:
    """The model after `change(model, graph)` on its unpacked form."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    change(model, model.subgraphs[0])
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def set_zero_point(model, graph):
    next(t for t in graph.tensors if t.type == schema.TensorType.INT8).quantization.zeroPoint = [-162]


def set_scales(model, graph):
    next(t for t in graph.tensors if t.type == schema.TensorType.INT8).quantization.scale = [float("nan")]


def set_shape(model, graph):
    graph.tensors[graph.inputs[0]].shape = [1, 15269920, 32, 3]


def set_buffer(model, graph):
    graph.tensors[0].buffer = 99


def set_input(model, graph):
    graph.operators[0].inputs = [77, *graph.operators[0].inputs[1:]]


def set_code(model, graph):
    graph.operators[0].opcodeIndex = 55


def cut_constant(model, graph):
    stored = next(t for t in graph.tensors if model.buffers[t.buffer].data is not None)
    model.buffers[stored.buffer].data = model.buffers[stored.buffer].data[:-1]


@pytest.mark.parametrize(
    "change", [set_zero_point, set_scales, set_shape, set_buffer, set_input, set_code, cut_constant]
)
def test_a_number_that_cannot_be_is_one_line_and_no_crash(int8_model, change):
    check_tflite(int8_model, "m.tflite")
    with pytest.raises(FaceError, match=r"damaged|cannot be read"):
        Lite(changed(int8_model, change))


def set_flex(model, graph):
    (code, *_) = model.operatorCodes
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"FlexWriteFile"


def test_a_loop_and_an_operation_of_tensorflow_are_refused_by_name(int8_model):
    loop = convert(lambda x: tf.while_loop(lambda y: tf.reduce_sum(y) < 1e9, lambda y: (y + x,), [x])[0])
    with pytest.raises(FaceError, match="WHILE"):
        Lite(loop)
    with pytest.raises(FaceError, match="CUSTOM 'FlexWriteFile'"):
        Lite(changed(int8_model, set_flex))


@pytest.mark.parametrize("seed", range(60))
def test_a_changed_byte_is_one_line_or_no_matter(int8_model, seed):
    rng, data = np.random.default_rng(seed), bytearray(int8_model)
    data[rng.integers(8, len(data))] = rng.integers(256)

    try:
        lite = Lite(bytes(data[: rng.integers(9, len(data))] if seed % 5 == 0 else data))
        lite(np.zeros(lite.shape, np.float32))
    except FaceError as error:
        assert "\n" not in str(error)
