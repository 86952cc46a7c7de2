"""A net and its weights in different files, and in the zip of a .keras."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

import import_model
from facelib.errors import FaceError
from facelib.importing import known_nets
from facelib.importing.keras_parts import _with_steep_slopes
from facelib.importing.stored_weights import Stored, fill
from facelib.runtimes.keras_h5 import load_model
from tests.helpers.keras2_files import SIZE, Keras2Net

FACES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.float32)
PM1 = (FACES - 127.5) / 127.5


def imported(source, out, *flags):
    assert import_model.main([str(source), str(out), *flags]) == 0
    return load_model(out)


def same(model, expected):
    np.testing.assert_allclose(model(FACES, training=False).numpy(), expected, atol=1e-4)


def apart(folder, net):
    """(weights-only .h5, model.json)."""
    structure = folder / "model.json"
    structure.write_text(json.dumps({**net.config(), "keras_version": "2.2.4-tf", "backend": "tensorflow"}))
    return net.save(folder / "weights.h5", weights_only=True), structure


def test_weights_and_their_json_are_one_net(tmp_path):
    net = Keras2Net("pixel").body()
    weights, structure = apart(tmp_path, net)

    model = imported(weights, tmp_path / "out.h5", "--structure", str(structure), "--pixels", "pm1_exact")

    same(model, net.expected(PM1))


def test_weights_that_do_not_fit_name_the_layer(tmp_path):
    weights, _ = apart(tmp_path, Keras2Net("pixel").body())
    _, structure = apart(tmp_path, other := Keras2Net("channel").body())
    weights = Keras2Net("pixel").body().save(tmp_path / "weights.h5", weights_only=True)
    assert other.names

    match = r"does not match the structure 'model.json': .*\[8, 8, 4\], but .slopes. with \[1, 1, 4\]"
    with pytest.raises(FaceError, match=match):
        import_model.main([str(weights), str(tmp_path / "out.h5"), "--structure", str(structure), "--pixels", "pm1"])


def test_weights_alone_say_which_flags_to_give(tmp_path):
    weights, _ = apart(tmp_path, Keras2Net().body())

    with pytest.raises(FaceError, match=r"--structure model\.json.*--as mobilefacenet"):
        import_model.main([str(weights), str(tmp_path / "out.h5")])


def test_another_name_of_a_net_says_those_that_are_known(tmp_path):
    weights, _ = apart(tmp_path, Keras2Net().body())

    with pytest.raises(FaceError, match="one of mobilefacenet, mobilenet, iresnet50"):
        import_model.main([str(weights), str(tmp_path / "out.h5"), "--as", "vgg"])


@pytest.mark.slow
@pytest.mark.parametrize("steepest", [0.5, 1.5])
def test_a_mobilefacenet_by_name_is_ours_with_the_epsilon_of_ours(tmp_path, capsys, steepest):
    theirs = import_model.build_ours("mobilefacenet", pixel_mean=127.5, pixel_std=127.5)
    rng = np.random.default_rng(1)
    for layer in theirs.layers:
        if hasattr(layer, "moving_variance"):
            layer.moving_variance.assign(1e-3 + rng.random(layer.moving_variance.shape))
            layer.epsilon = known_nets.EPSILON
    with h5py.File(tmp_path / "w.h5", "w") as file:
        named = [layer for layer in theirs.layers if layer.weights]
        file.attrs["layer_names"] = [f"layer_{number}".encode() for number in range(len(named))] + [b"ArcMargin"]
        for number, layer in enumerate(named):
            group = file.create_group(f"layer_{number}")
            if layer.name == "stem_conv_act":
                layer.alpha.assign(np.linspace(-0.2, steepest, 64))
            group.attrs["weight_names"] = [f"w{place}" for place in range(len(layer.weights))]
            for place, value in enumerate(layer.get_weights()):
                group[f"w{place}"] = value.reshape(1, 1, -1) if "_act" in layer.name else value
        file.create_group("ArcMargin").attrs["weight_names"] = ["w"]
        file["ArcMargin"]["w"] = np.zeros((128, 9), np.float32)
    faces = rng.integers(0, 256, (1, 112, 112, 3)).astype(np.float32)

    model = imported(tmp_path / "w.h5", tmp_path / "out.h5", "--as", "mobilefacenet")

    if steepest > 1:
        theirs = _with_steep_slopes(theirs)
    expected = theirs(faces, training=False).numpy()
    np.testing.assert_allclose(model(faces, training=False), expected, atol=1e-4 * np.abs(expected).max())
    assert model.get_layer("stem_conv_bn").epsilon == 1e-3
    said = capsys.readouterr().out
    assert ('pixels = "pm1_exact"' in said) == (steepest < 1)
    assert (
        "margin head 'ArcMargin' was left out" in said
        and f'backbone = "{"imported" if steepest > 1 else "mobilefacenet"}"' in said
    )


@pytest.mark.slow
@pytest.mark.parametrize("name, parameters", [("mobilenet", 16_605_376), ("iresnet50", 43_628_992)])
def test_the_known_nets_have_the_published_sizes(name, parameters):
    assert known_nets.KNOWN[name](512).count_params() == parameters


def test_layers_are_matched_by_name_first_and_then_by_order(tmp_path):
    inputs = keras.Input((2,))
    x = keras.layers.Dense(2, use_bias=False, name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False, name="second")(x))
    stored = [Stored("second", [np.full((2, 2), 2.0)]), Stored("other", [np.full((2, 2), 1.0)])]

    fill(model, stored, tmp_path, "net")

    assert [layer.get_weights()[0][0, 0] for layer in model.layers[1:]] == [1.0, 2.0]


# --------------------------------------------------------------------------------------------------------- .keras


def keras_net(*tail):
    inputs = keras.Input((SIZE, SIZE, 3), name="faces")
    x = keras.layers.Conv2D(4, 3, 2, name="c", activation="relu")(inputs)
    x = keras.layers.Dense(5, name="d")(keras.layers.GlobalAveragePooling2D(name="p")(x))
    for layer in tail:
        x = layer(x)
    return keras.Model(inputs, x)


def test_a_keras_file_of_keras_3(tmp_path, capsys):
    net = keras_net()
    keras_net().save(tmp_path / "net.keras")
    whole = keras.Model(net.inputs, keras.layers.UnitNormalization(name="unit")(net.outputs[0]))
    whole.save(tmp_path / "net.keras")

    model = imported(tmp_path / "net.keras", tmp_path / "out.h5", "--pixels", "pm1_exact")

    same(model, net(PM1).numpy())
    assert "normalisation 'unit' was left out" in capsys.readouterr().out


def rewritten(path, config=None, **members):
    """The .keras with another description, or other members."""
    with zipfile.ZipFile(path) as archive:
        old = {name: archive.read(name) for name in archive.namelist()}
    new = {**old, **members}
    if config is not None:
        new["config.json"] = json.dumps(config(json.loads(old["config.json"]))).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in new.items():
            archive.writestr(name, data)


def test_a_lambda_with_a_command_in_a_keras_file_is_refused_by_name(tmp_path):
    keras_net(keras.layers.Lambda(lambda x: x * 2, name="evil")).save(tmp_path / "net.keras")

    with pytest.raises(FaceError, match=r"Lambda 'evil'.*not run"):
        import_model.main([str(tmp_path / "net.keras"), str(tmp_path / "out.h5"), "--pixels", "raw"])


def test_a_class_of_another_project_in_a_keras_file_is_named(tmp_path):
    keras_net().save(tmp_path / "net.keras")

    def foreign(config):
        layer = config["config"]["layers"][-1]
        layer.update(module="backbones", class_name="Attention2", registered_name="Custom>Attention2")
        return config

    rewritten(tmp_path / "net.keras", foreign)
    with pytest.raises(FaceError, match=r"'d' of the class 'Attention2'.*ONNX"):
        import_model.main([str(tmp_path / "net.keras"), str(tmp_path / "out.h5"), "--pixels", "raw"])


def test_a_keras_file_of_keras_2_numbers_its_layers_by_class(tmp_path):
    net = Keras2Net().body().head("arcface")
    config = net.config()
    config["class_name"] = "Functional"
    for layer in config["config"]["layers"]:
        layer.update(module="keras.layers", registered_name=None)
    counts = {}
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        for layer in net.layers:
            kind = {
                "BatchNormalizationV1": "batch_normalization_v1",
                "SeparableConv2D": "separable_conv2d",
                "DepthwiseConv2D": "depthwise_conv2d",
                "PReLU": "p_re_lu",
                "NormDense": "norm_dense",
                "BatchNormalization": "batch_normalization",
            }.get(layer["class_name"], layer["class_name"].lower())
            number = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"layers/{kind}{f'_{number}' if number else ''}/vars")
            for place, value in enumerate(net.weights[layer["name"]]):
                group[str(place)] = value
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        archive.write(tmp_path / "model.weights.h5", "model.weights.h5")

    model = imported(tmp_path / "net.keras", tmp_path / "out.h5", "--pixels", "pm1_exact")

    same(model, net.expected(PM1))
