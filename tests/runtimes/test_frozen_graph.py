"""Graph files: reading, running, names, and files that are no graphs."""

import numpy as np
import pytest
import tensorflow as tf

from facelib.errors import FaceError
from facelib.export.freeze import freeze
from facelib.runtimes.frozen_graph import check_names, load_graph, open_frozen, save_graph


def small_model():
    import keras

    inputs = keras.Input((16, 16, 3))
    return keras.Model(inputs, keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(inputs)))


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
    with pytest.raises(FaceError, match=r"The output .* depends on faces, not on 'is_training'"):
        check_names(small_graph, "g.pb", "is_training", "vectors")
    with pytest.raises(FaceError, match=r"one input.*is_training"):
        check_names(small_graph, "g.pb", "faces", "switched")


@pytest.mark.parametrize("content", [b"hello, this is no graph", b"\x08\x01\x12\x00", b"\x0a\x03\x0a\x01x"])
def test_a_file_that_is_no_graph_is_one_clear_line(tmp_path, content):
    (tmp_path / "x.pb").write_bytes(content)
    with pytest.raises(FaceError, match=r"x\.pb.*graph"):
        load_graph(tmp_path / "x.pb")


def test_a_truncated_graph_is_refused(tmp_path):
    graph = freeze(small_model())
    data = graph.SerializeToString()
    (tmp_path / "cut.pb").write_bytes(data[: len(data) // 2])
    with pytest.raises(FaceError, match=r"damaged|no TensorFlow graph|not a TensorFlow graph|no node"):
        open_frozen(tmp_path / "cut.pb")


def test_variables_are_refused(tmp_path):
    graph = tf.Graph()
    with graph.as_default():
        tf.compat.v1.get_variable("w", [2], use_resource=True)
    save_graph(graph.as_graph_def(), tmp_path / "v.pb")
    with pytest.raises(FaceError, match=r"variables.*freeze"):
        load_graph(tmp_path / "v.pb")
