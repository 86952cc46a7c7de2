"""Backbones: parameters and multiply-adds counted by hand from the tables they come from."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest

import backbones
from backbones import application, build_backbone
from facelib.errors import FaceError
from facelib.export.freeze import freeze
from facelib.export.optimize import optimize
from facelib.export.parity import parity_faces
from facelib.models.blocks import Blocks, divisible
from facelib.models.layers import PReLU
from facelib.models.registry import APPLICATIONS, ModelConfig
from facelib.runtimes.frozen_graph import open_graph
from facelib.runtimes.keras_h5 import load_model, save_h5
from facelib.unit_vectors import row_cosines
from ghostfacenet import ghostfacenet_v1
from iresnet import iresnet
from mobilefacenet import mbf, mobilefacenet, mobilefacenet_s
from my_mobilenet import my_mobilenet
from tests.helpers.random_weights import random_weights
from tests.helpers.slow import slow_unless_quick

# MobileFaceNets, table 1: expansion, channels, repeats, stride.
PAPER = [(2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)]


class HandCount:
    """Adds up parameters and multiply-adds, layer by layer, from shapes alone."""

    def __init__(self, side):
        self.side = side
        self.trainable = self.statistics = self.multiply_adds = 0

    def conv(self, kernel, inputs, outputs, stride=1, bias=False):
        self.side = math.ceil(self.side / stride)
        self.trainable += kernel**2 * inputs * outputs + (outputs if bias else 0)
        self.multiply_adds += self.side**2 * kernel**2 * inputs * outputs

    def depthwise(self, kernel, channels, stride=1, bias=False):
        self.side = 1 if kernel == 7 else math.ceil(self.side / stride)
        self.trainable += kernel**2 * channels + (channels if bias else 0)
        self.multiply_adds += self.side**2 * kernel**2 * channels

    def bn(self, channels):
        self.trainable += 2 * channels
        self.statistics += 2 * channels

    def prelu(self, channels):
        self.trainable += channels

    def bottleneck(self, inputs, expansion, outputs, stride):
        middle = inputs * expansion
        if expansion > 1:
            self.conv(1, inputs, middle)
            self.bn(middle)
            self.prelu(middle)
        self.depthwise(3, middle, stride)
        self.bn(middle)
        self.prelu(middle)
        self.conv(1, middle, outputs)
        self.bn(outputs)

    def groups(self, inputs, table):
        for expansion, outputs, repeats, stride in table:
            for repeat in range(repeats):
                self.bottleneck(inputs, expansion, outputs, stride if repeat == 0 else 1)
                inputs = outputs


def count_paper(embedding_size=128, side=112, separable=False):
    count = HandCount(side)
    count.conv(3, 3, 64, stride=2)
    count.bn(64)
    count.prelu(64)
    count.depthwise(3, 64)
    count.bn(64)
    count.prelu(64)
    if separable:
        count.conv(1, 64, 64)
        count.bn(64)
        count.prelu(64)
    count.groups(64, PAPER)
    count.conv(1, 128, 512)
    count.bn(512)
    count.prelu(512)
    count.depthwise(7, 512)
    count.bn(512)
    count.conv(1, 512, embedding_size)
    count.bn(embedding_size)
    return count


def count_my_mobilenet(embedding_size=512):
    """seed_systems.md 2.1: stem 56, block0 without expansion, and the older order at the end: conv, PReLU, BN."""
    count = HandCount(112)
    count.conv(3, 3, 56, stride=2)
    count.bn(56)
    count.prelu(56)
    count.groups(56, [(1, 64, 1, 2)])
    count.groups(64, [(2, 64, 4, 1), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)])
    count.conv(1, 128, 512)
    count.bn(512)
    count.prelu(512)
    count.depthwise(7, 512, bias=True)
    count.prelu(512)
    count.bn(512)
    count.conv(1, 512, embedding_size, bias=True)
    count.prelu(embedding_size)
    return count


def parameters(model):
    """(trainable, all)"""
    trainable = sum(math.prod(v.shape) for v in model.trainable_variables)
    return trainable, trainable + sum(math.prod(v.shape) for v in model.non_trainable_variables)


def multiply_adds(model):
    """Of the convolutions, from their kernels' and outputs' shapes."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            _, height, width, _ = layer.output.shape
            total += height * width * math.prod(layer.kernel.shape)
    return total


@pytest.fixture(scope="module")
def paper_net():
    return mobilefacenet()


def test_mobilefacenet_is_the_papers_net(paper_net):
    assert parameters(paper_net) == (1_003_136, 1_022_720)
    assert multiply_adds(paper_net) == pytest.approx(221.0e6, rel=1e-3)


def test_the_hand_count_agrees(paper_net):
    count = count_paper()

    assert (count.trainable, count.trainable + count.statistics) == parameters(paper_net)
    assert count.multiply_adds == multiply_adds(paper_net)


@pytest.mark.parametrize(
    "options, millions, mega_madds",
    [
        ({"embedding_size": 256}, 1.069, None),
        ({"embedding_size": 512}, 1.2005, 221.2),
        ({"image_size": (96, 96)}, None, 162.4),
        ({"stem": "separable"}, None, 233.8),
    ],
)
def test_the_variants_have_the_known_counts(options, millions, mega_madds):
    model = mobilefacenet(**options)

    side = options.get("image_size", (112,))[0]
    count = count_paper(options.get("embedding_size", 128), side, "stem" in options)
    if side == 96:  # the global kernel is 6x6 then
        count.trainable -= (49 - 36) * 512
        count.multiply_adds -= (49 - 36) * 512
    assert parameters(model) == (count.trainable, count.trainable + count.statistics)
    assert multiply_adds(model) == count.multiply_adds
    if millions:
        assert parameters(model)[0] / 1e6 == pytest.approx(millions, abs=6e-4)
    if mega_madds:
        assert multiply_adds(model) / 1e6 == pytest.approx(mega_madds, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("embedding_size", [128, 512])
def test_my_mobilenet_has_the_counts_of_its_table(embedding_size):
    model, count = my_mobilenet(embedding_size), count_my_mobilenet(embedding_size)

    assert parameters(model) == (count.trainable, count.trainable + count.statistics)
    assert multiply_adds(model) == count.multiply_adds


def test_my_mobilenet_shares_its_slopes():
    slopes = [v for v in my_mobilenet().trainable_variables if v.name == "alpha"]

    assert len(slopes) == 1 + 1 + 14 * 2 + 1 + 1 + 1  # stem, block0, 14 blocks of two, head, global, embedding
    assert all(len(v.shape) == 1 for v in slopes)


@pytest.mark.parametrize("build, size", [(mobilefacenet, 128), (my_mobilenet, 512)])
def test_input_and_output_are_the_contract(build, size):
    model = build()

    assert model.inputs[0].name == "input_1"
    assert model.inputs[0].shape == (None, 112, 112, 3)
    assert model.output_names == ["embeddings"]
    assert (model.output.shape, model.output.dtype) == ((None, size), "float32")


def test_the_output_is_finite_and_not_normalised():
    model = mobilefacenet(width=0.25, image_size=(32, 32))
    faces = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("float32")

    embeddings = model(faces).numpy()

    assert embeddings.shape == (8, 128)
    assert np.isfinite(embeddings).all()
    norms = np.linalg.norm(embeddings, axis=1)
    assert np.abs(norms - 1).max() > 0.01
    assert norms.std() > 0


@pytest.mark.slow
def test_each_row_depends_on_its_own_image_alone():
    keras.utils.set_random_seed(0)
    model = mobilefacenet(width=0.25, image_size=(32, 32))
    faces = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")

    together = model(faces).numpy()

    for k in range(4):
        np.testing.assert_allclose(model(faces[k : k + 1])[0], together[k], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", [mobilefacenet, my_mobilenet])
@pytest.mark.parametrize("kind, layer", [("relu", "ReLU"), ("relu6", "ReLU"), ("leaky_relu", "LeakyReLU")])
def test_another_activation_has_no_slopes(build, kind, layer):
    model = build(activation=kind, width=0.25, image_size=(32, 32))
    kinds = [type(x).__name__ for x in model.layers]

    assert layer in kinds
    assert "PReLU" not in kinds
    assert not any(v.name == "alpha" for v in model.variables)


def test_width_multiplies_the_channels_but_not_the_embedding():
    model = mobilefacenet(width=0.5, image_size=(32, 32), embedding_size=64)

    assert model.get_layer("stem_conv").filters == 32
    assert model.get_layer("group2_block1_project").filters == 64
    assert model.get_layer("head_conv").filters == 256
    assert model.output.shape == (None, 64)


def test_dropout_works_in_training_alone():
    model = mobilefacenet(dropout=0.5, width=0.25, image_size=(32, 32))
    faces = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")

    assert model.get_layer("dropout").rate == 0.5
    np.testing.assert_array_equal(model(faces), model(faces))


def test_pixel_scaling_is_the_first_layer():
    model = mobilefacenet(pixel_mean=[1.0, 2.0, 3.0], pixel_std=64.0, width=0.25, image_size=(32, 32))

    first = model.layers[1]
    assert (first.mean, first.std) == ([1.0, 2.0, 3.0], 64.0)


@pytest.mark.parametrize("build", [mobilefacenet, pytest.param(my_mobilenet, marks=pytest.mark.slow)])
def test_a_saved_backbone_is_the_same_backbone(build, tmp_path):
    model = build(width=0.25, image_size=(32, 32), embedding_size=16)
    faces = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")

    model.save(tmp_path / "m.h5")

    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "m.h5")(faces), model(faces))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stem": "wide"}, "stem is 'paper' or 'separable'. Received: stem='wide'"),
        ({"padding": "valid"}, "padding is 'same' or 'symmetric'. Received: padding='valid'"),
        ({"activation": "elu"}, "activation is one of"),
        ({"image_size": (112, 100)}, "image_size needs multiples of 16. Received: image_size=(112, 100)"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError) as caught:
        mobilefacenet(**options)
    assert message in str(caught.value)


# ---------------------------------------------------------------------------------------------------- padding


def numpy_conv(image, kernel, stride, before, after):
    """Convolution of [H, W, C] with [3, 3, C, F] after zero padding: loops, as one would explain it."""
    padded = np.pad(image, ((before, after), (before, after), (0, 0)))
    side = (padded.shape[0] - 3) // stride + 1
    out = np.zeros((side, side, kernel.shape[-1]))
    for row in range(side):
        for column in range(side):
            window = padded[row * stride : row * stride + 3, column * stride : column * stride + 3]
            out[row, column] = np.tensordot(window, kernel, 3)
    return out


@pytest.mark.parametrize("padding, before, after", [("symmetric", 1, 1), ("same", 0, 1)])
@pytest.mark.parametrize("is_depthwise", [False, True])
def test_stride_2_pads_as_pytorch_or_as_tensorflow(padding, before, after, is_depthwise):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(8, 8, 2))
    inputs = keras.Input((8, 8, 2))
    blocks = Blocks("relu", padding)
    block = blocks.depthwise(inputs, 2, "c") if is_depthwise else blocks.conv(inputs, 5, 3, 2, "c")
    model = keras.Model(inputs, block)
    conv = keras.Model(inputs, model.get_layer("c").output)
    kernel = rng.normal(size=model.get_layer("c").kernel.shape)
    model.get_layer("c").kernel.assign(kernel)

    found = conv(image[None].astype("float32"))[0]

    if is_depthwise:
        parts = [numpy_conv(image[..., k : k + 1], kernel[:, :, k : k + 1], 2, before, after) for k in range(2)]
        expected = np.concatenate(parts, axis=-1)
    else:
        expected = numpy_conv(image, kernel, 2, before, after)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("build", [mobilefacenet, my_mobilenet])
def test_both_paddings_give_maps_of_the_same_size(build):
    same, symmetric = (build(padding=p, width=0.25, image_size=(64, 64)) for p in ("same", "symmetric"))

    shapes = [
        {x.name: x.output.shape for x in model.layers if not x.name.endswith("_pad")} for model in (same, symmetric)
    ]
    assert shapes[0] == shapes[1]
    assert parameters(same) == parameters(symmetric)
    num_padded = sum(isinstance(x, keras.layers.ZeroPadding2D) for x in symmetric.layers)
    assert num_padded == 4  # one at each halving: 64 -> 32 -> 16 -> 8 -> 4


@pytest.mark.parametrize(
    "channels, expected", [(57.6, 56), (64, 64), (16, 16), (3, 8), (12, 16), (11, 16), (35, 32), (19, 24)]
)
def test_channels_are_multiples_of_8_and_at_least_nine_tenths(channels, expected):
    assert divisible(channels) == expected
    assert divisible(channels) >= 0.9 * channels


# ------------------------------------------------------------------------------------------- the other backbones


def count_iresnet(repeats, embedding_size=512):
    """insightface's iresnet.py by hand: BN, conv, BN, PReLU, conv, BN; 1x1 and BN beside a block that shrinks."""
    count = HandCount(112)
    count.conv(3, 3, 64)
    count.bn(64)
    count.prelu(64)
    inputs = 64
    for channels, blocks in zip((64, 128, 256, 512), repeats, strict=True):
        for block in range(blocks):
            stride, before = (2 if block == 0 else 1), count.side
            count.bn(inputs)
            count.conv(3, inputs, channels)
            count.bn(channels)
            count.prelu(channels)
            count.conv(3, channels, channels, stride)
            count.bn(channels)
            if stride == 2:
                count.side = before
                count.conv(1, inputs, channels, 2)
                count.bn(channels)
            inputs = channels
    count.bn(512)
    count.side = 1
    count.conv(7, 512, embedding_size, bias=True)
    count.bn(embedding_size)
    return count


@pytest.mark.slow
@pytest.mark.parametrize(
    "depth, repeats, published",
    slow_unless_quick(
        [(18, (2, 2, 2, 2), 24.0), (34, (3, 4, 6, 3), 34.1), (50, (3, 4, 14, 3), 43.6), (100, (3, 13, 30, 3), 65.2)],
        [(18, (2, 2, 2, 2), 24.0)],
    ),
)
def test_iresnet_has_insightfaces_parameters(depth, repeats, published):
    model = build_backbone(ModelConfig(backbone=f"iresnet{depth}", embedding_size=512))

    count = count_iresnet(repeats)
    assert parameters(model) == (count.trainable, count.trainable + count.statistics)
    assert multiply_adds(model) == count.multiply_adds
    assert round(count.trainable / 1e6, 1) == published
    assert model.output_shape == (None, 512)


def test_iresnet_shrinks_in_its_second_convolutions():
    model = iresnet(18, image_size=(64, 64))

    sides = {
        name: model.get_layer(name).output.shape[1] for name in ("stem_act", "group1_block1_bn2", "group1_block1_bn3")
    }
    assert sides == {"stem_act": 64, "group1_block1_bn2": 64, "group1_block1_bn3": 32}
    assert [model.get_layer(f"group{i}_block2_add").output.shape[1:] for i in (1, 2, 3, 4)] == [
        (32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512)
    ]  # fmt: skip


@pytest.mark.slow
def test_mbf_has_insightfaces_parameters_and_multiply_adds():
    model = mbf()

    assert parameters(model)[0] == pytest.approx(2.06e6, rel=1e-3)
    assert multiply_adds(model) == pytest.approx(437.5e6, rel=2e-4)


def test_a_paired_depthwise_is_a_convolution_in_groups_of_two():
    rng = np.random.default_rng(0)
    image, num_pairs = rng.normal(size=(5, 5, 6)), 3
    inputs = keras.Input((5, 5, 6))
    model = keras.Model(inputs, Blocks("relu", "same").paired_depthwise(inputs, "d"))
    kernels = {name: rng.normal(size=(3, 3, 6, 1)) for name in ("d", "d_other")}
    for name, kernel in kernels.items():
        model.get_layer(name).kernel.assign(kernel)

    found = keras.Model(inputs, model.get_layer("d_sum").output)(image[None].astype("float32"))[0]

    for pair in range(num_pairs):
        both = [pair, pair + num_pairs]
        for out in both:
            other = both[1] if out == both[0] else both[0]
            own, swapped = kernels["d"][:, :, out, 0], kernels["d_other"][:, :, out, 0]
            kernel = np.stack([own, swapped], axis=-1)[..., None]
            expected = numpy_conv(image[..., [out, other]], kernel, 1, 1, 1)[..., 0]
            np.testing.assert_allclose(found[..., out], expected, rtol=1e-4, atol=1e-5)


# HamadYA/GhostFaceNets, backbones/ghost_model.py: depthwise kernels, expansions, channels, squeeze-and-excite, strides.
GHOST = list(
    zip(
        [3, 3, 3, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5, 5, 5],
        [16, 48, 72, 72, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960, 960, 512],
        [16, 24, 24, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160, 160, 160],
        [0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 1, 0, 1],
        [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1],
        strict=True,
    )
)


def count_ghostfacenet(embedding_size=512, width=1.3):
    """GhostFaceNetV1-1.3-1 by hand: every half is a 1x1 convolution, the other half a 3x3 depthwise one of it."""

    def four(channels):
        return max(4, int(channels + 2) // 4 * 4)

    count = HandCount(112)

    def normed(channels, is_linear):
        count.bn(channels)
        if not is_linear:
            count.prelu(channels)

    def ghost(inputs, outputs, is_linear):
        count.conv(1, inputs, outputs // 2)
        normed(outputs // 2, is_linear)
        count.depthwise(3, outputs // 2)
        normed(outputs // 2, is_linear)

    inputs = four(16 * width)
    count.conv(3, 3, inputs)
    normed(inputs, is_linear=False)
    for kernel, expansion, channels, has_squeeze, stride in GHOST:
        middle, outputs, before = four(expansion * width), four(channels * width), count.side
        ghost(inputs, middle, is_linear=False)
        if stride == 2:
            count.depthwise(kernel, middle, 2)
            count.bn(middle)
        after = count.side
        if has_squeeze:
            count.side = 1
            count.conv(1, middle, four(middle / 4), bias=True)
            count.prelu(four(middle / 4))
            count.conv(1, four(middle / 4), middle, bias=True)
            count.side = after
        ghost(middle, outputs, is_linear=True)
        if stride == 2 or inputs != outputs:
            count.side = before
            count.depthwise(kernel, inputs, stride)
            count.bn(inputs)
            count.conv(1, inputs, outputs)
            count.bn(outputs)
        inputs = outputs
    last = four(512 * width)
    count.conv(1, inputs, last)
    normed(last, is_linear=False)
    count.depthwise(7, last)
    count.bn(last)
    count.conv(1, last, embedding_size)
    count.bn(embedding_size)
    return count


@pytest.mark.slow
def test_ghostfacenet_has_the_parameters_and_multiply_adds_of_its_table():
    model = build_backbone(ModelConfig(backbone="ghostfacenet_v1", embedding_size=512))

    count = count_ghostfacenet()
    assert parameters(model) == (count.trainable, count.trainable + count.statistics)
    assert multiply_adds(model) == count.multiply_adds
    assert multiply_adds(ghostfacenet_v1(stem_stride=2)) < 0.3 * multiply_adds(model)


def test_mobilefacenet_s_is_the_small_net_of_the_k210_repository():
    """Its training net has 215,040 parameters without the head, 256 of them biases before batch normalisation."""
    count = HandCount(112)
    count.conv(3, 3, 64, stride=2)
    count.bn(64)
    inputs = 64
    for outputs, stride in (
        [(64, 1), (64, 2)] + [(64, 1)] * 4 + [(128, 2)] + [(128, 1)] * 5 + [(128, 2)] + [(128, 1)] * 2
    ):
        count.depthwise(3, inputs, stride)
        count.bn(inputs)
        count.conv(1, inputs, outputs)
        count.bn(outputs)
        inputs = outputs
    count.depthwise(7, 128)
    count.bn(128)
    count.conv(1, 128, 128)
    count.bn(128)

    model = mobilefacenet_s(activation="leaky_relu")

    assert parameters(model) == (count.trainable, 214_784)
    assert multiply_adds(model) == count.multiply_adds
    assert round(count.multiply_adds / 1e6, 1) == 59.9
    assert not [layer for layer in model.layers if isinstance(layer, keras.layers.Add)]


@pytest.mark.parametrize("name", slow_unless_quick(APPLICATIONS, ()))
def test_an_application_is_the_keras_net_with_fused_norms_and_prelu(name):
    model = application(name, 64)
    options = {} if name.startswith(("MobileNetV3", "Eff")) is False else {"include_preprocessing": False}
    stock = getattr(keras.applications, name)(input_shape=(112, 112, 3), include_top=False, weights=None, **options)

    kinds = {type(layer).__name__ for layer in model.layers}
    assert "BatchNormalization" not in kinds
    assert {"FusedBatchNorm", "PReLU"} <= kinds
    slopes = sum(math.prod(w.shape) for layer in model.layers if isinstance(layer, PReLU) for w in layer.weights)
    added = sum(
        math.prod(w.shape)
        for layer in model.layers
        if layer.name in ("gdc", "gdc_bn", "embedding_conv", "embedding_bn")
        for w in layer.weights
    )
    assert (
        sum(parameters(stock)) - parameters(stock)[0] == sum(parameters(model)) - parameters(model)[0] - slopes - added
    )
    assert (model.input.name, model.layers[-1].name, model.output_shape) == ("input_1", "embeddings", (None, 64))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output_layer", "kind"),
    [(output, kind) for output in ("GDC", "E", "GAP") for kind in ("own", "leaky_relu")],
)
def test_an_application_freezes_and_folds(output_layer, kind):
    config = ModelConfig(
        backbone="MobileNetV3Small", embedding_size=16, width=0.5, activation=kind, output_layer=output_layer
    )
    assert_folds(build_backbone(config))


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: iresnet(18, 16, image_size=(32, 32)), marks=pytest.mark.slow),
        pytest.param(lambda: mbf(16, image_size=(32, 32)), marks=pytest.mark.slow),
        pytest.param(lambda: ghostfacenet_v1(16, width=0.5, image_size=(32, 32)), marks=pytest.mark.slow),
    ],
    ids=["iresnet18", "mbf", "ghostfacenet_v1"],
)
def test_the_net_freezes_and_folds(build):
    assert_folds(build())


def assert_folds(model):
    random_weights(model)
    faces = np.random.default_rng(1).integers(0, 256, (4, *model.input_shape[1:]), np.uint8)
    expected = model(faces.astype("float32")).numpy()

    graph = optimize(freeze(model), "input_1", "embeddings")

    assert not [node.op for node in graph.node if "BatchNorm" in node.op or node.op == "Rsqrt"]
    found = open_graph(graph, Path("x.pb"))(faces.astype("float32"))
    assert row_cosines(found, expected).min() >= 0.99999


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"backbone": "mbf", "stem": "separable"},
            r"model.stem is an option only of mobilefacenet. Received: stem='separable'",
        ),
        ({"backbone": "iresnet18", "width": 0.5}, "model.width is an option only of mobilefacenet, mobilefacenet_s, "),
        ({"backbone": "mobilefacenet", "output_layer": "E"}, "model.output_layer is an option only of MobileNet, "),
        ({"backbone": "mobilefacenet", "activation": "own"}, "activation = 'own' works only with MobileNet, "),
        (
            {"backbone": "ResNet50V2", "width": 0.5},
            "only the MobileNets support model.width. Received: 0.5 for ResNet50V2",
        ),
        ({"backbone": "ResNet50V2", "padding": "symmetric"}, "model.padding is an option only of mobilefacenet, "),
    ],
)
def test_an_option_that_a_backbone_does_not_have_is_refused(options, message):
    with pytest.raises(FaceError, match=message):
        build_backbone(ModelConfig(**options))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetV2B0", "MobileNetV2"])
def test_an_application_with_its_own_activations_can_be_written_and_read_again(name, tmp_path):
    """MobileNetV3 has `x + 3.0` between its layers, which an .h5 cannot say."""
    model = application(name, embedding_size=8, activation="own")
    faces = parity_faces(num_faces=2).astype("float32")

    save_h5(model, tmp_path / "a.h5")

    np.testing.assert_array_equal(load_model(tmp_path / "a.h5")(faces, training=False), model(faces, training=False))


@pytest.mark.slow
def test_a_network_that_scales_its_own_input_is_refused(monkeypatch):
    monkeypatch.setattr(backbones, "APPLICATIONS", ("EfficientNetB0",))
    with pytest.raises(ValueError, match=r"EfficientNetB0 scales its input.*rescaling"):
        application("EfficientNetB0")
