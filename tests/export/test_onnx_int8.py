"""int8 ONNX: how the pixels are scaled before the net, and that it computes nearly what the float model computes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from facelib.export.onnx.int8 import quantise_onnx, scale_by_convolution
from facelib.model_input import Io
from facelib.unit_vectors import row_cosines

MEAN, STD = np.float32([120, 110, 100]), np.float32([58, 57, 59])
SIDE = 16


def make_net(layout):
    """An ONNX net: pixels in `layout` -> Sub and Div of three numbers -> Conv -> Relu -> [N, 32]."""
    shape = ["N", SIDE, SIDE, 3] if layout == "nhwc" else ["N", 3, SIDE, SIDE]
    node = helper.make_node
    nodes = [node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2], name="turn")] if layout == "nhwc" else []
    nodes += [
        node("Sub", ["planes" if nodes else "x", "mean"], ["centred"], name="sub"),
        node("Div", ["centred", "std"], ["scaled"], name="div"),
        node("Conv", ["scaled", "kernel"], ["maps"], name="conv", strides=[8, 8]),
        node("Relu", ["maps"], ["positive"], name="relu"),
        node("Flatten", ["positive"], ["y"], name="flat"),
    ]
    kernel = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32) / 8
    constants = {"mean": MEAN.reshape(3, 1, 1), "std": STD.reshape(3, 1, 1), "kernel": kernel}
    ends = [
        helper.make_tensor_value_info(*end)
        for end in (("x", TensorProto.FLOAT, shape), ("y", TensorProto.FLOAT, ["N", 32]))
    ]
    graph = helper.make_graph(
        nodes, "net", ends[:1], ends[1:], [numpy_helper.from_array(v, k) for k, v in constants.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model, images):
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": images})[0]


def faces(layout, count=8):
    images = np.random.default_rng(1).integers(0, 256, (count, SIDE // 4, SIDE // 4, 3)).repeat(4, 1).repeat(4, 2)
    return images.astype(np.float32) if layout == "nhwc" else images.transpose(0, 3, 1, 2).astype(np.float32)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_pixels_are_scaled_in_a_convolution(layout):
    """As Sub and Div it takes ten times as long, once ONNX Runtime has moved the Transpose behind them."""
    model, images = make_net(layout), faces(layout)
    expected = run(model, images)

    before = scale_by_convolution(model.graph)

    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["Transpose", "Conv", "Conv", "Relu", "Flatten"][layout == "nchw" :]
    assert before == [node.name for node in model.graph.node][: len(kinds) - 3]
    assert len(model.graph.initializer) == 3  # the constants of Sub and Div are gone
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model, images), expected, atol=1e-4)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_int8_computes_nearly_the_same_and_scales_in_float(layout):
    model, images = make_net(layout), faces(layout)
    crops = faces("nhwc").astype(np.uint8)

    int8 = quantise_onnx(model.SerializeToString(), crops, Io(input="x", size=(SIDE, SIDE), layout=layout))

    assert row_cosines(run(int8, images), run(model, images)).min() > 0.995
    graph = onnx.load_from_string(int8).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert weights["div/convolution/kernel"].dtype == np.float32
    assert sum(node.op_type in ("Sub", "Div") for node in graph.node) == 0
