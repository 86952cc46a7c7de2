"""Freezing: names of input and output, any number of faces, float32, and what is refused."""

import keras
import numpy as np
import pytest
from keras import layers

import h5_2_pb
from facelib.errors import FaceError
from facelib.export.freeze import check_slopes, freeze, freeze_file
from facelib.models.layers import PReLU
from facelib.runtimes.frozen_graph import input_size, open_graph
from facelib.runtimes.keras_h5 import save_h5


def small_net(last=None):
    inputs = keras.Input((8, 6, 3), name="faces")
    x = PReLU(name="act")(layers.Conv2D(4, 3, name="conv")(inputs))
    x = layers.Flatten()(x)
    return keras.Model(inputs, last(x) if last else layers.Dense(5)(x))


def test_the_graph_computes_what_the_model_computes_for_any_number_of_faces():
    keras.utils.set_random_seed(0)
    model = small_net()
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 8, 6, 3)).astype(np.float32)

    graph = freeze(model)

    placeholders = [node.name for node in graph.node if node.op == "Placeholder"]
    assert placeholders == ["input_1"] and graph.node[-1].name == "embeddings"
    assert input_size(graph, "input_1") == (8, 6)
    run = open_graph(graph, "g")
    for count in (1, 3):
        np.testing.assert_allclose(run(pixels[:count]), model(pixels[:count]), rtol=1e-5, atol=1e-4)
    assert not [node.op for node in graph.node if "Variable" in node.op or "VarHandle" in node.op]


def test_dropout_is_frozen_in_inference_mode():
    keras.utils.set_random_seed(0)
    model = small_net(last=lambda x: layers.Dropout(0.5)(layers.Dense(5)(x)))
    pixels = np.ones((2, 8, 6, 3), np.float32)

    np.testing.assert_allclose(open_graph(freeze(model), "g")(pixels), model(pixels, training=False), rtol=1e-5)


def test_slopes_up_to_one_pass_and_steeper_ones_name_their_layer(tmp_path):
    model = small_net()
    model.get_layer("act").alpha.assign([1.0, 0.5, -2.0, 0.0])
    check_slopes(model, "a.h5")

    model.get_layer("act").alpha.assign([1.0, 0.5, 1.01, 0.0])
    with pytest.raises(FaceError, match=r"at most 1\. 'a\.h5' has the slope 1\.0100 in layer 'act'"):
        check_slopes(model, "a.h5")


def test_a_model_that_is_no_embedder_is_refused(tmp_path):
    inputs = keras.Input((8, 6, 1))
    save_h5(keras.Model(inputs, layers.Flatten()(inputs)), tmp_path / "grey.h5")

    with pytest.raises(FaceError, match=r"\[N, H, W, 3\] to \[N, D\].*grey\.h5"):
        freeze_file(tmp_path / "grey.h5")


def test_a_model_that_is_replaced_while_it_is_frozen_gives_no_graph(tmp_path, monkeypatch):
    def freeze_and_replace(path):
        frozen = freeze_file(path)
        save_h5(small_net(), path)
        return frozen

    save_h5(small_net(), tmp_path / "embedder.h5")
    monkeypatch.setattr(h5_2_pb, "freeze_file", freeze_and_replace)

    with pytest.raises(FaceError, match=r"embedder\.h5' was replaced while this command ran"):
        h5_2_pb.main([str(tmp_path / "embedder.h5"), "--pixels", "raw", "--color", "rgb", "--layout", "nhwc"])
    assert [path.name for path in tmp_path.iterdir()] == ["embedder.h5"]
