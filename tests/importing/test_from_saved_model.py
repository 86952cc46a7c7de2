"""SavedModels of Keras 2: the net that they describe, with their variables. Nothing in them is run."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import import_model
from facelib.errors import FaceError
from facelib.runtimes.keras_h5 import load_model
from tests.helpers.keras2_files import SIZE, Keras2Net

FACES = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.float32)


def field(number, data):
    """One field of a protocol buffer, with its length."""
    size, length = len(data), b""
    while size >= 0x80:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def saved_model(folder, net=None, op="Const"):
    """A SavedModel with a graph of one node, and the description and variables of `net`."""
    folder.mkdir()
    proto = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    function = proto.meta_graphs.add().graph_def.library.function.add()
    function.signature.name = "serve"
    function.node_def.add(name="node", op=op)
    (folder / "saved_model.pb").write_bytes(proto.SerializeToString())
    if net is None:
        return folder
    text = json.dumps({"class_name": "Functional", "keras_version": "2.9.0", "config": net.config()["config"]})
    root = field(3, b"root") + field(4, b"_tf_keras_network") + field(5, text.encode())
    (folder / "keras_metadata.pb").write_bytes(field(1, root))
    layers = [layer["name"] for layer in net.layers if net.weights[layer["name"]]]
    tree = {}
    for number, name in enumerate(layers):
        keys = [key.split("/")[1].removesuffix(":0") for key in net.names[name]]
        values = map(tf.Variable, net.weights[name])
        tree[f"layer_with_weights-{number}"] = tf.train.Checkpoint(**dict(zip(keys, values, strict=True)))
    tf.train.Checkpoint(**tree).write(str(folder / "variables" / "variables"))
    return folder


def test_the_net_that_a_saved_model_describes_gets_its_variables(tmp_path, capsys):
    net = Keras2Net().body().head("arcface")
    source = saved_model(tmp_path / "saved", net)

    assert import_model.main([str(source), str(tmp_path / "out.h5"), "--pixels", "pm1_exact"]) == 0

    received = load_model(tmp_path / "out.h5")(FACES, training=False).numpy()
    np.testing.assert_allclose(received, net.expected((FACES - 127.5) / 127.5), atol=1e-4)
    assert "margin head 'arcface' (NormDense) was left out" in capsys.readouterr().out


def test_a_saved_model_that_reads_files_is_refused_by_the_operation(tmp_path):
    source = saved_model(tmp_path / "saved", Keras2Net().body(), op="ReadFile")

    with pytest.raises(FaceError, match=r"'ReadFile'.*not run"):
        import_model.main([str(source), str(tmp_path / "out.h5"), "--pixels", "raw"])


def test_a_saved_model_without_keras_says_the_road(tmp_path):
    with pytest.raises(FaceError, match=r"does not describe a Keras model.*tf2onnx"):
        import_model.main([str(saved_model(tmp_path / "saved")), str(tmp_path / "out.h5"), "--pixels", "raw"])


def test_variables_of_another_shape_are_named(tmp_path):
    net = Keras2Net().body()
    net.weights["dense"][0] = np.zeros((3, 3), np.float32)
    source = saved_model(tmp_path / "saved", net)

    with pytest.raises(FaceError, match=r"no variable 'kernel' \[80, 6\] for the layer 'dense'"):
        import_model.main([str(source), str(tmp_path / "out.h5"), "--pixels", "raw"])


def test_a_damaged_saved_model_is_one_line(tmp_path):
    source = saved_model(tmp_path / "saved")
    (source / "saved_model.pb").write_bytes(b"\x08\x01\x12\xff\xff")

    with pytest.raises(FaceError, match="not a SavedModel, or it is damaged"):
        import_model.main([str(source), str(tmp_path / "out.h5"), "--pixels", "raw"])
