"""Even weights: the net computes the same, and no layer's channels differ much, in Keras and in ONNX."""

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from facelib.export.esp.equalise import equalise_onnx
from facelib.models.equalisation import Kernel, Link, equalise
from facelib.models.fake_quant import PixelScale, _Range
from facelib.models.fake_quant_net import equalise_layers, fake_quantized

CHANNELS = 6


def uneven(rng, *shape):
    """Weights [outputs, inputs, h, w] whose outputs differ by a factor of up to 1,000."""
    return (
        rng.normal(size=shape).astype(np.float32) * np.logspace(-2, 1, shape[0], dtype=np.float32)[:, None, None, None]
    )


def spread(weights):
    largest = np.abs(weights).max((1, 2, 3))
    return largest.max() / largest.min()


def test_a_link_is_evened_out_and_the_product_stays():
    rng = np.random.default_rng(0)
    first = Kernel(uneven(rng, CHANNELS, 4, 1, 1), rng.normal(size=CHANNELS).astype(np.float32), False)
    second = Kernel(rng.normal(size=(5, CHANNELS, 1, 1)).astype(np.float32), np.zeros(5, np.float32), False)
    product = second.weights[..., 0, 0] @ first.weights[..., 0, 0]

    equalise([Link(first, second)])

    np.testing.assert_allclose(second.weights[..., 0, 0] @ first.weights[..., 0, 0], product, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first.largest_given(), second.largest_taken(), rtol=1e-4)


def test_a_channel_that_reaches_the_limit_keeps_its_scale():
    rng = np.random.default_rng(0)
    first = Kernel(uneven(rng, 2, 4, 1, 1), np.zeros(2, np.float32), False)
    second = Kernel(rng.normal(size=(5, 2, 1, 1)).astype(np.float32), np.zeros(5, np.float32), False)
    before = first.weights.copy()

    equalise([Link(first, second, 6.0, np.array([6.0, 3.0]))])

    np.testing.assert_array_equal(first.weights[0], before[0])
    assert np.abs(before[1] / first.weights[1]).min() >= 0.5 - 1e-6  # 3 may become 6, not more


def onnx_net(path, activation):
    """conv, `activation`, depthwise conv, `activation`, conv: 8x8 faces to 4 values."""
    rng = np.random.default_rng(1)
    tensors = {
        "w1": uneven(rng, CHANNELS, 3, 3, 3), "b1": rng.normal(size=CHANNELS), "w2": uneven(rng, CHANNELS, 1, 3, 3),
        "b2": rng.normal(size=CHANNELS), "w3": rng.normal(size=(4, CHANNELS, 4, 4)), "b3": rng.normal(size=4),
        "low": np.float32(0), "high": np.float32(6),
    }  # fmt: skip
    more = ["low", "high"] if activation == "Clip" else []
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first"),
        helper.make_node(activation, ["c1", *more], ["a1"], name="act1"),
        helper.make_node("Conv", ["a1", "w2", "b2"], ["c2"], name="second", group=CHANNELS),
        helper.make_node(activation, ["c2", *more], ["a2"], name="act2"),
        helper.make_node("Conv", ["a2", "w3", "b3"], ["y"], name="third"),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.float32(value), name) for name, value in tensors.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def run_onnx(model, faces):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": face[None]})[0] for face in faces])


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_an_onnx_model_computes_the_same(activation, tmp_path):
    path = onnx_net(tmp_path / "a.onnx", activation)
    faces = np.random.default_rng(2).normal(size=(6, 3, 8, 8)).astype(np.float32)

    even = equalise_onnx(path, faces)

    expected = run_onnx(path.read_bytes(), faces)
    np.testing.assert_allclose(run_onnx(even, faces), expected, atol=1e-4 * np.abs(expected).max())
    before, after = (
        {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        for model in (onnx.load(path), onnx.load_from_string(even))
    )
    if activation == "Relu":
        assert all(spread(after[name]) < 0.2 * spread(before[name]) for name in ("w1", "w2"))


def test_a_fake_quantised_net_computes_the_same_with_even_weights(monkeypatch):
    monkeypatch.setattr(_Range, "rounded", lambda self, x: x)
    monkeypatch.setattr("facelib.models.fake_quant.round_kernel", lambda kernel, *_: kernel)
    monkeypatch.setattr("facelib.models.fake_quant.FakeQuantPixelScale.call", PixelScale.call)
    keras.utils.set_random_seed(0)
    faces = keras.Input((16, 16, 3), name="faces")
    x = keras.layers.Conv2D(CHANNELS, 3, name="a")(PixelScale(name="scale")(faces))
    x = keras.layers.DepthwiseConv2D(3, name="b")(keras.layers.ReLU(6.0, name="act1")(x))
    x = keras.layers.Conv2D(4, 12, name="c")(keras.layers.ReLU(name="act2")(x))
    net = keras.Model(faces, keras.layers.Flatten(name="flat")(x))
    loud = net.get_layer("a").kernel
    loud.assign(loud * np.logspace(-2, 0, CHANNELS))
    crops = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    copy = fake_quantized(net, "a.h5", "esp32s3")

    equalise_layers(copy, net, crops)

    expected = net(crops.astype("float32"), training=False).numpy()
    received = copy(crops.astype("float32"), training=False).numpy()
    np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())
    first = copy.get_layer("a").kernel.numpy().transpose(3, 2, 0, 1)
    assert spread(first) < 0.2 * spread(net.get_layer("a").kernel.numpy().transpose(3, 2, 0, 1))
