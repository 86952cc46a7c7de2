"""EdgeFace: parameters and FLOPs of the paper, counted by hand from its tables, and what exports make of the net."""

import math
from dataclasses import dataclass

import keras
import numpy as np
import pytest

from backbones import build_backbone
from edgeface import SIZES, edgeface
from facelib.errors import FaceError
from facelib.models.fake_quant_net import fake_quantized
from facelib.models.registry import EDGEFACES, ModelConfig
from facelib.runtimes.keras_h5 import load_model, save_h5
from facelib.unit_vectors import row_cosines
from tests.helpers.net_exports import NetExports
from tests.helpers.slow import slow_unless_quick

# Channels and blocks of the groups, heads (timm's edgenext.py); gamma, M parameters, MFLOPs (otroshi/edgeface, README).
PAPER = {
    "edgeface_xxs": ((24, 48, 88, 168), (2, 2, 6, 2), 4, 0.0, 1.24, 94.72),
    "edgeface_xs": ((32, 64, 100, 192), (3, 3, 9, 3), 4, 0.6, 1.77, 154.00),
    "edgeface_s": ((48, 96, 160, 304), (3, 3, 9, 3), 8, 0.5, 3.65, 306.12),
}


@dataclass
class Count:
    """Counts as the paper does: two FLOPs for a multiply-add, one for the bias of a convolution that is no linear layer
    and for each value of the last mean, none for normalisation and activation."""

    gamma: float
    parameters: int = 0
    multiply_adds: int = 0
    others: int = 0

    def conv(self, positions, kernel, inputs, outputs):
        self.parameters += kernel * inputs * outputs + outputs
        self.multiply_adds += positions * kernel * inputs * outputs
        self.others += positions * outputs

    def linear(self, positions, inputs, outputs):
        rank = max(2, int(min(inputs, outputs) * self.gamma))
        weights = rank * (inputs + outputs) if self.gamma else inputs * outputs
        self.parameters += weights + outputs
        self.multiply_adds += positions * weights


def count_by_hand(channels, blocks, heads, gamma):
    count, side, before = Count(gamma), 112, 3
    for group, (width, num_blocks) in enumerate(zip(channels, blocks, strict=True)):
        stride = 2 if group else 4
        side //= stride
        positions = side * side
        count.parameters += 2 * (before if group else width)  # a normalisation before or after
        count.conv(positions, stride**2, before, width)
        for block in range(num_blocks):
            if group and block == num_blocks - 1:
                num_parts = (2, 2, 3, 4)[group]
                for _ in range(num_parts - 1):
                    count.conv(positions, 9, 1, math.ceil(width / num_parts))
                if group == 1:
                    count.conv(positions, 1, 64, width)
                count.parameters += 3 * width + heads
                count.linear(positions, width, 3 * width)
                count.linear(positions, width, width)
                count.multiply_adds += 2 * positions * width * width // heads
            else:
                count.conv(positions, (3, 5, 7, 9)[group] ** 2, 1, width)
            count.parameters += 3 * width
            count.linear(positions, width, 4 * width)
            count.linear(positions, 4 * width, width)
        before = width
    count.parameters += 2 * before
    count.others += positions * before
    count.linear(1, before, 512)
    return count


def multiply_adds(model):
    """Of convolutions and of attention. The linear map of the positions is a constant in a deployed net."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            total += math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
        elif type(layer).__name__ == "CrossCovariance":
            _, height, width, channels = layer.output.shape
            total += 2 * height * width * channels * channels // layer.num_heads
    return total


def parameters(model):
    return sum(math.prod(weight.shape) for weight in model.weights)


@pytest.mark.parametrize("name", slow_unless_quick(EDGEFACES, {"edgeface_xxs"}))
def test_the_net_has_the_parameters_and_flops_of_the_paper(name):
    *structure, millions, mega_flops = PAPER[name]
    model = edgeface(name)

    count = count_by_hand(*structure)
    assert parameters(model) == count.parameters
    assert round(count.parameters / 1e6, 2) == millions
    assert round((2 * count.multiply_adds + count.others) / 1e6, 2) == mega_flops
    assert multiply_adds(model) == count.multiply_adds - 14 * 14 * 64 * structure[0][1]
    assert (model.input.name, model.layers[-1].name, model.output_shape) == ("input_1", "embeddings", (None, 512))


def test_the_exact_counts_are_those_of_the_docstring():
    for name, count in zip(EDGEFACES, (1_244_744, 1_770_492, 3_652_520), strict=True):
        assert f"{count:,}" in edgeface.__doc__
        assert count_by_hand(*PAPER[name][:4]).parameters == count
    assert tuple(SIZES) == EDGEFACES


def test_gelu_is_the_own_activation_and_others_replace_it():
    kinds = [
        {type(layer).__name__ for layer in edgeface("edgeface_xxs", activation=kind, image_size=(32, 32)).layers}
        for kind in ("own", "prelu", "relu")
    ]

    assert [("PReLU" in each, "ReLU" in each) for each in kinds] == [(False, False), (True, False), (False, True)]
    config = ModelConfig(backbone="edgeface_xxs", activation="own", embedding_size=16)
    activation = build_backbone(config).get_layer("group1_block1_act").activation
    x = np.linspace(-3, 3, 7, dtype="float32")
    expected = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    np.testing.assert_allclose(activation(x), expected, atol=1e-6)


def test_each_part_takes_the_part_before_it():
    """100 channels in three parts: 34, 34 and 32. The last one passes unchanged."""
    model = edgeface("edgeface_xs", image_size=(32, 32))

    parts = [model.get_layer(f"group3_block9_part{part}") for part in (1, 2, 3)]
    assert [(layer.start, layer.stop) for layer in parts] == [(0, 34), (34, 68), (68, 100)]
    terms = [tensor._keras_history.operation.name for tensor in model.get_layer("group3_block9_part2_add").input]
    assert terms == ["group3_block9_part1_dw", "group3_block9_part2"]
    joined = [tensor._keras_history.operation.name for tensor in model.get_layer("group3_block9_parts").input]
    assert joined == ["group3_block9_part1_dw", "group3_block9_part2_dw", "group3_block9_part3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "edgeface_m"}, "name is one of edgeface_xxs, edgeface_xs, edgeface_s. Received: name='edgeface_m'"),
        ({"image_size": (112, 100)}, "multiples of 16 from 32 on. Received: image_size=(112, 100)"),
        ({"image_size": (16, 16)}, "multiples of 16 from 32 on. Received: image_size=(16, 16)"),
        ({"activation": "elu"}, "activation is one of"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError) as caught:
        edgeface(**{"name": "edgeface_xxs", **arguments})
    assert message in str(caught.value)


def test_it_has_no_width():
    with pytest.raises(FaceError, match="width is an option only of"):
        build_backbone(ModelConfig(backbone="edgeface_xxs", width=0.5))


# ------------------------------------------------------------------------------------------------------------- exports


NETS = {
    "small": ("edgeface_xxs", "own", 64),
    "xxs": ("edgeface_xxs", "prelu", 112),
    "xs": ("edgeface_xs", "own", 112),
    "s": ("edgeface_s", "relu", 112),
}


@pytest.fixture(scope="module", params=slow_unless_quick(NETS, {"small"}))
def net(request):
    name, kind, side = NETS[request.param]
    keras.utils.set_random_seed(0)
    return NetExports(edgeface(name, activation=kind, image_size=(side, side)))


def test_an_h5_holds_the_same_net(net, tmp_path):
    save_h5(net.model, tmp_path / "m.h5")

    np.testing.assert_array_equal(load_model(tmp_path / "m.h5")(net.faces, training=False), net.expected)


def test_the_graph_computes_the_same_and_its_positions_are_one_constant(net):
    assert net.cosines(net.run_graph()).min() >= 0.99999
    assert not {"MatMul", "Tile", "Sin", "Cos"} & {node.op for node in net.graph.node}


@pytest.mark.parametrize("opset", [11, 17, 21])
def test_onnx_computes_the_same(net, opset):
    assert net.cosines(net.run_onnx(opset)).min() >= 0.99999


def test_float_tflite_computes_the_same(net):
    assert net.cosines(net.run_tflite("float")).min() >= 0.99999


def test_int8_tflite_computes_nearly_the_same(net):
    """With these random weights, the worst cosine is about 0.998; without the mean, 0.985."""
    found = net.run_tflite("int8")

    assert row_cosines(found, net.expected).min() >= 0.99
    assert net.cosines(found).min() >= 0.95


def test_training_for_int8_is_refused(net):
    with pytest.raises(FaceError, match="has a ChannelNorm with weights, 'stem_norm'"):
        fake_quantized(net.model, "x.h5")
