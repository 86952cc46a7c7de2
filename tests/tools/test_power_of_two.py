"""Training for ESP-DL: scales that are powers of two, by their formula, and what the exports keep of them."""

import json
import math
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import numpy_helper

import h5_2_pb
import pb_2_onnx
from facelib.data.synthetic.faces import synthetic_face
from facelib.errors import FaceError
from facelib.export import optimize
from facelib.export.power_of_two import read_exponents
from facelib.model_input import Io, to_model_input
from facelib.models import fake_quant
from facelib.models.blocks import Blocks, embedding_output
from facelib.models.fake_quant_net import fake_quantized, observe
from facelib.models.layers import PixelScale
from facelib.runtimes.keras_h5 import load_model, save_h5
from facelib.sidecar import write_sidecar
from facelib.unit_vectors import row_cosines
from tests.helpers.random_weights import random_weights
from tests.helpers.slow import slow_unless_quick

CHIPS = ("esp32s3", "esp32p4")
ROOT = Path(__file__).parents[2]


def next_power(x):
    """The smallest power of two that is at least x."""
    mantissa, exponent = math.frexp(x)
    return 2.0 ** (exponent - 1 if mantissa == 0.5 else exponent)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 6.0), (-128.0, 127.0), (-3.0, 0.1), (-0.01, 63.5)])
def test_a_value_goes_to_the_nearest_of_the_levels_around_zero(low, high):
    layer = fake_quant.FakeQuant(target="esp32s3")
    layer.build((None, 64))
    layer.range.low.assign(low)
    layer.range.high.assign(high)
    x = np.random.default_rng(0).uniform(2 * low - 1, 2 * high + 1, (1, 64)).astype(np.float32)

    received = layer(x).numpy()

    scale = max(next_power(max(-low, 1e-9) / 128), next_power(high / 127))
    np.testing.assert_array_equal(received, np.clip(np.floor(x / scale + 0.5), -128, 127) * scale)


def test_powers_of_two_are_exact():
    x = np.concatenate([2.0 ** np.arange(-30, 20), 1.001 * 2.0 ** np.arange(-30, 20)]).astype(np.float32)

    received = fake_quant.smallest_power_of_two(tf.constant(x)).numpy()

    np.testing.assert_array_equal(received, [next_power(float(value)) for value in x])


@pytest.mark.parametrize("chip", CHIPS)
def test_the_s3_has_one_scale_for_a_kernel_and_the_p4_one_for_a_channel(chip):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 5)) * 10.0 ** np.arange(-2, 3)

    received = fake_quant.round_kernel(tf.constant(kernel, tf.float32), (3,), chip).numpy()

    largest = np.abs(kernel).max((0, 1, 2)) if chip == "esp32p4" else np.repeat(np.abs(kernel).max(), 5)
    scale = np.array([next_power(float(np.float32(value)) / 127) for value in largest])
    np.testing.assert_allclose(received / scale, np.rint(kernel / scale), atol=1e-3)


def bottlenecks(activation="relu6"):
    """MobileFaceNet's parts, with sums."""
    blocks = Blocks(activation, "symmetric")
    faces = keras.Input((112, 112, 3), name="input_1")
    x = blocks.conv(PixelScale(name="pixel_scale")(faces), 16, 3, 2, "stem_conv")
    x = blocks.depthwise(x, 2, "stem_dw")
    for group in (1, 2, 3):
        x = blocks.bottleneck(x, 2, 16, 2 if group == 1 else 1, f"group{group}")
    x = blocks.conv(blocks.global_depthwise(x, "gdc"), 16, 1, 1, "embedding_conv", linear=True)
    return keras.Model(faces, embedding_output(x), name="net")


@pytest.fixture(scope="module", params=slow_unless_quick(CHIPS, ["esp32s3"]))
def trained(request, tmp_path_factory):
    """(chip, the copy, model.onnx in planes, faces): a net with ranges for the chip, through the export scripts."""
    folder = tmp_path_factory.mktemp(request.param)
    keras.utils.set_random_seed(0)
    copy = fake_quantized(random_weights(bottlenecks(), spread=0.3), "a.h5", request.param)
    faces = np.stack([synthetic_face(3, k, 0) for k in range(24)])
    observe(copy, faces)
    save_h5(copy, folder / "embedder.h5")
    write_sidecar(folder / "embedder.h5", kind="h5", made_from=None, io=Io())
    assert h5_2_pb.main([str(folder / "embedder.h5")]) == 0
    assert optimize.main([str(folder / "export" / "frozen.pb")]) == 0
    flags = ["--layout", "nchw", "--pixels", "outside", "--batch", "1", "--out", str(folder / "model.onnx")]
    assert pb_2_onnx.main([str(folder / "export" / "optimized.pb"), *flags]) == 0
    return request.param, load_model(folder / "embedder.h5"), folder / "model.onnx", faces


@pytest.mark.slow
def test_the_onnx_model_carries_the_scale_of_every_activation(trained):
    _, copy, path, _ = trained
    model = onnx.load(path)

    received = read_exponents(path)

    kinds = {node.output[0]: node.op_type for node in model.graph.node}
    assert not set(kinds.values()) - {"Conv", "Clip", "Relu", "Add", "Flatten", "Identity"}
    readers = {name: [node.op_type for node in model.graph.node if name in node.input] for name in kinds}
    rounded = {name for name, kind in kinds.items() if kind in ("Clip", "Relu", "Add")}
    rounded |= {name for name, kind in kinds.items() if kind == "Conv" and readers[name][0] not in ("Clip", "Relu")}
    assert set(received) == {"input_1", *rounded}
    assert received["input_1"] == -6  # 127.5 / 128 needs one level more than 2 ** -7 has
    for layer in copy.layers:
        if isinstance(layer, fake_quant.FakeQuantAdd):
            largest = max(-float(layer.range.low) / 128, float(layer.range.high) / 127)
            (name,) = [name for name in received if f"{layer.name}" in name and kinds.get(name) == "Add"]
            assert 2.0 ** received[name] == next_power(largest)


def test_the_weights_of_the_onnx_model_are_on_the_grid_of_the_chip(trained):
    chip, _, path, _ = trained
    model = onnx.load(path)
    tensors = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}

    for node in model.graph.node:
        if node.op_type == "Conv":
            kernel = tensors[node.input[1]]
            largest = np.abs(kernel).max((1, 2, 3), keepdims=True) if chip == "esp32p4" else np.abs(kernel).max()
            scale = np.vectorize(lambda x: next_power(float(x) / 127.0001))(np.maximum(largest, 1e-12))
            np.testing.assert_allclose(kernel / scale, np.rint(kernel / scale), atol=1e-3)


def test_a_net_that_was_not_trained_for_it_carries_nothing(tmp_path):
    model = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    onnx.save(model, tmp_path / "a.onnx")

    assert read_exponents(tmp_path / "a.onnx") is None


def test_prelu_is_refused_in_one_line():
    with pytest.raises(FaceError, match=r"the esp32s3 supports ReLU.*'a\.h5' has PReLU.*swap_activation\.py"):
        fake_quantized(bottlenecks("prelu"), "a.h5", "esp32s3")


# ------------------------------------------------------------------------------------------------- with esp-ppq


@pytest.mark.slow
@pytest.mark.needs_tool(".venv-esp")
def test_the_espdl_has_the_scales_of_the_training_and_is_the_copy(trained):
    from facelib.runtimes.esp import EspdlEmbedder
    from facelib.sidecar import read_sidecar
    from facelib.unit_vectors import normalize

    chip, copy, path, faces = trained
    crops = path.parent / "crops"
    crops.mkdir()
    import cv2

    for k, face in enumerate(faces):
        cv2.imwrite(str(crops / f"{k:02}.png"), face[..., ::-1])
    script = [sys.executable, str(ROOT / "esp" / "onnx_2_espdl.py"), str(path), "--chip", chip, "--int16", "none"]

    done = subprocess.run([*script, "--calibration", str(crops)], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    espdl = path.parent / f"model_{chip}.espdl"
    sidecar = read_sidecar(espdl)
    wanted = read_exponents(path)
    assert {name: wanted[name] for name in sidecar.rest["exponents"]} == sidecar.rest["exponents"]
    embedder = EspdlEmbedder(espdl, sidecar.io)
    simulated = embedder.raw(faces)
    embedder.close()
    expected = copy(faces.astype("float32"), training=False).numpy()
    assert row_cosines(normalize(simulated), normalize(expected)).min() > 0.99
    assert json.loads(json.dumps(sidecar.rest["exponents"]))  # plain numbers
    assert to_model_input(faces, sidecar.io).dtype == np.float32
