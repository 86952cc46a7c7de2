"""Training for int8: the rounding by its formula, the copy against its original, and int8 TFLite against the copy."""

import json
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import quantize_aware
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import h5_2_pb
import pb_2_onnx
import pb_2_tflite
from facelib.data.conversion.job import convert
from facelib.data.synthetic.faces import synthetic_face
from facelib.data.synthetic.files import SyntheticSet, write_folders
from facelib.errors import FaceError
from facelib.export import optimize
from facelib.export.parity import parity_faces
from facelib.model_input import Io
from facelib.models import fake_quant
from facelib.models.blocks import Blocks, embedding_output
from facelib.models.fake_quant_net import fake_quantized, observe
from facelib.runtimes.frozen_graph import load_graph
from facelib.runtimes.keras_h5 import load_model, save_h5
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.runtimes.tflite import Lite, TfliteEmbedder
from facelib.sidecar import check_sidecar, write_sidecar
from facelib.training.self_distillation import cosines_between
from facelib.unit_vectors import row_cosines
from iresnet import iresnet
from mobilefacenet import mbf, mobilefacenet
from tests.helpers.random_weights import random_weights
from tests.helpers.slow import slow_unless_quick


def rounded_by_formula(x, low, high):
    """Jacob et al., eq. 1, 12: 256 levels of [low, high], moved so that 0 is one of them."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero_point = np.rint(-low / scale)
    return (np.clip(np.rint(x / scale + zero_point), 0, 255) - zero_point) * scale


@settings(max_examples=30, deadline=None)
@given(st.floats(-50, 1), st.floats(1.5, 60), st.integers(0, 99))
def test_a_value_goes_to_the_nearest_of_256_levels_of_its_range(low, high, seed):
    level_of_zero = -255 * min(low, 0.0) / (max(high, 0.0) - min(low, 0.0))
    assume(abs(level_of_zero % 1 - 0.5) > 1e-4)  # at a tie, float32 and float64 may move the range to either side
    layer = fake_quant.FakeQuant()
    layer.build((None, 64))
    layer.range.low.assign(low)
    layer.range.high.assign(high)
    x = np.random.default_rng(seed).uniform(low - 5, high + 5, (1, 64)).astype(np.float32)

    received = layer(x).numpy()

    step = (max(high, 0) - min(low, 0)) / 255
    np.testing.assert_allclose(received, rounded_by_formula(x, low, high), atol=1.01 * step)  # ties, in float32
    assert len(np.unique(np.rint(received / step))) <= 256
    assert np.mean(np.abs(received - rounded_by_formula(x, low, high)) < step / 100) > 0.9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.floats(1e-3, 1e3))
def test_a_kernel_has_127_steps_to_the_largest_weight_of_each_channel(seed, size):
    kernel = (size * np.random.default_rng(seed).normal(size=(3, 3, 2, 5))).astype(np.float32)

    received = fake_quant.round_kernel(tf.constant(kernel), (3,)).numpy()

    scale = np.abs(kernel).max((0, 1, 2)) / 127
    assert (np.abs(received - kernel) <= 0.501 * scale).all() and (np.abs(received / scale) < 127.01).all()
    np.testing.assert_allclose(received / scale, np.rint(received / scale), atol=1e-3)


def test_the_gradient_passes_inside_the_range_and_stops_outside():
    layer = fake_quant.FakeQuant()
    layer.build((None, 4))
    layer.range.low.assign(-1.0)
    layer.range.high.assign(1.0)
    x = tf.Variable([[-1.5, -0.3, 0.7, 1.5]])

    with tf.GradientTape() as tape:
        y = tf.reduce_sum(layer(x) * [[2.0, 3.0, 4.0, 5.0]])

    np.testing.assert_array_equal(tape.gradient(y, x), [[0, 3, 4, 0]])
    kernel = tf.Variable([[0.11, -0.9]])
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(fake_quant.round_kernel(kernel, (1,)) * [[2.0, 3.0]])
    np.testing.assert_array_equal(tape.gradient(y, kernel), [[2, 3]])


def test_a_range_begins_with_the_first_batch_and_follows_the_next():
    layer = fake_quant.FakeQuant(momentum=0.75)
    layer(np.array([[-2.0, 6.0]], np.float32), training=True)
    assert (float(layer.range.low), float(layer.range.high)) == (-2, 6)

    layer(np.array([[-6.0, 2.0]], np.float32), training=True)
    layer(np.array([[-99.0, 99.0]], np.float32), training=False)  # inference does not move it

    assert (float(layer.range.low), float(layer.range.high)) == (-3, 5)


def attend(x):
    """Squeeze and excite, as the keras.applications nets have it: functions among layers."""
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    gate = keras.layers.Conv2D(x.shape[-1], 1, activation="sigmoid", name="gate")(gate)
    return keras.layers.Multiply(name="gated")([x, gate])


def small_net():
    faces = keras.Input((112, 112, 3), name="input_1")
    x = fake_quant.PixelScale(name="pixel_scale")(faces)
    x = keras.layers.Conv2D(8, 3, 4, use_bias=False, name="conv")(x)
    x = keras.layers.Activation("hard_silu", name="act")(keras.layers.BatchNormalization(name="bn")(x))
    x = keras.layers.Add(name="sum")([attend(x), x])
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(faces, keras.layers.Dense(12, name="embeddings")(x), name="small")


def bottlenecks(activation, padding="same"):
    """MobileFaceNet's parts, two blocks of them."""
    blocks = Blocks(activation, padding)
    faces = keras.Input((112, 112, 3), name="input_1")
    x = blocks.conv(fake_quant.PixelScale(name="pixel_scale")(faces), 8, 3, 2, "stem_conv")
    x = blocks.depthwise(x, 2, "stem_dw")
    for group in (1, 2):
        x = blocks.bottleneck(x, 2, 16, 3 - group, f"group{group}")
    x = blocks.conv(blocks.global_depthwise(x, "gdc"), 16, 1, 1, "embedding_conv", linear=True)
    return keras.Model(faces, embedding_output(x), name="net")


NETS = {
    "prelu": lambda: bottlenecks("prelu"),
    "relu6": lambda: bottlenecks("relu6", "symmetric"),
    "leaky": lambda: bottlenecks("leaky_relu"),
    "mobilefacenet": lambda: mobilefacenet(embedding_size=16, width=0.25),
    "mbf": lambda: mbf(embedding_size=16),
    "iresnet18": lambda: iresnet(18, embedding_size=16, image_size=(32, 32)),
    "small": small_net,
}


@pytest.mark.parametrize("name", slow_unless_quick(NETS, ("prelu", "relu6", "leaky", "small")))
def test_without_the_rounding_the_copy_is_its_original(name, monkeypatch):
    monkeypatch.setattr(fake_quant._Range, "rounded", lambda self, x: x)
    monkeypatch.setattr(fake_quant, "round_kernel", lambda kernel, *_: kernel)
    monkeypatch.setattr(fake_quant.FakeQuantPixelScale, "call", fake_quant.PixelScale.call)
    keras.utils.set_random_seed(0)
    model = random_weights(NETS[name](), spread=0.5)
    faces = parity_faces(model.input_shape[1:3]).astype("float32")
    expected = model(faces, training=False).numpy()

    received = fake_quantized(model, name)(faces, training=False).numpy()

    np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())


def net_with_a_slope_a_pixel(highest=0.9):
    """A net with Keras's own PReLU, which has a slope for each pixel of each channel, as older systems have it."""
    faces = keras.Input((16, 16, 3), name="input_1")
    x = keras.layers.Conv2D(4, 3, 2, use_bias=False, name="conv")(fake_quant.PixelScale(name="pixel_scale")(faces))
    x = keras.layers.PReLU(name="slopes")(keras.layers.BatchNormalization(name="norm")(x))
    model = keras.Model(faces, keras.layers.Dense(8, name="embeddings")(keras.layers.Flatten(name="flat")(x)))
    model.get_layer("slopes").alpha.assign(np.random.default_rng(0).uniform(0, highest, (7, 7, 4)))
    return model


def test_slopes_of_each_pixel_are_kept_and_saved(monkeypatch, tmp_path):
    monkeypatch.setattr(fake_quant._Range, "rounded", lambda self, x: x)
    monkeypatch.setattr(fake_quant, "round_kernel", lambda kernel, *_: kernel)
    monkeypatch.setattr(fake_quant.FakeQuantPixelScale, "call", fake_quant.PixelScale.call)
    model, faces = net_with_a_slope_a_pixel(), parity_faces((16, 16)).astype("float32")

    copy = fake_quantized(model, "a.h5")
    save_h5(copy, tmp_path / "copy.h5")

    expected = model(faces, training=False).numpy()
    for net in (copy, load_model(tmp_path / "copy.h5")):
        np.testing.assert_allclose(net(faces, training=False).numpy(), expected, atol=1e-4 * np.abs(expected).max())


def test_a_slope_above_one_is_refused():
    with pytest.raises(
        FaceError, match=r"so slopes must be at most 1\. 'a\.h5' has a slope of [1-3]\.\d+ in the layer 'slopes'"
    ):
        fake_quantized(net_with_a_slope_a_pixel(3.0), "a.h5")


def test_what_was_trained_for_int8_is_not_changed_again():
    with pytest.raises(FaceError, match="was already trained for int8"):
        fake_quantized(fake_quantized(NETS["relu6"](), "a.h5"), "b.h5")


@pytest.fixture(scope="module", params=slow_unless_quick(("prelu", "relu6", "leaky"), ("prelu",)))
def chain(request, tmp_path_factory):
    """A fake-quantised net through the export scripts, with no calibration data."""
    folder = tmp_path_factory.mktemp(request.param)
    keras.utils.set_random_seed(0)
    model = random_weights(NETS[request.param](), spread=0.3)
    copy = fake_quantized(model, "a.h5")
    faces = np.stack([synthetic_face(3, k, 0) for k in range(48)])
    observe(copy, faces)
    save_h5(copy, folder / "embedder.h5")
    write_sidecar(folder / "embedder.h5", kind="h5", made_from=None, io=Io())
    export = folder / "export"
    assert h5_2_pb.main([str(folder / "embedder.h5")]) == 0
    assert optimize.main([str(export / "frozen.pb")]) == 0
    for mode in ("float", "int8"):
        assert pb_2_tflite.main([str(export / "optimized.pb"), "--mode", mode]) == 0
    assert pb_2_onnx.main([str(export / "optimized.pb")]) == 0
    return SimpleNamespace(model=model, copy=copy, export=export, faces=faces[:12])


def embed(path, embedder, faces):
    return embedder(path, check_sidecar(path).io, 1)(faces)


def test_the_int8_model_is_the_copy_and_integer_throughout(chain):
    path = chain.export / "model_int8.tflite"
    expected = chain.copy(chain.faces.astype("float32"), training=False).numpy()

    vectors = embed(path, TfliteEmbedder, chain.faces)

    assert row_cosines(vectors, expected).min() > 0.9  # random nets multiply what a tie rounded otherwise gives
    original = chain.model(chain.faces.astype("float32"), training=False).numpy()
    assert row_cosines(vectors, original).mean() > row_cosines(expected, original).mean() - 0.02
    lite = Lite(path)
    assert (lite.dtype, lite.scale, lite.zero_point, lite.output_dtype) == (np.uint8, 1.0, 0, np.int8)
    types = {np.dtype(tensor["dtype"]).name for tensor in lite._interpreter.get_tensor_details()}
    assert types <= {"uint8", "int8", "int32"}
    operations = {op["op_name"] for op in lite._interpreter._get_ops_details()}
    assert "DEQUANTIZE" not in operations and "PRELU" not in operations


def test_the_int8_model_has_a_scale_for_each_output_channel(chain):
    lite = Lite(chain.export / "model_int8.tflite")
    tensors = {tensor["index"]: tensor for tensor in lite._interpreter.get_tensor_details()}

    for op in lite._interpreter._get_ops_details():
        if op["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            kernel = tensors[op["inputs"][1]]
            assert len(kernel["quantization_parameters"]["scales"]) == tensors[op["outputs"][0]]["shape"][-1]


@pytest.mark.slow
def test_a_shallow_int8_model_is_the_copy_but_for_a_step(tmp_path):
    keras.utils.set_random_seed(0)
    copy = fake_quantized(random_weights(small_net(), spread=0.3), "a.h5")
    faces = np.stack([synthetic_face(3, k, 0) for k in range(8)])
    observe(copy, faces)
    save_h5(copy, tmp_path / "a.h5")
    assert h5_2_pb.main([str(tmp_path / "a.h5"), "--pixels", "raw", "--out", str(tmp_path / "a.pb")]) == 0
    assert pb_2_tflite.main([str(tmp_path / "a.pb"), "--mode", "int8", "--out", str(tmp_path / "a.tflite")]) == 0
    lite = Lite(tmp_path / "a.tflite")

    received = np.concatenate([lite(face[None]) for face in faces])

    expected = copy(faces.astype("float32"), training=False).numpy()
    assert np.abs(received - expected).max() <= 3 * lite._output["quantization"][0]


def test_float_artefacts_round_nothing(chain):
    assert "FakeQuantWithMinMaxVars" in {node.op for node in load_graph(chain.export / "optimized.pb").node}
    path = chain.export / "model_float.tflite"
    expected = embed(path, TfliteEmbedder, chain.faces)

    assert not {op["op_name"] for op in Lite(path)._interpreter._get_ops_details()} & {"QUANTIZE", "FAKE_QUANT"}
    assert row_cosines(embed(chain.export / "model.onnx", OnnxEmbedder, chain.faces), expected).min() > 0.99999
    rounded = chain.copy(chain.faces.astype("float32"), training=False).numpy()
    assert 0.9 < row_cosines(rounded, expected).min() < 0.99999


def test_the_sidecar_says_that_the_ranges_were_trained(chain):
    rest = check_sidecar(chain.export / "model_int8.tflite").rest

    assert rest["calibration"] is None
    assert len(rest["layers"]) > 10 and all(0.5 < layer["cosine"] <= 1.000001 for layer in rest["layers"])


@pytest.mark.slow
def test_training_for_int8_brings_the_rounded_net_nearer_to_the_float_one(tmp_path, capsys):
    """Ranges a few times too wide, as outliers make them: rounding hurts, and learning mends it."""
    write_folders(tmp_path / "faces", SyntheticSet(10, 6))
    convert(tmp_path / "faces", tmp_path / "data")
    keras.utils.set_random_seed(0)
    model = random_weights(small_net(), spread=0.3)
    kernel = model.get_layer("conv").kernel
    kernel.assign(kernel * np.array([1, 1, 1, 1, 1, 1, 1, 40.0]))  # one loud channel takes all the levels
    save_h5(model, tmp_path / "embedder.h5")
    write_sidecar(tmp_path / "embedder.h5", kind="h5", made_from=None, io=Io(), licence="MIT")
    command = [str(tmp_path / "embedder.h5"), str(tmp_path / "out"), "--data", str(tmp_path / "data")]

    assert quantize_aware.main([*command, "--epochs", "6", "--batch-size", "10", "--learning-rate", "0.003"]) == 0

    sidecar = json.loads((tmp_path / "out" / "embedder.h5.json").read_text())
    before, after = (sidecar["parity"][name] for name in ("mean_cosine_untrained", "mean_cosine"))
    assert 1 - after < 0.7 * (1 - before)
    assert sidecar["quantize_aware"] is True and sidecar["licence"] == "MIT"
    assert any(isinstance(layer, fake_quant.FakeQuant) for layer in load_model(tmp_path / "out/embedder.h5").layers)
    assert "distilled mean" in capsys.readouterr().out


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path):
    save_h5(keras.Sequential([keras.Input((112, 112, 3)), keras.layers.Flatten(), keras.layers.Dense(4)]),
            tmp_path / "a.h5")  # fmt: skip
    out = tmp_path / "out"
    cases = [
        (["nothing.h5", str(out), "--data", "d"], "No model at 'nothing.h5'"),
        ([str(tmp_path / "a.h5"), str(out)], "Received no --data. Pass the data directory"),
        ([str(tmp_path / "a.h5"), str(out), "--data", "nowhere", "--pixels", "raw"], "nowhere"),
    ]
    for command, message in cases:
        with pytest.raises(FaceError, match=message) as caught:
            quantize_aware.main(command)
        assert "\n" not in str(caught.value)
    assert not Path(out).exists()


def test_a_net_of_another_size_is_compared_on_faces_of_its_size():
    faces = keras.Input((48, 32, 3), name="faces")
    net = keras.Model(faces, keras.layers.Dense(4, name="d")(keras.layers.Flatten(name="f")(faces)), name="net")
    crops = np.random.default_rng(0).integers(0, 256, (5, 48, 32, 3)).astype(np.uint8)

    np.testing.assert_allclose(cosines_between(net, net, crops, "net.h5"), 1, atol=1e-6)
