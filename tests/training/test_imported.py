"""[model] backbone = "imported": any net in an .h5 is trained on, whatever its structure."""

import json

import keras
import numpy as np
import pytest

import train
from backbones import build_backbone
from facelib.errors import FaceError
from facelib.model_input import Io
from facelib.models.registry import ModelConfig
from facelib.runtimes.keras_h5 import load_model, save_h5
from facelib.sidecar import read_sidecar, write_sidecar
from tests.helpers.slow import slow_unless_quick
from tests.helpers.toy_data import write_data, write_toy_pairs

RECIPE = """
name = "fine_tuning"
[model]
backbone = "imported"
activation = "leaky_relu"
[data]
batch_size = 8
[[stage]]
epochs = 1
margin = 0.1
scale = 8.0
learning_rate = 1e-6
weight_decay = 0.0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data of 112x112 faces, a verification set, a recipe, and a net that no builder makes, with Keras's own layers."""
    folder = tmp_path_factory.mktemp("imported")
    write_data(folder, 6, 3)
    write_toy_pairs(folder)
    (folder / "recipe.toml").write_text(RECIPE)
    keras.utils.set_random_seed(0)
    faces = keras.Input((96, 96, 3), name="input_1")
    x = keras.layers.Rescaling(1 / 255, name="scaled")(faces)
    x = keras.layers.SeparableConv2D(8, 5, 4, activation="elu", name="first")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dense(16, name="embeddings")(keras.layers.GlobalAveragePooling2D(name="mean")(x))
    save_h5(keras.Model(faces, x, name="of_another_kind"), folder / "net.h5")
    write_sidecar(folder / "net.h5", kind="h5", made_from=None, io=Io(size=(96, 96), fit="resize"), licence="MIT")
    return folder


def run(folder, out, *more):
    words = [folder / "recipe.toml", "--data", folder / "data", "--valid", folder / "toy.bin", "--out", out, *more]
    return train.main([str(word) for word in words])


def test_the_net_is_trained_as_it_is_and_the_sidecar_says_how_it_is_fed(folder, tmp_path, capsys):
    code = run(folder, tmp_path / "run", "--init-from", folder / "net.h5", "--set", "data.fit=resize")

    out = capsys.readouterr().out
    assert code == 0
    assert f"note: the net of '{folder / 'net.h5'}' is not changed: [model] activation has no effect" in out
    before, after = load_model(folder / "net.h5"), load_model(tmp_path / "run" / "embedder.h5")
    assert [layer.name for layer in after.layers] == [layer.name for layer in before.layers]
    changed = {}
    for old, new in zip(before.variables, after.variables, strict=True):
        changed[old.path] = float(np.abs(old.numpy() - new.numpy()).max())
    kernels = [value for path, value in changed.items() if "kernel" in path]
    assert all(0 < value < 1e-3 for value in kernels)  # its weights, trained on at a tiny rate
    assert changed["norm/moving_mean"] > 0
    sidecar = read_sidecar(tmp_path / "run" / "embedder.h5")
    assert (sidecar.io.size, sidecar.io.fit, sidecar.io.embedding_size) == ((96, 96), "resize", 16)
    assert sidecar.licence == "MIT"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(line["kind"] == "epoch" and "toy" in line["sets"] for line in lines)
    assert f'from = "{folder / "net.h5"}"' in (tmp_path / "run" / "config.toml").read_text()


@pytest.mark.parametrize(
    "sets, message",
    [
        ([], "set model.from = 'X.h5'"),
        (["model.from=none.h5"], "No model at 'none.h5'"),
        (["model.from=NET"], r"image of 96x96 pixels.*is 112x112, but all must be 96x96.*data.fit = 'resize'"),
        (["model.from=PM1"], "import the net first with import_model.py"),
        (["model.backbone=mbf", "model.from=NET"], "model.from needs backbone = 'imported'"),
    ],
)
def test_a_mistake_is_one_line(folder, tmp_path, sets, message):
    (tmp_path / "pm1.h5").write_bytes((folder / "net.h5").read_bytes())
    write_sidecar(tmp_path / "pm1.h5", kind="h5", made_from=None, io=Io(size=(96, 96), pixels="pm1"))
    named = [text.replace("NET", str(folder / "net.h5")).replace("PM1", str(tmp_path / "pm1.h5")) for text in sets]

    with pytest.raises(FaceError, match=message):
        run(folder, tmp_path / "run", *(word for text in named for word in ("--set", text)))


@pytest.mark.parametrize(
    "backbone",
    slow_unless_quick(
        ["mobilefacenet", "my_mobilenet", "mbf", "ghostfacenet_v1", "MobileNetV3Small"], ["mobilefacenet"]
    ),
)
def test_a_net_has_the_size_and_the_scaling_of_the_recipe(backbone):
    model = ModelConfig(backbone=backbone, embedding_size=8, input_size="96,64", pixels="imagenet")

    net = build_backbone(model)

    assert net.input_shape == (None, 96, 64, 3) and net.output_shape == (None, 8)
    scale = net.get_layer("pixel_scale")
    assert (scale.mean, scale.std) == ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
