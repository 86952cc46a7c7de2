"""pb_2_onnx.py: the ONNX model computes what the graph computes, for every backbone; TensorFlow is the reference."""

from dataclasses import replace

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers

import pb_2_onnx
from backbones import build_backbone
from facelib.data.synthetic.faces import encode_jpeg, synthetic_face
from facelib.errors import FaceError
from facelib.export.freeze import freeze
from facelib.export.graph_input import without_scaling
from facelib.export.onnx.convert import graph_to_onnx
from facelib.export.onnx.int8 import quantise_onnx
from facelib.export.optimize import optimize
from facelib.model_input import Io, scaling_of, to_model_input
from facelib.models.attention import CrossCovariance
from facelib.models.layers import PixelScale
from facelib.models.registry import BACKBONES, IMPORTED, ModelConfig
from facelib.runtimes.frozen_graph import open_graph, save_graph
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.sidecar import read_sidecar, write_sidecar
from facelib.unit_vectors import row_cosines
from tests.helpers.slow import slow_unless_quick

QUICK = {("mobilefacenet", "prelu")}
OTHERS = {("mobilefacenet", "relu6"), ("mobilefacenet", "leaky_relu")} | {
    (name, "prelu") for name in BACKBONES if name != IMPORTED
}
OTHERS |= {(name, "own") for name in ("MobileNetV2", "MobileNetV3Small", "EfficientNetV2B0", "ResNet50V2")}
WIDTHS = {"mobilefacenet": 0.5, "my_mobilenet": 0.5, "ghostfacenet_v1": 0.5, "MobileNetV2": 0.35}


def randomise(model, normalised=False):
    """Statistics and slopes as training leaves them: none is 0 or 1.

    A network of hundreds of layers must also be normalised, else its values grow until float32 alone changes the
    embedding. So its normalisations take the statistics of a batch, as after training.
    """
    rng = np.random.default_rng(0)
    for layer in model.layers:
        for v in layer.variables:
            if "variance" in v.name or v.name == "gamma":
                v.assign(rng.uniform(0.5, 1.5, v.shape))
            elif "mean" in v.name or v.name == "beta":
                v.assign(rng.normal(size=v.shape) * 0.2)
            elif v.name == "alpha":
                v.assign(rng.uniform(0.0, 0.9, v.shape))
    if normalised:
        for layer in model.layers:
            if hasattr(layer, "momentum"):
                layer.momentum = 0.0
        model(pixels(16), training=True)
    return model


def pixels(count, size=(112, 112)):
    return np.random.default_rng(1).integers(0, 256, (count, *size, 3)).astype(np.float32)


def run_onnx(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["embeddings"], {"input_1": images})[0]


def assert_same(graph, images, size=(112, 112)):
    model = graph_to_onnx(optimize(graph, "input_1", "embeddings"), "input_1", "embeddings", size)
    assert_close(run_onnx(model, images), open_graph(graph, "graph")(images))
    return model


def assert_close(values, expected):
    np.testing.assert_allclose(values, expected, rtol=0, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("backbone", "activation"), slow_unless_quick(sorted(QUICK | OTHERS), QUICK), ids=str)
def test_onnx_equals_the_graph_on_every_backbone(backbone, activation):
    config = ModelConfig(
        backbone=backbone, embedding_size=32, width=WIDTHS.get(backbone, 1.0), activation=activation
    )  # fmt: skip
    model = randomise(build_backbone(config), normalised=backbone.startswith(("EfficientNet", "mixfacenet")))

    exported = assert_same(freeze(model), pixels(5))

    used = [node.op_type for node in exported.graph.node]
    num_attentions = sum(isinstance(layer, CrossCovariance) for layer in model.layers)
    assert used.count("Transpose") == 1 + num_attentions  # at the input, and of the keys of an attention: no other
    if activation == "prelu" and backbone in ("mobilefacenet", "mbf"):
        assert used.count("Relu") == 33
    # ResNet V2 pads with zeros before a pooling of values that may be negative: that is no padding of a MaxPool.
    assert not {"BatchNormalization", "Pad", "PRelu", "Max"} & set(used) - (
        {"Pad"} if backbone.startswith("ResNet") else set()
    )


@pytest.mark.slow
def test_any_number_of_faces():
    graph = freeze(randomise(build_backbone(ModelConfig(width=0.25, embedding_size=16))))

    model = assert_same(graph, pixels(1))

    for count in (2, 7):
        assert_close(run_onnx(model, pixels(count)), open_graph(graph, "graph")(pixels(count)))


def small(*stack, size=(9, 8)):
    import keras

    inputs = keras.Input((*size, 3), name="input_1")
    x = inputs
    for layer in stack:
        x = layer(x)
    return freeze(keras.Model(inputs, x)), size


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_is_tensorflows(stride, kernel, padding):
    graph, size = small(
        layers.Conv2D(4, kernel, stride, padding, bias_initializer="random_normal"),
        layers.ZeroPadding2D(((1, 2), (0, 1))),
        layers.DepthwiseConv2D(kernel, stride, padding, depth_multiplier=2),
        layers.Flatten(),
        size=(20, 17),
    )

    assert_same(graph, pixels(3, size), size)


def test_a_flattened_map_keeps_tensorflows_order():
    graph, size = small(layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(6))

    assert_same(graph, pixels(2, size), size)


def test_pools_means_and_slopes_above_one():
    alpha = tf.constant([0.5, 1.5, -0.2, 0.1])
    graph, size = small(
        layers.Conv2D(4, 3),
        layers.Lambda(lambda x: tf.maximum(x, alpha * x)),  # no PReLU where a slope is above 1
        layers.MaxPooling2D(2, padding="same"),
        layers.AveragePooling2D(2, 1, padding="same"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(5),
    )

    model = assert_same(graph, pixels(2, size), size)

    assert "PRelu" not in {node.op_type for node in model.graph.node}


def test_an_operation_without_an_onnx_form_is_named():
    graph, size = small(layers.Conv2D(4, 3), layers.Lambda(tf.sin, name="wave"), layers.Flatten())

    with pytest.raises(FaceError, match=r"wave.*\(Sin\)"):
        graph_to_onnx(optimize(graph, "input_1", "embeddings"), "input_1", "embeddings", size)


def test_the_script_writes_a_checked_model_with_its_sidecar(tmp_path, capsys):
    model = randomise(build_backbone(ModelConfig(width=0.25, embedding_size=16)))
    path = tmp_path / "optimized.pb"
    save_graph(optimize(freeze(model), "input_1", "embeddings"), path)
    write_sidecar(path, kind="optimized_pb", made_from=None, io=Io(embedding_size=16), licence="mine")

    assert pb_2_onnx.main([str(path)]) == 0

    out = tmp_path / "model.onnx"
    sidecar = read_sidecar(out)
    assert (sidecar.kind, sidecar.licence, sidecar.io.layout, sidecar.io.pixels) == ("onnx", "mine", "nhwc", "raw")
    exported = onnx.load(out)
    onnx.checker.check_model(exported, full_check=True)
    assert_close(run_onnx(exported, pixels(2)), model(pixels(2), training=False).numpy())
    assert "next: python onnx_test.py" in capsys.readouterr().out


@pytest.mark.slow
def test_prelu_may_be_one_node(tmp_path):
    model = randomise(build_backbone(ModelConfig(width=0.25, embedding_size=16)))
    model.save(tmp_path / "embedder.h5")
    write_sidecar(tmp_path / "embedder.h5", kind="h5", made_from=None, io=Io(embedding_size=16))

    assert pb_2_onnx.main([str(tmp_path / "embedder.h5"), "--prelu-nodes"]) == 0

    exported = onnx.load(tmp_path / "export" / "model.onnx")
    assert [node.op_type for node in exported.graph.node].count("PRelu") == 33
    assert_close(run_onnx(exported, pixels(2)), model(pixels(2), training=False).numpy())


@pytest.mark.slow
def test_an_h5_is_converted_too(tmp_path):
    model = randomise(build_backbone(ModelConfig(width=0.25, embedding_size=16)))
    model.save(tmp_path / "embedder.h5")
    write_sidecar(tmp_path / "embedder.h5", kind="h5", made_from=None, io=Io(embedding_size=16))

    pb_2_onnx.main([str(tmp_path / "embedder.h5")])

    exported = onnx.load(tmp_path / "export" / "model.onnx")
    assert_close(run_onnx(exported, pixels(2)), model(pixels(2), training=False).numpy())


def test_a_file_that_is_no_graph_leaves_no_output(tmp_path):
    (tmp_path / "bad.pb").write_bytes(b"no graph")

    with pytest.raises(FaceError, match="not a TensorFlow graph"):
        pb_2_onnx.main([str(tmp_path / "bad.pb"), "--pixels", "raw"])

    assert not (tmp_path / "model.onnx").exists()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Makes another form of one small net: `exported(*flags)` -> (path of the ONNX model, the Keras model)."""
    folder = tmp_path_factory.mktemp("forms")
    keras.utils.set_random_seed(0)  # int8 loses more with some untrained weights than with others
    model = randomise(build_backbone(ModelConfig(width=0.25, embedding_size=16, activation="relu6")))
    save_graph(optimize(freeze(model), "input_1", "embeddings"), folder / "optimized.pb")
    write_sidecar(folder / "optimized.pb", kind="optimized_pb", made_from=None, io=Io(embedding_size=16))

    def make(*flags):
        assert pb_2_onnx.main([str(folder / "optimized.pb"), *flags]) == 0
        return folder / ("model_int8.onnx" if "int8" in flags else "model.onnx"), model

    return make


@pytest.mark.slow
def test_other_converters_get_channels_first_scaled_pixels_and_one_face(exported, capsys):
    path, model = exported("--layout", "nchw", "--pixels", "outside", "--batch", "1", "--opset", "13")

    graph, sidecar = onnx.load(path), read_sidecar(path)
    (source,), (target,) = graph.graph.input, graph.graph.output
    assert [dim.dim_value for dim in source.type.tensor_type.shape.dim] == [1, 3, 112, 112]
    assert [dim.dim_value for dim in target.type.tensor_type.shape.dim] == [1, 16]
    assert graph.opset_import[0].version == 13
    assert not {"Transpose", "Sub", "Mul", "Div"} & {node.op_type for node in graph.graph.node}
    assert (sidecar.io.layout, sidecar.io.pixels, sidecar.io.colour) == ("nchw", "pm1", "rgb")
    assert sidecar.rest["pixel_scaling"] == {"mean": [127.5] * 3, "std": [128.0] * 3}
    assert (
        "[1, 3, 112, 112], RGB, (x - mean) / std with mean 127.5 127.5 127.5, std 128 128 128"
        in capsys.readouterr().out
    )
    images = pixels(1)
    assert_close(run_onnx(graph, ((images - 127.5) / 128).transpose(0, 3, 1, 2)), model(images, training=False).numpy())


@pytest.mark.parametrize("flags", [("--layout", "nchw"), ("--pixels", "outside"),
                                   ("--layout", "nchw", "--pixels", "outside", "--batch", "3")])  # fmt: skip
def test_the_sidecar_feeds_every_form(exported, flags):
    path, model = exported(*flags)
    images = pixels(5).astype(np.uint8)

    rows = OnnxEmbedder(path, read_sidecar(path).io).raw(images)

    assert_close(rows, model(images.astype(np.float32), training=False).numpy())


def test_scaling_is_taken_in_and_out_again(exported):
    outside, model = exported("--pixels", "outside")
    assert read_sidecar(outside).io.pixels == "pm1"

    inside, _ = exported("--pixels", "inside")

    assert read_sidecar(inside).io.pixels == "raw"
    assert_close(run_onnx(onnx.load(inside), pixels(2)), model(pixels(2), training=False).numpy())


@pytest.mark.parametrize(
    ("pixels_of", "colour"), [("imagenet", "rgb"), ("imagenet", "bgr"), ("unit", "rgb"), ("pm1_exact", "bgr")]
)
def test_every_scaling_is_found_in_the_graph(pixels_of, colour):
    io = Io(pixels="raw", colour=colour, size=(9, 8))
    scaling = scaling_of(replace(io, pixels=pixels_of))
    graph, size = small(
        PixelScale(scaling["mean"], scaling["std"]), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(5)
    )
    target = graph.node[-1].name
    graph = optimize(graph, "input_1", target)

    bare, found = without_scaling(graph, replace(io, output=target), "x.pb")

    assert found.pixels == pixels_of
    faces = pixels(2, size).astype(np.uint8)
    expected = open_graph(graph, "graph", output_name=target)(to_model_input(faces, io))
    assert_close(open_graph(bare, "bare", output_name=target)(to_model_input(faces, found)), expected)


def test_a_scaling_that_is_not_in_the_list_is_refused():
    graph, _ = small(PixelScale(100.0, 50.0), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(5))
    target = graph.node[-1].name

    with pytest.raises(FaceError, match=r"x\.pb.*--pixels inside"):
        without_scaling(optimize(graph, "input_1", target), Io(size=(9, 8), output=target), "x.pb")


@pytest.mark.parametrize("flags", [["--opset", "9"], ["--opset", "99"], ["--batch", "-1"]])
def test_impossible_forms_are_refused(tmp_path, flags):
    with pytest.raises(FaceError, match="--opset must be from 11 to 21"):
        pb_2_onnx.main([str(tmp_path / "x.pb"), *flags])


@pytest.mark.parametrize("opset", ["11", "21"])
def test_the_first_and_the_last_opset_compute_the_same(exported, opset):
    path, model = exported("--opset", opset)

    assert_close(run_onnx(onnx.load(path), pixels(2)), model(pixels(2), training=False).numpy())


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A folder of 12 crops."""
    folder = tmp_path_factory.mktemp("faces")
    for k in range(12):
        (folder / f"{k}.jpg").write_bytes(encode_jpeg(synthetic_face(3, k, 0), 95))
    return folder


def test_int8_has_scales_per_channel_and_the_embeddings_of_the_graph(exported, faces, capsys):
    path, _ = exported("--mode", "int8", "--calibration", str(faces), "--layout", "nchw", "--pixels", "outside")

    graph, sidecar = onnx.load(path), read_sidecar(path)
    assert path.name == "model_int8.onnx" and sidecar.kind == "onnx_int8"
    assert sidecar.rest["calibration"]["count"] == 12 and sidecar.rest["parity"]["min_cosine"] > 0.8  # an untrained net
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    kernels = [array for array in weights.values() if array.dtype == np.int8 and array.ndim == 4]
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    assert len(kernels) == len(convolutions) and max(np.abs(kernel).max() for kernel in kernels) <= 64  # 7 bits
    per_channel = [node for node in graph.graph.node if node.op_type == "DequantizeLinear"
                   and weights[node.input[1]].shape == (16,)]  # fmt: skip
    assert per_channel and "cosine to the graph on 12 crops" in capsys.readouterr().out
    session, tensors = onnxruntime.InferenceSession(path), sidecar.rest["tensors"]
    for side, (tensor,) in (("input", session.get_inputs()), ("output", session.get_outputs())):
        shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
        assert (tensors[side]["name"], tensors[side]["shape"]) == (tensor.name, shape)
        assert (tensors[side]["dtype"], tensors[side]["scale"]) == ("float32", 0)
    assert sidecar.rest["comparison"]["distance"] == "squared L2" and len(sidecar.rest["template_points"]) == 5


def test_int8_computes_nearly_what_float_computes():
    graph, size = small(
        PixelScale(), layers.Conv2D(8, 3, activation="relu"), layers.DepthwiseConv2D(3), layers.Flatten()
    )
    target = graph.node[-1].name
    model = graph_to_onnx(optimize(graph, "input_1", target), "input_1", target, size).SerializeToString()
    images = pixels(20, size)

    int8 = quantise_onnx(model, images.astype(np.uint8), Io(size=size))

    rows = [onnxruntime.InferenceSession(each).run(None, {"input_1": images})[0] for each in (model, int8)]
    assert row_cosines(*rows).min() > 0.995


def test_int8_reads_pixels_in_255_steps(exported, faces):
    path, _ = exported("--mode", "int8", "--calibration", str(faces))

    graph = onnx.load(path).graph
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear")
    assert weights[first.input[1]] == pytest.approx(1 / 128, rel=1e-3)  # one step is one value of a pixel


@pytest.mark.parametrize(
    "flags", [[], ["--calibration", "x", "--opset", "12"], ["--calibration", "x", "--prelu-nodes"]]
)
def test_int8_needs_crops_and_operators_that_it_has(tmp_path, flags):
    with pytest.raises(FaceError, match=r"^int8 (needs real crops|needs --opset 13)"):
        pb_2_onnx.main([str(tmp_path / "x.pb"), "--mode", "int8", *flags])
