"""MixFaceNet: parameters and FLOPs of the paper, counted by hand from its tables, and what exports make of the net."""

import math
from collections import Counter

import keras
import numpy as np
import pytest

from backbones import build_backbone
from facelib.errors import FaceError
from facelib.models.registry import MIXFACENETS, ModelConfig
from facelib.runtimes.keras_h5 import load_model, save_h5
from facelib.unit_vectors import row_cosines
from mixfacenet import SIZES, mixfacenet
from tests.helpers.net_exports import NetExports
from tests.helpers.slow import slow_unless_quick

# fdbtrs/mixfacenets, backbones/mixnetm.py, version "s": for each of the four groups.
CHANNELS = ((24, 24), (40,) * 4, (80,) * 3, (120, 120, 120, 200, 200, 200))
EXPAND_PARTS = ((2, 2), (1, 2, 2, 2), (1, 1, 1), (2, 2, 2, 1, 1, 1))
KERNELS = ((1, 1), (3, 2, 2, 2), (3, 2, 2), (3, 4, 4, 5, 4, 4))
PROJECT_PARTS = ((2, 2), (1, 2, 2, 2), (2, 2, 2), (2, 2, 2, 1, 2, 2))
EXPANSIONS = ((6, 3), (6,) * 4, (6,) * 3, (6, 3, 3, 6, 6, 6))
REDUCTIONS = ((0, 0), (2,) * 4, (4,) * 3, (2,) * 6)
# Width, channels before the global convolution; M parameters and MFLOPs of the paper's table, the FLOPs cut off.
PAPER = {"mixfacenet_xs": (0.5, 512, 1.04, 161.9), "mixfacenet_s": (1.0, 1024, 3.07, 451.7)}


def eights(channels):
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def split(channels, parts):
    each = channels // parts
    return [channels - each * (parts - 1)] + [each] * (parts - 1)


class Count(Counter):
    """Counts as the authors' count_model_flops does: two FLOPs for a multiply-add and for a normalised value, one for
    a value with an activation or in a mean and for a bias."""

    def conv(self, positions, weights, outputs, is_linear=False, is_prelu=False):
        """A convolution without bias, its normalisation and activation."""
        self["parameters"] += weights + 2 * outputs + (outputs if is_prelu else 0)
        self["multiply_adds"] += positions * weights
        self["others"] += positions * outputs * (2 if is_linear else 3)

    def squeeze(self, positions, channels, middle):
        self["parameters"] += 2 * channels * middle + channels + middle
        self["multiply_adds"] += 2 * channels * middle
        self["others"] += positions * channels + 2 * (channels + middle)

    def block(self, side, inputs, outputs, stride, parts, expansion, reduction, is_prelu):
        middle, (first, kernels, last) = expansion * inputs, parts
        if expansion > 1:
            weights = sum(a * b for a, b in zip(split(inputs, first), split(middle, first), strict=True))
            self.conv(side**2, weights, middle, is_prelu=is_prelu)
        side //= stride
        weights = sum((3 + 2 * k) ** 2 * each for k, each in enumerate(split(middle, kernels)))
        self.conv(side**2, weights, middle, is_prelu=is_prelu)
        if reduction:
            self.squeeze(side**2, middle, middle // (expansion * reduction))
        weights = sum(a * b for a, b in zip(split(middle, last), split(outputs, last), strict=True))
        self.conv(side**2, weights, outputs, is_linear=True)
        return side


def count_by_hand(width, before_global):
    count, side, inputs = Count(), 56, eights(16 * width)
    count.conv(side**2, 27 * inputs, inputs, is_prelu=True)
    count.block(side, inputs, inputs, 1, (1, 1, 1), 1, 0, is_prelu=True)
    for group in range(4):
        for block, channels in enumerate(CHANNELS[group]):
            halves = block == 0 if group in (1, 2) else group == 3 and block == 3
            parts = EXPAND_PARTS[group][block], KERNELS[group][block], PROJECT_PARTS[group][block]
            rest = EXPANSIONS[group][block], REDUCTIONS[group][block], group == 0
            side = count.block(side, inputs, eights(channels * width), 1 + halves, parts, *rest)
            inputs = eights(channels * width)
    assert side == 7
    count.conv(49, inputs * before_global, before_global, is_prelu=True)
    count.conv(1, 49 * before_global, before_global, is_linear=True)
    count.conv(1, 512 * before_global, 512, is_linear=True)
    return count


def multiply_adds(model):
    kinds = keras.layers.Conv2D | keras.layers.DepthwiseConv2D
    convolutions = [layer for layer in model.layers if isinstance(layer, kinds)]
    return sum(math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape) for layer in convolutions)


@pytest.mark.parametrize("name", slow_unless_quick(MIXFACENETS, {"mixfacenet_xs"}))
def test_the_net_has_the_parameters_and_flops_of_the_paper(name):
    width, before_global, millions, mega_flops = PAPER[name]
    model = mixfacenet(name)

    count = count_by_hand(width, before_global)
    assert sum(math.prod(v.shape) for v in model.trainable_variables) == count["parameters"]
    assert multiply_adds(model) == count["multiply_adds"]
    assert round(count["parameters"] / 1e6, 2) == millions
    flops = 2 * count["multiply_adds"] + count["others"]
    assert math.floor(flops / 1e5) / 10 == mega_flops
    assert f"{count['parameters']:,}" in mixfacenet.__doc__
    assert (model.input.name, model.layers[-1].name, model.output_shape) == ("input_1", "embeddings", (None, 512))


def test_the_own_activations_are_prelu_and_swish_and_others_replace_both():
    def kinds(kind):
        net = mixfacenet("mixfacenet_xs", activation=kind, image_size=(32, 32))
        acts = {layer.name: type(layer).__name__ for layer in net.layers if layer.name.endswith("_act")}
        return {acts[f"{name}_act"] for name in ("stem_conv", "group1_block2_dw", "head_conv")}, {
            acts[f"group{k}_block1_{part}_act"] for k in (2, 3, 4) for part in ("expand", "dw", "se_down")
        }

    assert kinds("own") == ({"PReLU"}, {"Activation"})
    assert kinds("prelu") == ({"PReLU"}, {"PReLU"})
    assert kinds("relu6") == ({"ReLU"}, {"ReLU"})
    built = build_backbone(ModelConfig(backbone="mixfacenet_xs", activation="own", embedding_size=16))
    x = np.linspace(-3, 3, 7, dtype="float32")
    np.testing.assert_allclose(built.get_layer("group2_block1_dw_act")(x), x / (1 + np.exp(-x)), atol=1e-6)


def test_parts_have_larger_and_larger_kernels():
    """Group 4 begins with 480 channels, three kernels; its fourth block has five, and 720 = 5 x 144 channels."""
    model = mixfacenet("mixfacenet_s", image_size=(32, 32))

    layers = [model.get_layer(f"group4_block4_dw_part{part}") for part in range(1, 6)]
    assert [layer.kernel.shape[:3] for layer in layers] == [(k, k, 144) for k in (3, 5, 7, 9, 11)]
    assert {layer.output.shape[1] for layer in layers} == {2}  # 32 / 16
    assert model.get_layer("group2_block1_expand").kernel.shape == (1, 1, 24, 144)  # in one part
    assert model.get_layer("group2_block2_expand_part2").kernel.shape == (1, 1, 20, 120)


def test_both_paddings_give_maps_of_the_same_size():
    shapes = [
        {x.name: x.output.shape for x in net.layers if not x.name.endswith("_pad")}
        for net in (mixfacenet("mixfacenet_xs", padding=kind) for kind in ("same", "symmetric"))
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mixfacenet_m"}, "name is one of mixfacenet_xs, mixfacenet_s. Received: name='mixfacenet_m'"),
        ({"image_size": (112, 100)}, "image_size needs multiples of 16. Received: image_size=(112, 100)"),
        ({"padding": "valid"}, "padding is 'same' or 'symmetric'. Received: padding='valid'"),
        ({"activation": "elu"}, "activation is one of"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError) as caught:
        mixfacenet(**{"name": "mixfacenet_xs", **arguments})
    assert message in str(caught.value)
    assert tuple(SIZES) == MIXFACENETS


def test_it_has_no_width():
    with pytest.raises(FaceError, match="width is an option only of"):
        build_backbone(ModelConfig(backbone="mixfacenet_xs", width=0.5))


# ------------------------------------------------------------------------------------------------------------- exports

NETS = {
    "small": ("mixfacenet_xs", "own", 64),
    "xs": ("mixfacenet_xs", "prelu", 112),
    "s": ("mixfacenet_s", "own", 112),
}


@pytest.fixture(scope="module", params=slow_unless_quick(NETS, {"small"}))
def net(request):
    name, kind, side = NETS[request.param]
    keras.utils.set_random_seed(0)
    return NetExports(mixfacenet(name, activation=kind, image_size=(side, side)))


def test_an_h5_holds_the_same_net(net, tmp_path):
    save_h5(net.model, tmp_path / "m.h5")

    np.testing.assert_array_equal(load_model(tmp_path / "m.h5")(net.faces, training=False), net.expected)


def test_the_graph_computes_the_same_with_all_normalisation_in_the_convolutions(net):
    assert net.cosines(net.run_graph()).min() >= 0.99999
    assert not [node.op for node in net.graph.node if "BatchNorm" in node.op or node.op == "Rsqrt"]


@pytest.mark.parametrize("opset", [11, 17, 21])
def test_onnx_computes_the_same(net, opset):
    assert net.cosines(net.run_onnx(opset)).min() >= 0.99999


def test_float_tflite_computes_the_same(net):
    assert net.cosines(net.run_tflite("float")).min() >= 0.99999


@pytest.mark.parametrize("key", slow_unless_quick(("small", "xs"), {"small"}))
def test_int8_tflite_follows_the_net(key):
    """Weights are random: the worst cosines were 0.77 and 0.71. For mixfacenet_s, the calibration takes minutes."""
    name, kind, side = NETS[key]
    keras.utils.set_random_seed(0)
    net = NetExports(mixfacenet(name, activation=kind, image_size=(side, side)))

    assert row_cosines(net.run_tflite("int8"), net.expected).min() >= 0.6
