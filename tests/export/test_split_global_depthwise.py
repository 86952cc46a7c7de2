"""The global depthwise convolution, split for int8 and joined again; TensorFlow computes the expected values."""

import numpy as np
import pytest
import tensorflow as tf

from facelib.export.fold_batch_norm import constants_of
from facelib.export.int8_graph import has_fake_quant, join_global_depthwise, split_global_depthwise, without_fake_quant
from facelib.runtimes.frozen_graph import open_graph

CHANNELS = 4
RANGES = np.array([1.0, 0.1, 0.02, 3.0], np.float32)  # of the channels of a map


def draw(size, kernel_size, num_maps=5):
    """(maps [N, size, size, C], kernel [k, k, C, 1])."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(num_maps, size, size, CHANNELS)) * RANGES
    return maps.astype(np.float32), rng.normal(size=(kernel_size, kernel_size, CHANNELS, 1)).astype(np.float32)


def graph_of(size, kernel, *, fake_quant=False):
    """One depthwise convolution over a map that is the input."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, size, size, CHANNELS], "input_1")
        if fake_quant:
            x = tf.quantization.fake_quant_with_min_max_args(x, -1, 1, name="net/rounded/fq")
        y = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "VALID", name="gdc")
        tf.identity(y, "embeddings")
    return graph.as_graph_def()


def kernels_of(graph):
    constants = constants_of(graph)
    return [constants[node.input[1]] for node in graph.node if node.op == "DepthwiseConv2dNative"]


def test_a_7x7_convolution_becomes_two_of_7_weights_with_the_same_output():
    maps, kernel = draw(7, 7)
    graph = graph_of(7, kernel)

    split = split_global_depthwise(graph, "embeddings", lambda name: maps)

    assert sorted(kernel.shape for kernel in kernels_of(split)) == [(7, 1, CHANNELS, 1), (7, 1, 7 * CHANNELS, 1)]
    expected = np.einsum("nhwc,hwc->nc", maps, kernel[..., 0])
    np.testing.assert_allclose(open_graph(split, "s")(maps).reshape(5, CHANNELS), expected, rtol=1e-4, atol=1e-5)


def test_the_sums_of_columns_have_one_range_in_all_channels():
    """They are one int8 tensor with one scale, so a channel of small values would be lost otherwise."""
    maps, kernel = draw(7, 7)
    graph = graph_of(7, kernel)

    split = split_global_depthwise(graph, "embeddings", lambda name: maps)

    (columns,) = (node.name for node in split.node if node.name.endswith("/columns"))
    sums = open_graph(split, "s", output_name=columns)(maps).reshape(5, 7, CHANNELS)
    largest = np.abs(sums).max((0, 1))
    np.testing.assert_allclose(largest, largest[0], rtol=1e-3)


@pytest.mark.parametrize(("size", "kernel_size"), [(5, 5), (9, 7)])
def test_kernels_that_xnnpack_has_or_that_do_not_cover_the_map_stay(size, kernel_size):
    maps, kernel = draw(size, kernel_size)
    graph = graph_of(size, kernel)

    split = split_global_depthwise(graph, "embeddings", lambda name: maps)

    (found,) = kernels_of(split)
    np.testing.assert_array_equal(found, kernel)


def test_joining_gives_the_first_kernel_back():
    maps, kernel = draw(7, 7)
    split = split_global_depthwise(graph_of(7, kernel), "embeddings", lambda name: maps)

    joined = join_global_depthwise(split, "embeddings")

    (found,) = kernels_of(joined)
    np.testing.assert_allclose(found, kernel, rtol=1e-5, atol=1e-7)
    assert not [node for node in joined.node if node.op == "Reshape"]


def test_fake_quantisation_is_removed_from_all_layers_or_from_those_named():
    maps, kernel = draw(7, 7)
    graph = graph_of(7, kernel, fake_quant=True)

    plain = without_fake_quant(graph, "embeddings")
    of_layer = without_fake_quant(graph, "embeddings", ["rounded"])
    of_another = without_fake_quant(graph, "embeddings", ["stem"])

    assert [has_fake_quant(each) for each in (graph, plain, of_layer, of_another)] == [True, False, False, True]
    expected = np.einsum("nhwc,hwc->nc", maps, kernel[..., 0])  # 3.0 is beyond the fake range -1..1
    np.testing.assert_allclose(open_graph(plain, "p")(maps).reshape(5, CHANNELS), expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(open_graph(graph, "g")(maps).reshape(5, CHANNELS), expected, rtol=1e-2)
