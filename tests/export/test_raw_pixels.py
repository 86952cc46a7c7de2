"""Nets that take other pixels than ours: int8 takes raw RGB pixels all the same, and a wrong scaling is named."""

import numpy as np
import pytest
import tensorflow as tf

import pb_2_tflite
from facelib.data.synthetic.faces import encode_jpeg, synthetic_face
from facelib.data.verification.bins import write_bin
from facelib.errors import FaceError
from facelib.export.graph_input import load_sized, with_raw_pixels
from facelib.export.parity import parity_faces
from facelib.model_input import Io, to_model_input
from facelib.runtimes.frozen_graph import open_graph, save_graph
from facelib.runtimes.tflite import TfliteEmbedder
from facelib.sidecar import read_sidecar, write_sidecar
from facelib.unit_vectors import normalize, row_cosines
from tests.helpers.tf1_graphs import freeze_linzmin, run_as_it_is

LINZMIN = ["--output", "embeddings/l2_normalize", "--color", "bgr"]


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    path = tmp_path_factory.mktemp("crops") / "people.bin"
    write_bin(path, [encode_jpeg(synthetic_face(3, i, 0), 95) for i in range(40)], [False] * 20)
    return str(path)


def freeze_mean_of_parts(path, io):
    """Means over a grid of 2x2, in the layout of `io`: BGR and the scaling are up to the caller."""
    with tf.Graph().as_default() as graph:
        shape = (*io.size, 3) if io.layout == "nhwc" else (3, *io.size)
        x = tf.compat.v1.placeholder(tf.float32, [None, *shape], io.input)
        x = tf.transpose(x, [0, 2, 3, 1]) if io.layout == "nchw" else x
        tf.reshape(tf.nn.avg_pool2d(x, 56, 56, "SAME"), [-1, 12], name=io.output)
    save_graph(graph.as_graph_def(), path)
    return path


@pytest.mark.parametrize("io", [
    Io(), Io(colour="bgr"), Io(pixels="unit"), Io(pixels="imagenet", colour="bgr"), Io(pixels="pm1", layout="nchw"),
    Io(pixels="pm1_exact", colour="bgr", layout="nchw", size=(112, 96)),
], ids=str)  # fmt: skip
def test_scaling_order_and_layout_become_part_of_the_graph(tmp_path, io):
    path = freeze_mean_of_parts(tmp_path / "g.pb", io)
    graph, io = load_sized(path, io)

    folded, taken = with_raw_pixels(graph, io)

    faces = parity_faces()
    expected = open_graph(graph, path)(to_model_input(faces, io))
    np.testing.assert_allclose(open_graph(folded, path)(to_model_input(faces, taken)), expected, rtol=1e-5, atol=1e-5)
    assert (taken.pixels, taken.colour, taken.layout, taken.size) == ("raw", "rgb", "nhwc", io.size)


def test_int8_of_a_net_that_takes_scaled_bgr_takes_raw_rgb(tmp_path, crops):
    pb = freeze_linzmin(tmp_path / "frozen.pb")

    pb_2_tflite.main([str(pb), "--mode", "int8", "--calibration", crops, *LINZMIN, "--pixels", "pm1"])

    io = read_sidecar(tmp_path / "model_int8.tflite").io
    assert (io.dtype, io.pixels, io.colour) == ("uint8", "raw", "rgb")
    faces = parity_faces()
    fed = to_model_input(faces, Io(pixels="pm1", colour="bgr"))
    expected = normalize(run_as_it_is(pb, fed, "input_1", "embeddings/l2_normalize"))
    assert row_cosines(TfliteEmbedder(tmp_path / "model_int8.tflite", io)(faces), expected).min() > 0.99


def test_a_float_model_takes_raw_pixels_on_request(tmp_path):
    pb = freeze_linzmin(tmp_path / "frozen.pb")
    pb_2_tflite.main([str(pb), *LINZMIN, "--pixels", "pm1", "--raw-pixels"])

    path, faces = tmp_path / "model_float.tflite", parity_faces()
    fed = to_model_input(faces, Io(pixels="pm1", colour="bgr"))
    expected = run_as_it_is(pb, fed, "input_1", "embeddings/l2_normalize")
    np.testing.assert_allclose(TfliteEmbedder(path, Io(output="embeddings/l2_normalize"))(faces), expected, atol=1e-5)


def test_pixels_that_the_net_was_not_trained_on_are_named(tmp_path, crops):
    pb = freeze_linzmin(tmp_path / "frozen.pb")
    words = [str(pb), "--mode", "int8", "--calibration", crops, *LINZMIN]

    with pytest.raises(FaceError, match=r"with --pixels raw the embeddings of 32 crops hardly differ .mean cosine 0"):
        pb_2_tflite.main(words)
    assert [path.name for path in tmp_path.iterdir()] == ["frozen.pb"]


def test_a_net_that_gives_everybody_the_same_is_refused(tmp_path, crops):
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 112, 112, 3], "input_1")
        x = tf.reduce_mean(tf.nn.conv2d(x, tf.ones([1, 1, 3, 3]), 4, "VALID"), [1, 2])
        tf.add(tf.nn.relu6(x), [1e4, 1e3, 0.0], name="embeddings")
    save_graph(graph.as_graph_def(), tmp_path / "frozen.pb")

    with pytest.raises(FaceError, match="the same embedding for all 32 faces"):
        pb_2_tflite.main([str(tmp_path / "frozen.pb"), "--mode", "int8", "--calibration", crops, "--pixels", "raw"])
    assert [path.name for path in tmp_path.iterdir()] == ["frozen.pb"]


def test_an_embedding_of_another_length_than_the_sidecar_says_is_refused(tmp_path):
    pb = freeze_linzmin(tmp_path / "frozen.pb")
    io = Io(output="embeddings/l2_normalize", pixels="pm1", embedding_size=99)
    write_sidecar(pb, kind="frozen_pb", made_from=None, io=io)

    with pytest.raises(FaceError, match=r"says embedding_size=99, but embeddings/l2_normalize has 8"):
        pb_2_tflite.main([str(pb)])
    assert not (tmp_path / "model_float.tflite").exists()
