"""What [model] sets on a built network: normalisation, slopes, first kernels."""

import keras
import numpy as np
import pytest

from facelib.models.blocks import Blocks, embedding_output
from facelib.models.layers import FusedBatchNorm, PReLU
from facelib.models.registry import ModelConfig
from facelib.models.settings import apply_settings
from facelib.runtimes.keras_h5 import load_model, save_h5


def small(**options):
    keras.utils.set_random_seed(3)
    model = ModelConfig(**options)
    blocks, faces = Blocks(model.activation, "same"), keras.Input((32, 32, 3), name="input_1")
    x = blocks.conv(faces, 64, 3, 4, "stem")
    for name in ("first", "second"):
        x = blocks.conv(x, 64, 1, 1, name)
    net = keras.Model(faces, embedding_output(blocks.global_depthwise(x, "gdc")))
    apply_settings(net, model)
    return net


def layers_of(net, kind):
    return [layer for layer in net.layers if isinstance(layer, kind)]


def test_the_settings_reach_every_layer_and_the_file(tmp_path):
    net = small(bn_momentum=0.99, bn_epsilon=1e-5, activation="leaky_relu", slope=0.3)
    save_h5(net, tmp_path / "net.h5")
    loaded = load_model(tmp_path / "net.h5")

    for each in (net, loaded):
        assert {(layer.momentum, layer.epsilon) for layer in layers_of(each, FusedBatchNorm)} == {(0.99, 1e-5)}
        assert {layer.negative_slope for layer in layers_of(each, keras.layers.LeakyReLU)} == {0.3}
    faces = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(net(faces), loaded(faces))


def test_prelu_starts_at_the_slope():
    assert {float(value) for layer in layers_of(small(slope=0.0), PReLU) for value in layer.alpha.numpy()} == {0.0}


def test_without_settings_a_network_keeps_its_own():
    net = small()

    assert {(layer.momentum, layer.epsilon) for layer in layers_of(net, FusedBatchNorm)} == {(0.9, 1e-3)}
    assert {float(value) for layer in layers_of(net, PReLU) for value in layer.alpha.numpy()} == {0.25}


@pytest.mark.parametrize(
    ("kind", "spread"), [("normal", 0.1), ("glorot_uniform", 1 / 8), ("glorot_normal", 1 / 8), ("he_normal", 32**-0.5)]
)
def test_each_kernel_is_drawn_anew_with_the_spread_of_its_kind(kind, spread):
    """Of 1x1 convolutions from 64 channels to 64."""
    net, again = small(kernel_init=kind), small(kernel_init=kind)
    twins = [net.get_layer(name).kernel.numpy() for name in ("first", "second")]

    assert twins[0].std() == pytest.approx(spread, rel=0.05)
    assert not np.array_equal(*twins)
    np.testing.assert_array_equal(again.get_layer("second").kernel, twins[1])
