"""Every test script names the mistake when a model is fed wrongly: beside its parent, or where only flags describe it.

The scripts of chips stand beside a reference too: test_mcu.py, test_k210.py, test_ncnn.py and test_om.py feed their
stand-ins wrongly.
"""

import cv2
import keras
import numpy as np
import pytest

import evaluate_data
import onnx_test
import pb_test
import tflite_test
from facelib.data.synthetic.files import SyntheticSet, write_pairs
from facelib.data.verification.bins import write_bin
from facelib.errors import FaceError
from facelib.export.freeze import freeze
from facelib.export.onnx.convert import graph_to_onnx
from facelib.export.onnx.int8 import quantise_onnx
from facelib.export.optimize import optimize
from facelib.export.tflite.convert import TfliteOptions, graph_to_tflite
from facelib.model_input import Io
from facelib.models.layers import PixelScale
from facelib.runtimes.frozen_graph import GraphEmbedder
from facelib.runtimes.keras_h5 import save_h5
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.runtimes.tflite import TfliteEmbedder
from facelib.sidecar import sidecar_path, write_sidecar
from facelib.wrong_input import MISTAKES
from tests.helpers.small_net import faces_of, small_model

RUNTIMES = {
    ".pb": (pb_test, GraphEmbedder),
    ".tflite": (tflite_test, TfliteEmbedder),
    ".onnx": (onnx_test, OnnxEmbedder),
}
ARTEFACTS = ["frozen.pb", "float.tflite", "uint8.tflite", "int8.tflite", "float.onnx", "int8.onnx"]
CLASSIC = ["pixels scaled twice", "BGR for RGB", "NHWC pixels read as NCHW"]
FLAGS = ["--pairs", "20", "--far", "0.2", "--threads", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """toy.bin, and one net in every form with sidecars: net.h5, frozen.pb made from it, the others made from that."""
    folder, io = tmp_path_factory.mktemp("forms"), Io()
    model, crops = small_model(), faces_of(16)
    graph = optimize(freeze(model), io.input, io.output)
    planes = graph_to_onnx(graph, io.input, io.output, io.size).SerializeToString()
    save_h5(model, folder / "net.h5")
    write_sidecar(folder / "net.h5", kind="h5", made_from=None, io=io)
    files = {
        "frozen.pb": graph.SerializeToString(),
        "float.tflite": graph_to_tflite(graph, io, (1, 112, 112, 3), TfliteOptions("float")),
        "uint8.tflite": graph_to_tflite(graph, io, (1, 112, 112, 3), TfliteOptions("int8", crops)),
        "int8.tflite": graph_to_tflite(graph, io, (1, 112, 112, 3), TfliteOptions("int8", crops, "int8")),
        "float.onnx": planes,
        "int8.onnx": quantise_onnx(planes, crops, io),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
        dtype = name.partition(".")[0] if name in ("uint8.tflite", "int8.tflite") else "float32"
        parent = "net.h5" if name == "frozen.pb" else "frozen.pb"
        write_sidecar(folder / name, kind=name, made_from=folder / parent, io=Io(dtype=dtype))
    write_pairs(folder / "toy.bin", SyntheticSet(20, 4), 20)
    return folder


def run(folder, name):
    script, _ = RUNTIMES[name[name.index(".") :]]
    return script.main([str(folder / name), "--valid", str(folder / "toy.bin"), *FLAGS])


@pytest.mark.parametrize("mistake", CLASSIC)
@pytest.mark.parametrize("name", ARTEFACTS)
def test_a_mistake_is_named_beside_the_parent_and_nothing_is_written(folder, monkeypatch, name, mistake):
    (apply,) = (each.apply for each in MISTAKES if each.name == mistake)
    _, runtime = RUNTIMES[name[name.index(".") :]]
    run_rightly = runtime.run

    def run_wrongly(self, pixels):
        fed = apply(pixels.astype(np.float32))
        fed = np.clip(np.rint(fed), 0, 255) if pixels.dtype == np.uint8 else fed
        return run_rightly(self, np.ascontiguousarray(fed, pixels.dtype))

    monkeypatch.setattr(runtime, "run", run_wrongly)
    parent = "small" if name == "frozen.pb" else "frozen.pb"

    with pytest.raises(
        FaceError, match=rf"'{name}' must give the same embeddings as '{parent}'\. .*The likely cause: {mistake}"
    ):
        run(folder, name)

    assert not (folder / f"{name}.report.json").exists()


@pytest.mark.parametrize("name", ["uint8.tflite", "int8.onnx"])
def test_a_model_that_is_fed_rightly_is_tested(folder, name):
    assert run(folder, name) == 0

    (folder / f"{name}.report.json").unlink()


def test_without_the_parent_the_test_runs_as_before(folder, tmp_path):
    for name in ("float.onnx", "float.onnx.json", "toy.bin"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())

    assert run(tmp_path, "float.onnx") == 0


# ------------------------------------------------------------------------------------- no sidecar: the flags are wrong


@pytest.fixture(scope="module")
def red(tmp_path_factory):
    """net.h5, net.pb and net.onnx without sidecars, and red.bin: who somebody is shows in red, green is noise."""
    folder, random = tmp_path_factory.mktemp("red"), np.random.default_rng(0)
    inputs = keras.Input((112, 112, 3), name="input_1")
    x, window = PixelScale(127.5, 128.0, name="pixel_scale")(inputs), {"strides": 28, "use_bias": False}
    person = keras.layers.Conv2D(1, 28, activation="relu", name="person", **window)(x)
    noise = keras.layers.Conv2D(1, 28, name="noise", **window)(x)
    both = keras.layers.Flatten(name="flat")(keras.layers.Concatenate(name="both")([person, noise]))
    model = keras.Model(inputs, keras.layers.Activation("linear", name="embeddings")(both), name="red")
    for name, weights in (("person", (9, 0, 0)), ("noise", (0, 1, 0))):
        model.get_layer(name).set_weights([np.tile(np.reshape(weights, (1, 1, 3, 1)), (28, 28, 1, 1)) / 784])
    save_h5(model, folder / "net.h5")
    graph = optimize(freeze(model), "input_1", "embeddings")
    (folder / "net.pb").write_bytes(graph.SerializeToString())
    (folder / "net.onnx").write_bytes(graph_to_onnx(graph, "input_1", "embeddings", (112, 112)).SerializeToString())
    is_same, images = [k % 2 == 0 for k in range(60)], []
    for same in is_same:
        people = random.integers(130, 250, (2, 4, 4))
        for person_of in (people[0], people[0 if same else 1]):
            red = person_of + random.integers(-9, 10, (4, 4))
            patches = np.stack([red, random.integers(0, 256, (4, 4)), np.full((4, 4), 128)], axis=-1)
            face = patches[..., ::-1].repeat(28, 0).repeat(28, 1).astype(np.uint8)
            images.append(cv2.imencode(".png", face)[1].tobytes())
    write_bin(folder / "red.bin", images, is_same)
    return folder


@pytest.mark.parametrize(
    ("script", "name", "wrong", "right", "cause"),
    [
        (evaluate_data, "net.h5", "--color bgr", "--color rgb", "BGR for RGB"),
        (pb_test, "net.pb", "--pixels pm1", "--pixels raw", "pixels scaled twice"),
        (onnx_test, "net.onnx", "--color bgr", "--color rgb", "BGR for RGB"),
    ],
)
def test_flags_that_other_flags_beat_are_noted(red, capsys, script, name, wrong, right, cause):
    flags = [str(red / name), "--valid", str(red / "red.bin"), "--far", "0.1", "--threads", "1"]
    try:
        assert script.main([*flags, *wrong.split()]) == 0
        printed = capsys.readouterr().out
        assert script.main([*flags, *right.split()]) == 0
    finally:
        sidecar_path(red / name).unlink(missing_ok=True)

    assert f"the likely cause is {cause}: with the setting {right} the model separates" in printed
    assert "the likely cause" not in capsys.readouterr().out
