"""The self test of a sidecar: five mistakes are named on float, int8 and ONNX, before anything is measured."""

import base64
import json

import numpy as np
import pytest

import predict
import tflite_test
from facelib.errors import FaceError
from facelib.export.onnx.convert import OnnxOptions, graph_to_onnx
from facelib.export.optimize import optimize
from facelib.export.tflite.convert import TfliteOptions, graph_to_tflite
from facelib.json_schema import check_json
from facelib.model_input import SIDECAR_SCHEMA, Io
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.runtimes.tflite import Lite, TfliteEmbedder
from facelib.self_test import make_self_test, min_cosine_of, ramps, run_self_test
from facelib.sidecar import read_sidecar, sidecar_path, write_sidecar
from facelib.wrong_input import MISTAKES
from tests.helpers.small_net import faces_of, small_graph

FORMS = {"float.tflite": "tflite_float", "int8.tflite": "tflite_int8", "edges.tflite": "tflite_int8", "x.onnx": "onnx"}
NAMES = [each.name for each in MISTAKES]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """float, int8 with uint8 edges, int8 with int8 edges, and ONNX, each with its self test."""
    folder, graph = tmp_path_factory.mktemp("self_test"), optimize(small_graph(), "input_1", "embeddings")
    options = {
        "float.tflite": TfliteOptions("float"),
        "int8.tflite": TfliteOptions("int8", faces_of(16), "uint8"),
        "edges.tflite": TfliteOptions("int8", faces_of(16), "int8"),
    }
    for name, how in options.items():
        (folder / name).write_bytes(graph_to_tflite(graph, Io(), (1, 112, 112, 3), how))
    onnx = graph_to_onnx(graph, "input_1", "embeddings", (112, 112), OnnxOptions("nhwc", 1))
    (folder / "x.onnx").write_bytes(onnx.SerializeToString())
    dtypes = {"int8.tflite": "uint8", "edges.tflite": "int8"}
    for name, kind in FORMS.items():
        io = Io(dtype=dtypes.get(name, "float32"))
        tensors = Lite(folder / name).describe_tensors() if "tflite" in name else {}
        test = make_self_test(open_model(folder / name, io), kind, tensors)
        write_sidecar(folder / name, kind=kind, made_from=None, io=io, tensors=tensors, self_test=test)
    return folder


def open_model(path, io=None):
    kind = OnnxEmbedder if path.suffix == ".onnx" else TfliteEmbedder
    return kind(path, io or read_sidecar(path).io)


def fed_wrongly(path, mistake):
    """The model behind code that makes a mistake: what a wrong program, not a wrong sidecar, does."""
    (apply,) = (each.apply for each in MISTAKES if each.name == mistake)
    model = open_model(path)
    raw = model.raw

    def wrong(images):
        values = np.ascontiguousarray(apply(images.astype(np.float32)), np.float32)
        return raw(np.clip(np.rint(values), 0, 255).astype(np.uint8) if model.io.dtype == "uint8" else values)

    model.raw = wrong
    return model


@pytest.mark.parametrize("name", FORMS)
def test_a_model_that_is_run_rightly_passes(models, name):
    outcome = run_self_test(open_model(models / name), read_sidecar(models / name))

    assert outcome.cosine > 0.99999 and outcome.is_same_bits
    assert outcome.is_integer == (FORMS[name] == "tflite_int8")
    assert str(outcome).startswith("self test: exactly the same bits as on ")


@pytest.mark.parametrize("mistake", NAMES)
@pytest.mark.parametrize("name", FORMS)
def test_each_mistake_is_named(models, name, mistake):
    line = rf"The likely cause: {mistake} \(cosine (0\.9\d+|1\.000) with this mistake\)\. [A-Z]"
    with pytest.raises(FaceError, match=line) as error:
        run_self_test(fed_wrongly(models / name, mistake), read_sidecar(models / name))

    assert "\n" not in str(error.value) and "Nothing was done" in str(error.value)


def test_the_image_is_that_of_the_formula():
    image = ramps((112, 112))

    assert image.shape == (112, 112, 3) and image.dtype == np.uint8
    for x, y in [(0, 0), (111, 3), (40, 97), (111, 111)]:
        assert image[y, x].tolist() == [2 * x & 255, 2 * y & 255, 255 - x - y & 255]
    assert ramps((160, 96))[159, 95].tolist() == [190, 62, 255 - 159 - 95 & 255]


def test_a_runtime_that_computes_garbage_is_refused_without_a_cause(models):
    model = open_model(models / "int8.tflite")
    model.run = lambda pixels: np.random.default_rng(0).normal(size=(len(pixels), 24)).astype(np.float32)

    with pytest.raises(FaceError, match=r"cosine .*No known mistake explains it.*LiteRT, XNNPACK"):
        run_self_test(model, read_sidecar(models / "int8.tflite"))
    model.run = lambda pixels: np.full((len(pixels), 24), np.nan, np.float32)
    with pytest.raises(FaceError, match=r"cosine -1\.000"):
        run_self_test(model, read_sidecar(models / "int8.tflite"))


def test_other_kernels_pass_without_the_same_bits(models):
    outcome = run_self_test(
        TfliteEmbedder(models / "int8.tflite", read_sidecar(models / "int8.tflite").io, kernels="reference"),
        read_sidecar(models / "int8.tflite"),
    )

    assert outcome.cosine > 0.95
    if not outcome.is_same_bits:
        assert str(outcome).endswith("to LiteRT, XNNPACK, not the same bits")


def test_the_output_of_integers_is_stored_as_bytes(models):
    test, path = read_sidecar(models / "edges.tflite").rest["self_test"], models / "edges.tflite"
    lite = Lite(path)
    seen = []
    lite.dequantise = lambda output: seen.append(output) or output
    lite(ramps((112, 112))[None].astype(np.float32))

    assert base64.b64decode(test["output"]) == seen[0].tobytes()
    assert "output" not in read_sidecar(models / "float.tflite").rest["self_test"]


def test_other_flags_are_not_refused(models):
    sidecar = read_sidecar(models / "float.tflite")
    sidecar.rest["io_from"] = "flags"

    assert run_self_test(fed_wrongly(models / "float.tflite", "BGR for RGB"), sidecar) is None


def test_the_sidecar_is_valid_and_an_older_one_still_works(models, tmp_path):
    value = json.loads(sidecar_path(models / "int8.tflite").read_text())
    check_json(value, SIDECAR_SCHEMA, "x", "sidecar", "")
    sidecar = read_sidecar(models / "int8.tflite")
    del sidecar.rest["self_test"]

    assert run_self_test(open_model(models / "int8.tflite"), sidecar) is None
    assert run_self_test(open_model(models / "int8.tflite"), None) is None


@pytest.mark.parametrize("damage", ["?", "AAAA", ""])
def test_a_damaged_self_test_is_one_line(models, damage):
    sidecar = read_sidecar(models / "float.tflite")
    sidecar.rest["self_test"]["embedding"] = damage

    with pytest.raises(FaceError, match=r"self test"):
        run_self_test(open_model(models / "float.tflite"), sidecar)


@pytest.mark.parametrize(
    ("change", "cause"), [({"colour": "bgr"}, "BGR for RGB"), ({"pixels": "pm1"}, "pixels scaled twice")], ids=str
)
def test_scripts_stop_before_they_measure(models, tmp_path, shades, change, cause):
    model = tmp_path / "float.tflite"
    model.write_bytes((models / "float.tflite").read_bytes())
    value = json.loads(sidecar_path(models / "float.tflite").read_text())
    sidecar_path(model).write_text(json.dumps({**value, "io": {**value["io"], **change}}))
    crops = [tmp_path / f"{i}.png" for i in range(2)]
    for path in crops:
        path.write_bytes(b"not looked at")

    for run in (
        lambda: tflite_test.main([str(model), "--valid", str(shades / "shades.bin")]),
        lambda: predict.main([*map(str, crops), "--model", str(model), "--threshold", "1"]),
    ):
        with pytest.raises(FaceError, match=f"The likely cause: {cause}"):
            run()
    assert not list(tmp_path.glob("*.report.json"))


def test_an_integer_model_says_its_bits(models, shades, capsys):
    tflite_test.main([str(models / "int8.tflite"), "--valid", str(shades / "shades.bin"), "--far", "0.1"])

    assert capsys.readouterr().out.startswith("self test: exactly the same bits as on LiteRT, XNNPACK\n")


def test_floors_follow_the_kind():
    assert [min_cosine_of(kind) for kind in ("h5", "onnx", "tflite_fp16", "tflite_dynamic", "onnx_int8", "kmodel")] == [
        0.999, 0.999, 0.995, 0.98, 0.95, 0.95,
    ]  # fmt: skip
