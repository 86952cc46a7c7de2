"""Models of Keras 2 (.h5), and what an .h5 of a stranger may hold."""

import json
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from facelib.errors import FaceError
from facelib.runtimes.keras_h5 import load_model, save_h5

FACES = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
UNUSED = {"groups": 1, "kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}},
          "kernel_regularizer": None, "kernel_constraint": None}  # fmt: skip


def layer(kind, name, inbound, **config):
    """A layer in the words of Keras 2."""
    config = {"name": name, "trainable": True, "dtype": "float32", **config}
    return {"class_name": kind, "name": name, "config": config,
            "inbound_nodes": [inbound] if inbound else []}  # fmt: skip


def keras2_file(path: Path, *tail, weights=None, dtype="float32"):
    """An .h5 as Keras 2 wrote it: a depthwise convolution, global pooling, the layers of `tail`."""
    body = [layer("InputLayer", "faces", None, batch_input_shape=[None, 8, 8, 3], sparse=False, ragged=False),
            layer("DepthwiseConv2D", "dw", [["faces", 0, 0, {}]], kernel_size=[3, 3], strides=[1, 1], padding="same",
                  depth_multiplier=2, use_bias=False, activation="linear", data_format="channels_last",
                  **UNUSED, dtype=dtype),
            layer("GlobalAveragePooling2D", "pool", [["dw", 0, 0, {}]], data_format="channels_last"),
            *tail]  # fmt: skip
    config = {"name": "net", "layers": body, "input_layers": [["faces", 0, 0]],
              "output_layers": [[body[-1]["name"], 0, 0]]}  # fmt: skip
    with h5py.File(path, "w") as file:
        file.attrs.update(keras_version="2.11.0", backend="tensorflow")
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": config})
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [one["name"].encode() for one in body]
        for one in body:
            names = [b"dw/depthwise_kernel:0"] if one["name"] == "dw" else []
            group.create_group(one["name"]).attrs["weight_names"] = names
        group["dw"]["dw/depthwise_kernel:0"] = weights if weights is not None else kernel()
    return path


def kernel():
    return np.random.default_rng(1).normal(0, 1, (3, 3, 3, 2)).astype(np.float32)


def pooled():
    """The output before the tail."""
    return tf.reduce_mean(tf.nn.depthwise_conv2d(FACES, kernel(), [1, 1, 1, 1], "SAME"), [1, 2]).numpy()


def test_a_depthwise_convolution_of_keras_2_with_all_its_keys(tmp_path):
    np.testing.assert_allclose(load_model(keras2_file(tmp_path / "m.h5"))(FACES), pooled(), atol=1e-6)


def test_a_policy_of_keras_2(tmp_path):
    path = keras2_file(tmp_path / "m.h5", dtype={"class_name": "Policy", "config": {"name": "mixed_float16"}})

    model = load_model(path)

    assert model.get_layer("dw").compute_dtype == "float16"
    np.testing.assert_allclose(model(FACES), pooled(), atol=2e-3)


CALLS = {
    "l2": (layer("TFOpLambda", "f", [["pool", 0, 0, {"axis": 1}]], function="math.l2_normalize"),
           lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)),
    "flat": (layer("TFOpLambda", "f", ["pool", 0, 0, {"axis": -1, "name": None}], function="nn.l2_normalize"),
             lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)),
    "operator": (layer("TFOpLambda", "f", [["pool", 0, 0, {"y": 3.0, "name": None}]], function="__operators__.mul"),
                 lambda x: 3 * x),
    "two tensors": (layer("TFOpLambda", "f", [["pool", 0, 0, {"y": ["pool", 0, 0]}]], function="math.add"),
                    lambda x: 2 * x),
    "constant first": (layer("TFOpLambda", "f", [["_CONSTANT_VALUE", -1, 1.0, {"y": ["pool", 0, 0]}]],
                             function="math.subtract"), lambda x: 1 - x),
    "list": (layer("TFOpLambda", "f", [["pool", 0, 0, {"axis": -1}], ["pool", 0, 0, {"axis": -1}]], function="concat"),
             lambda x: np.concatenate([x, x], -1)),
    "node": (layer("TensorFlowOpLayer", "tf_op_layer_mul", [["pool", 0, 0, {}]], constants={"1": 0.5},
                   node_def={"name": "mul", "op": "Mul", "input": ["a", "b"], "attr": {"T": {"type": "DT_FLOAT"}}}),
             lambda x: x / 2),
}  # fmt: skip


@pytest.mark.parametrize("tail, expected", CALLS.values(), ids=CALLS)
def test_a_call_of_tensorflow_is_a_layer_that_saves_and_reads_back(tmp_path, tail, expected):
    model = load_model(keras2_file(tmp_path / "m.h5", tail))
    np.testing.assert_allclose(model(FACES), expected(pooled()), atol=1e-6)

    save_h5(model, tmp_path / "again.h5")
    np.testing.assert_array_equal(load_model(tmp_path / "again.h5")(FACES), model(FACES))


@pytest.mark.parametrize("tail, match", [
    (layer("TFOpLambda", "f", [["pool", 0, 0, {"contents": "x"}]], function="io.write_file"), r"'io\.write_file'"),
    (layer("TFOpLambda", "f", [["pool", 0, 0, {}]], function="py_function"), "'py_function'"),
    (layer("TensorFlowOpLayer", "f", [["pool", 0, 0, {}]], constants={"0": "x"},
           node_def={"name": "w", "op": "WriteFile", "input": ["a", "b"]}), "'WriteFile'"),
    (layer("Lambda", "f", [["pool", 0, 0, {}]], function=["4wEA", None, None], function_type="lambda"), "Lambda 'f'"),
    (layer("StringLookup", "f", [["pool", 0, 0, {}]], vocabulary="/etc/hostname"), "StringLookup 'f'"),
])  # fmt: skip
def test_a_layer_that_may_do_more_than_compute_is_refused_by_name(tmp_path, tail, match):
    with pytest.raises(FaceError, match=match) as refusal:
        load_model(keras2_file(tmp_path / "m.h5", tail))
    assert "\n" not in str(refusal.value)


def test_a_file_with_weights_only_says_the_way(tmp_path):
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save_weights(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "k2.h5", "w") as file:
        file.attrs["layer_names"] = [b"dense"]

    for name in ("k2.h5", "m.weights.h5"):
        with pytest.raises(FaceError, match=rf"only weights.*import_model\.py {name}.*--structure"):
            load_model(tmp_path / name)
