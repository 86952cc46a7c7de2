"""coreml/: the scripts with a stand-in for coremltools, and coremltools itself where it is."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from facelib.data.synthetic.files import SyntheticSet, write_pairs
from facelib.errors import FaceError
from facelib.export.coreml.convert import check_interface
from facelib.model_input import Io
from facelib.sidecar import read_sidecar, write_sidecar
from tests.helpers import mistakes
from tests.helpers.chip_stand_in import load_script, stand_in_for
from tests.helpers.patches_onnx import write_model

ROOT = Path(__file__).parents[2]
IO = Io(layout="nchw")
FLAGS = ["--pairs", "20", "--far", "0.2", "--threads", "1"]
INTERFACE = {
    "input": "image", "input_type": "imageType", "size": [112, 112], "colours": "RGB", "output": "embedding",
    "output_type": "FLOAT32", "output_shape": [1, 48], "specification": 6,
}  # fmt: skip

# Its model is that of the ONNX file: mean colours of patches, less 128. It is fed by the mistake in MISTAKE.
STAND_IN = f"""
import json, os, sys, zipfile
from pathlib import Path
import numpy as np

def convert(folder):
    if os.environ.get("REFUSED"):
        raise SystemExit("there is no rule for the ONNX operation Einsum")
    room = Path(folder)
    net = json.loads((room / "net.json").read_text())
    assert [node["kind"] for node in net["nodes"]] == ["AveragePool", "Add", "Flatten"]
    assert net["nodes"][0]["attributes"]["strides"] == [28, 28] and (net["input"], net["mode"]) == ("input_1", "fp16")
    assert np.load(room / "tensors.npz")["offset"] == -128
    (room / "interface.json").write_text(json.dumps({INTERFACE!r} | json.loads(os.environ.get("MADE", "{{}}"))))
    with zipfile.ZipFile(room / "model.mlpackage.zip", "w") as bundle:
        bundle.writestr("model.mlpackage/Manifest.json", "{{}}")

def load(path):
    sys.path.insert(0, os.environ["STAND_IN_ROOT"])
    from facelib.wrong_input import MISTAKES
    apply = {{each.name: each.apply for each in MISTAKES}}.get(os.environ.get("MISTAKE"), lambda pixels: pixels)

    def run(pixels):
        patches = apply(pixels.astype(np.float32)).reshape(4, 28, 4, 28, 3).mean((1, 3))
        return patches.transpose(2, 0, 1).reshape(-1) - 128

    return {{"shape": [1, 112, 112, 3], "dtype": "uint8", "outputs": [48]}}, run

if __name__ == "__main__":
    convert(*sys.argv[2:])
"""

onnx_2_coreml, coreml_test = (load_script("coreml", name) for name in ("onnx_2_coreml", "coreml_test"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """model.onnx with its sidecar, and toy.bin."""
    folder = tmp_path_factory.mktemp("coreml")
    write_model(folder / "model.onnx")
    write_sidecar(folder / "model.onnx", kind="onnx", made_from=None, io=IO, licence="mine")
    write_pairs(folder / "toy.bin", SyntheticSet(20, 4), 20)
    return folder


@pytest.fixture
def room(models, tmp_path):
    """A copy of the models, which a test may write into."""
    shutil.copytree(models, tmp_path / "room")
    return tmp_path / "room"


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    return stand_in_for("coreml", STAND_IN, tmp_path, monkeypatch)


def convert(room, *words):
    assert onnx_2_coreml.main([str(room / "model.onnx"), *words]) == 0


def run_test(room, mode="fp16"):
    return coreml_test.main([str(room / f"model_{mode}.mlpackage.zip"), "--valid", str(room / "toy.bin"), *FLAGS])


def test_a_core_ml_model_takes_an_image_and_is_tested_like_every_artefact(room, stand_in, capsys):
    convert(room)

    sidecar = read_sidecar(room / "model_fp16.mlpackage.zip")
    assert (sidecar.kind, sidecar.licence) == ("coreml_fp16", "mine")
    assert (sidecar.io.input, sidecar.io.output, sidecar.io.dtype, sidecar.io.layout) == (
        "image",
        "embedding",
        "uint8",
        "nhwc",
    )
    assert sidecar.rest["interface"] == INTERFACE
    assert run_test(room) == 0

    said = capsys.readouterr().out
    assert "Core ML itself was not run" in said and "mean cosine to model.onnx on" in said
    report = json.loads((room / "model_fp16.mlpackage.zip.report.json").read_text())
    assert (report["kind"], report["executor"]) == ("coreml_fp16", "Core ML operations in NumPy")
    assert report["mean_cosine"] == pytest.approx(1)


@pytest.mark.parametrize("mistake", mistakes.TRIED, ids=lambda mistake: mistake.name.replace(" ", "_"))
def test_a_mistake_in_feeding_is_named(mistake, room, stand_in, monkeypatch):
    convert(room)
    monkeypatch.setenv("MISTAKE", mistake.name)

    with pytest.raises(FaceError, match=mistake.name):
        run_test(room)


def refused(room, *words):
    with pytest.raises(FaceError) as caught:
        onnx_2_coreml.main([str(room / "model.onnx"), *words])
    assert not list(room.glob("*.mlpackage*")) and "\n" not in str(caught.value)
    return str(caught.value)


def test_without_the_environment_one_line_says_so(room, stand_in):
    (stand_in / ".venv-coreml" / "ready").unlink()

    assert refused(room).endswith(".venv-coreml is missing: make coreml")


@pytest.mark.parametrize("io", [Io(), Io(layout="nchw", pixels="pm1")], ids=["nhwc", "scaled"])
def test_a_model_of_another_input_is_refused(io, room):
    write_sidecar(room / "model.onnx", kind="onnx", made_from=None, io=io)

    assert "python pb_2_onnx.py optimized.pb --layout nchw --pixels inside" in refused(room)


def test_another_interface_than_an_image_is_refused(room, stand_in, monkeypatch):
    check_interface(INTERFACE, IO)
    monkeypatch.setenv("MADE", json.dumps({"input_type": "multiArrayType", "colours": "BGR"}))

    assert "made {'input_type': 'multiArrayType', 'colours': 'BGR'} instead of" in refused(room)


def test_what_the_worker_says_is_passed_on(room, stand_in, monkeypatch):
    monkeypatch.setenv("REFUSED", "1")

    assert "model.onnx' (there is no rule for the ONNX operation Einsum)" in refused(room)


def test_other_names_and_files_are_refused(room):
    assert "--out must end in .mlpackage.zip" in refused(room, "--out", str(room / "model.mlmodel"))
    path = room / "model_fp16.mlpackage.zip"
    path.write_bytes(b"layers")
    write_sidecar(path, kind="coreml_fp16", made_from=None, io=Io(dtype="uint8"))

    with pytest.raises(FaceError, match="must be a zip file"):
        run_test(room)


def test_the_convolution_in_numpy_is_that_of_onnx_runtime():
    import onnxruntime
    from onnx import TensorProto, helper

    convolve = load_script("coreml", "coreml_worker").convolve
    rng = np.random.default_rng(5)
    for channels, outputs, groups, side, stride, pads in (
        (3, 8, 1, 3, 2, [0, 0, 1, 1]),
        (8, 8, 8, 3, 1, [1, 1, 1, 1]),
        (8, 8, 8, 7, 1, [0, 0, 0, 0]),
        (8, 6, 1, 1, 1, [0, 0, 0, 0]),
        (8, 6, 2, 3, 2, [1, 0, 1, 0]),
    ):
        x = rng.normal(size=(1, channels, 9, 7)).astype(np.float32)
        weight = rng.normal(size=(outputs, channels // groups, side, side)).astype(np.float32)
        bias = rng.normal(size=outputs).astype(np.float32)
        node = helper.make_node(
            "Conv", ["x", "w", "b"], ["y"], group=groups, strides=[stride] * 2, pads=pads, kernel_shape=[side] * 2
        )
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xwby"]
        graph = helper.make_graph([node], "conv", values[:3], values[3:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (expected,) = session.run(None, {"x": x, "w": weight, "b": bias})

        pad = [pads[0], pads[2], pads[1], pads[3]]
        got = convolve(x, weight, strides=[stride] * 2, pad=pad, groups=groups, bias=bias)

        np.testing.assert_allclose(got, expected, atol=1e-4)


# --------------------------------------------------------------------------------------------------------- the real one


@pytest.mark.slow
@pytest.mark.needs_tool(".venv-coreml")
@pytest.mark.parametrize("mode, cosine, specification", [("fp16", 0.9999, 6), ("int8", 0.99, 7)])
@pytest.mark.parametrize("activation", ["prelu", "relu6"])
def test_coremltools_writes_what_the_onnx_model_computes(activation, mode, cosine, specification, tmp_path):
    """MobileFaceNet with few channels and random weights: types of input and output, and embeddings read back."""
    from backbones import build_backbone
    from facelib.export.freeze import freeze
    from facelib.export.onnx.convert import OnnxOptions, graph_to_onnx
    from facelib.export.optimize import optimize
    from facelib.training.recipe.toml import load_recipe
    from tests.helpers.random_weights import random_weights

    words = ["model.width=0.25", "model.embedding_size=16", f"model.activation='{activation}'"]
    config = load_recipe(ROOT / "recipes" / "k210_mobilefacenet.toml", words)
    graph = optimize(freeze(random_weights(build_backbone(config.model), spread=0.5)), "input_1", "embeddings")
    model = graph_to_onnx(graph, "input_1", "embeddings", (112, 112), OnnxOptions("nchw", prelu_nodes=True))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    write_sidecar(tmp_path / "model.onnx", kind="onnx", made_from=None, io=IO)
    write_pairs(tmp_path / "toy.bin", SyntheticSet(20, 4), 20)

    convert(tmp_path, "--mode", mode)
    run_test(tmp_path, mode)

    path = tmp_path / f"model_{mode}.mlpackage.zip"
    assert json.loads(path.with_name(f"{path.name}.report.json").read_text())["mean_cosine"] > cosine
    interface = read_sidecar(path).rest["interface"]
    assert interface == INTERFACE | {"output_shape": [1, 16], "specification": specification}
    with zipfile.ZipFile(path) as bundle:
        assert {"model.mlpackage/Manifest.json", "model.mlpackage/Data/com.apple.CoreML/model.mlmodel"} <= set(
            bundle.namelist()
        )
