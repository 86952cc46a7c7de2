"""Batch normalisation of any origin is folded into the graph without changing what it computes."""

import numpy as np
import pytest
import tensorflow as tf

from facelib.errors import FaceError
from facelib.export.fold_batch_norm import constant_node, constants_of, fold_batch_norms, fold_constants, with_nodes
from facelib.export.freeze import freeze
from facelib.export.optimize import optimize
from facelib.runtimes.frozen_graph import open_graph
from tests.helpers.random_weights import random_weights


def ops_of(graph):
    return {node.op for node in graph.node}


def pixels(num_faces=3, size=16):
    return np.random.default_rng(1).uniform(0, 255, (num_faces, size, size, 3)).astype("float32")


def stock_keras_net():
    """Stock BatchNormalization after Conv2D and DepthwiseConv2D, which Keras 3 lowers to Mul, AddV2 and Rsqrt."""
    import keras

    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = layers.BatchNormalization(name="bn0")(inputs)
    x = layers.Conv2D(8, 3, use_bias=False, name="conv1")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="bn1")(x))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="dw")(x)
    x = layers.BatchNormalization(name="bn2")(x)
    return keras.Model(inputs, layers.Flatten()(x))


def fused_net_without_convolutions():
    import keras

    from facelib.models.layers import FusedBatchNorm, PReLU

    inputs = keras.Input((16, 16, 3))
    x = PReLU(name="act")(FusedBatchNorm(name="bn")(inputs))
    return keras.Model(inputs, keras.layers.Flatten()(x))


@pytest.mark.parametrize("build, most_left", [(stock_keras_net, 0.6), (fused_net_without_convolutions, 0.8)])
def test_batch_norm_of_any_origin_folds_exactly(build, most_left):
    model = random_weights(build())
    faces = pixels()

    frozen = freeze(model)
    optimized = optimize(frozen, "input_1", "embeddings")

    assert ops_of(frozen) & {"Rsqrt", "FusedBatchNormV3"}
    assert not ops_of(optimized) & {"Rsqrt", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"}
    expected = model(faces, training=False).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(open_graph(optimized, "o")(faces), expected, atol=1e-5 * scale)
    assert len(optimized.node) < most_left * len(frozen.node)


def test_a_scaled_convolution_that_something_else_reads_stays():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4, 4, 3], "input_1")
        y = tf.nn.conv2d(x, tf.ones([1, 1, 3, 5]), 1, "SAME")
        tf.add(y * np.arange(5, dtype="float32"), y, name="embeddings")
    faces = pixels(size=4)

    folded = fold_batch_norms(graph.as_graph_def(), "embeddings")

    np.testing.assert_allclose(
        open_graph(folded, "f")(faces), faces.sum(3, keepdims=True) * (np.arange(5) + 1), rtol=1e-5
    )


def test_batch_norm_that_still_learns_is_refused():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4, 4, 3], "input_1")
        y, *_ = tf.compat.v1.nn.fused_batch_norm(x, tf.ones([3]), tf.zeros([3]), is_training=True)
        tf.identity(y, "embeddings")

    with pytest.raises(FaceError, match="inference mode"):
        fold_batch_norms(graph.as_graph_def(), "embeddings")


def test_constants_are_computed_once_and_the_output_stays_a_node():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 2], "input_1")
        scale = tf.constant([2.0, 3.0]) * tf.constant(0.5) + tf.constant([1.0, 1.0])
        tf.multiply(x, scale, name="embeddings")

    folded = fold_constants(graph.as_graph_def(), "embeddings")

    assert sorted(node.op for node in folded.node) == ["Const", "Mul", "Placeholder"]
    (value,) = constants_of(folded).values()
    np.testing.assert_array_equal(value, [2.0, 2.5])  # 2 * 0.5 + 1, 3 * 0.5 + 1


def test_a_depthwise_convolution_is_scaled_channel_by_channel():
    """Two outputs for each of three inputs: TensorFlow orders them input by input."""
    kernel = np.arange(6, dtype=np.float32).reshape(1, 1, 3, 2) + 1
    scale = np.array([1, 2, 3, 4, 5, 6], np.float32)
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4, 4, 3], "input_1")
        y = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME") * scale
        tf.identity(y, "embeddings")
    faces = pixels(size=4)

    folded = fold_batch_norms(graph.as_graph_def(), "embeddings")

    assert "Mul" not in ops_of(folded)
    expected = np.repeat(faces, 2, axis=3) * kernel.ravel() * scale
    np.testing.assert_allclose(open_graph(folded, "f")(faces), expected, rtol=1e-6)


def test_a_graph_with_other_nodes_keeps_its_versions():
    graph = tf.Graph()
    with graph.as_default():
        tf.constant(1.0, name="a")
    before = graph.as_graph_def()

    after = with_nodes(before, [constant_node("b", np.float32([5]))])

    assert after.versions == before.versions
    np.testing.assert_array_equal(constants_of(after)["b"], [5])
