"""The scaling of pixels goes into the first convolution of an int8 net: a layer less over the largest map."""

import keras
import numpy as np
import pytest
from keras import layers

from facelib.export.freeze import freeze
from facelib.export.int8_graph import fold_input_scale
from facelib.models.layers import PixelScale
from facelib.runtimes.frozen_graph import open_graph

MEAN, STD = (127.5, 120.0, 110.0), (128.0, 60.0, 58.0)


def graph_of(*stack, std=STD):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((12, 12, 3), name="input_1")
    x = scaled = PixelScale(MEAN, std, name="pixel_scale")(x)
    for layer in stack:
        x = layer(x)
    x = x if stack else layers.Concatenate(name="both")([layers.Conv2D(3, 1, name="conv")(scaled), scaled])
    x = layers.Activation("linear", name="embeddings")(layers.Flatten(name="flat")(x))
    return freeze(keras.Model(inputs, x, name="small"))


def run(graph):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 12, 12, 3)).astype(np.float32)
    return open_graph(graph, "the graph", "input_1", "embeddings")(pixels)


def operations(graph):
    return [node.op for node in graph.node if node.op in ("RealDiv", "Mul", "Sub")]


@pytest.mark.parametrize("std", [128.0, STD])
@pytest.mark.parametrize(
    "stack",
    [
        (layers.Conv2D(4, 3, 2, "same", name="conv"),),
        (layers.ZeroPadding2D(1, name="pad"), layers.Conv2D(4, 3, 2, name="conv")),
    ],
    ids=["conv", "pad_conv"],
)
def test_the_first_convolution_divides(stack, std):
    graph = graph_of(*stack, std=std)

    folded = fold_input_scale(graph, "input_1", "embeddings")

    assert len(operations(graph)) == 2 and operations(folded) == ["Sub"]
    np.testing.assert_allclose(run(folded), run(graph), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "stack",
    [(layers.DepthwiseConv2D(3, name="dw"),), (layers.ReLU(6.0, name="relu"), layers.Conv2D(4, 3, name="conv")), ()],
    ids=["depthwise", "relu_between", "read_by_others"],
)
def test_what_is_no_plain_convolution_stays(stack):
    graph = graph_of(*stack)

    assert fold_input_scale(graph, "input_1", "embeddings") == graph
