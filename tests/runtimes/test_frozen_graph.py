"""Graph files: freezing, folding, names, and files that are no graphs."""

import numpy as np
import pytest
import tensorflow as tf

from facelib.errors import FaceError
from facelib.export.fold_batch_norm import fold_batch_norms
from facelib.export.freeze import freeze
from facelib.export.optimize import optimize
from facelib.runtimes.frozen_graph import check_names, load_graph, open_frozen, open_graph, save_graph
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


@pytest.fixture
def small_graph():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 2], "faces")
        is_training = tf.compat.v1.placeholder(tf.bool, [], "is_training")
        tf.identity(x * 2.0, "vectors")
        tf.where(is_training, x, -x, name="switched")
    return graph.as_graph_def()


def test_a_graph_file_reads_back_and_runs(tmp_path, small_graph):
    save_graph(small_graph, tmp_path / "g.pb")

    run = open_frozen(tmp_path / "g.pb", "faces", "vectors:0", threads=1)

    np.testing.assert_array_equal(run([[1, 2], [3, 4]]), [[2, 4], [6, 8]])
    with pytest.raises(FaceError, match="--crop"):
        run(np.zeros((1, 3)))


def test_missing_names_list_what_there_is(small_graph):
    with pytest.raises(FaceError, match=r"no node 'input_1'.*faces.*--input"):
        check_names(small_graph, "g.pb", "input_1", "vectors")
    with pytest.raises(FaceError, match=r"no node 'embeddings'.*vectors.*--output"):
        check_names(small_graph, "g.pb", "faces", "embeddings")
    with pytest.raises(FaceError, match="depends on faces, not on 'is_training'"):
        check_names(small_graph, "g.pb", "is_training", "vectors")
    with pytest.raises(FaceError, match=r"one input.*is_training"):
        check_names(small_graph, "g.pb", "faces", "switched")


@pytest.mark.parametrize("content", [b"hello, this is no graph", b"\x08\x01\x12\x00", b"\x0a\x03\x0a\x01x"])
def test_a_file_that_is_no_graph_is_one_clear_line(tmp_path, content):
    (tmp_path / "x.pb").write_bytes(content)
    with pytest.raises(FaceError, match=r"x\.pb.*graph"):
        load_graph(tmp_path / "x.pb")


def test_a_truncated_graph_is_refused(tmp_path):
    graph = freeze(random_weights(fused_net_without_convolutions()))
    data = graph.SerializeToString()
    (tmp_path / "cut.pb").write_bytes(data[: len(data) // 2])
    with pytest.raises(FaceError, match=r"damaged|no TensorFlow graph|no node"):
        open_frozen(tmp_path / "cut.pb")


def test_variables_are_refused(tmp_path):
    graph = tf.Graph()
    with graph.as_default():
        tf.compat.v1.get_variable("w", [2], use_resource=True)
    save_graph(graph.as_graph_def(), tmp_path / "v.pb")
    with pytest.raises(FaceError, match=r"variables.*freeze"):
        load_graph(tmp_path / "v.pb")
