"""Descriptions of Keras models made to do harm: one line, nothing runs, nothing is written, no memory is filled."""

import json
import os
import zipfile
from types import SimpleNamespace

import h5py
import keras
import pytest

import evaluate_data
import import_model
from facelib.errors import FaceError
from facelib.runtimes import h5_check
from facelib.runtimes.keras_h5 import save_h5


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """net.h5 and net.keras of a small net."""
    folder = tmp_path_factory.mktemp("hostile")
    faces = keras.Input((16, 16, 3), name="faces")
    x = keras.layers.Dense(32, activation="relu", name="d")(keras.layers.Flatten(name="f")(faces))
    model = keras.Model(faces, keras.layers.Dense(5, name="embeddings")(x), name="net")
    save_h5(model, folder / "net.h5")
    model.save(folder / "net.keras")
    return folder


def layer_of(config, name):
    return next(layer for layer in config["config"]["layers"] if layer["config"]["name"] == name)


def mkdir_object(**more):
    return {"module": "os", "class_name": "mkdir", "config": {"path": "it_ran"}, "registered_name": "mkdir", **more}


def as_layer(config):
    layer_of(config, "d").update(module="os", class_name="mkdir", registered_name="mkdir")


def as_activation(config):
    function = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
    layer_of(config, "d")["config"]["activation"] = function


def as_initializer(config):
    layer_of(config, "d")["config"]["kernel_initializer"] = mkdir_object()


def as_builtin(config):
    layer_of(config, "d")["config"]["kernel_regularizer"] = mkdir_object(module="builtins", class_name="exec")


def as_tool_of_keras(config):
    get_file = {"module": "keras.utils", "class_name": "get_file", "config": {"fname": "it_ran", "origin": "file:///"}}
    layer_of(config, "d")["config"]["kernel_initializer"] = {**get_file, "registered_name": None}


def as_lambda(config):
    code = {"class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None, "closure": None}}
    layer_of(config, "d")["config"]["activation"] = code


def as_lambda_in_sequentials(config):
    inner = {"class_name": "Lambda", "config": {"name": "deep", "function": ["4wEAAAA=", None, None]}}
    for level in range(3):
        inner = {"class_name": "Sequential", "config": {"name": f"s{level}", "layers": [inner]}}
    layer_of(config, "d").update(inner, module="keras", registered_name=None)


def as_lambda_of_another_case(config):
    layer_of(config, "d").update(class_name="lambda", config={"name": "d", "function": ["4wEAAAA=", None, None]})


def as_saved_model(config):
    layer = {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"name": "d", "filepath": "/tmp"}}
    layer_of(config, "d").update(layer)


def as_a_huge_layer(config):
    layer_of(config, "d")["config"]["units"] = 10**7


def as_a_huge_input(config):
    layer_of(config, "faces")["config"]["batch_shape"] = [None, 10**5, 10**5, 3]


HARM = [as_layer, as_activation, as_initializer, as_builtin, as_tool_of_keras, as_lambda, as_lambda_in_sequentials,
        as_lambda_of_another_case, as_saved_model, as_a_huge_layer, as_a_huge_input]  # fmt: skip


def changed(files, folder, kind, change):
    """A copy of net.h5 or net.keras with a changed description, or net.h5 as Keras 2 would have written it."""
    path = folder / f"net{kind.removesuffix('2')}"
    path.write_bytes((files / path.name).read_bytes())
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            change(config)
            file.attrs["model_config"] = json.dumps(config)
            if kind == ".h52":
                file.attrs["keras_version"] = "2.9.0"
        return path
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


CASES = [(change, kind) for change in HARM for kind in (".h5", ".h52", ".keras")]
DROPPED = [(change, ".h52") for change in (as_initializer, as_builtin, as_tool_of_keras)]  # an old file's are not read


@pytest.mark.parametrize(("change", "kind"), [case for case in CASES if case not in DROPPED])
def test_a_description_made_to_do_harm_is_one_line(files, tmp_path, monkeypatch, change, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "system", lambda *_: os.mkdir("it_ran"))
    # h5_check.py has tests of its own, and a process for each of these takes a second.
    monkeypatch.setattr(h5_check.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stdout=""))
    path = changed(files, tmp_path, kind, change)
    commands = [(import_model.main, [str(path), "out.h5", "--pixels", "raw"])]
    if path.suffix == ".h5":
        commands.append((evaluate_data.main, [str(path), "--valid", str(files / "x.bin"), "--pixels", "raw"]))
    monkeypatch.setattr(evaluate_data, "find_sets", lambda *_, **__: [])

    for main, words in commands:
        with pytest.raises(FaceError) as refusal:
            main(words)
        assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 600
        if change is as_a_huge_layer or (change is as_a_huge_input and path.suffix == ".h5"):
            assert "GiB of weights, which are not in the file" in str(refusal.value)
    assert {each.name for each in tmp_path.iterdir()} == {path.name}


@pytest.mark.parametrize(("change", "kind"), DROPPED)
def test_the_initialisers_and_regularisers_of_an_old_file_are_not_even_made(files, tmp_path, monkeypatch, change, kind):
    monkeypatch.chdir(tmp_path)
    path = changed(files, tmp_path, kind, change)

    assert import_model.main([str(path), "out.h5", "--pixels", "raw"]) == 0

    assert {each.name for each in tmp_path.iterdir()} == {path.name, "out.h5", "out.h5.json"}
    with h5py.File(tmp_path / "out.h5") as file:
        assert not {"mkdir", "exec", "get_file"} & set(file.attrs["model_config"].split('"'))
