"""ncnn/: the scripts with a stand-in for pnnx and ncnn, and both themselves where they are."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from facelib.data.synthetic.faces import synthetic_face
from facelib.data.synthetic.files import SyntheticSet, write_pairs
from facelib.errors import FaceError
from facelib.model_input import Io
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.runtimes.open_embedder import open_embedder
from facelib.sidecar import read_sidecar, write_sidecar
from tests.helpers import mistakes
from tests.helpers.chip_stand_in import load_script, stand_in_for
from tests.helpers.patches_onnx import write_model

ROOT = Path(__file__).parents[2]
IO = Io(layout="nchw")
FLAGS = ["--pairs", "20", "--far", "0.2", "--threads", "1"]

# The weights of its models are the ONNX model. ONNX Runtime runs it, fed by the mistake in MISTAKE where there is one.
STAND_IN = """
import json, os, sys
from pathlib import Path
import numpy as np

def convert(folder, shape, fp16):
    assert shape == "[1,3,112,112]f32"
    if os.environ.get("REFUSED"):
        raise SystemExit("unsupported operator")
    (Path(folder) / "model.param").write_text("7767517\\n")
    (Path(folder) / "model.bin").write_bytes((Path(folder) / "model.onnx").read_bytes())

def load(param, weights, source, target, shape):
    import onnxruntime
    assert (source, target) == ("in0", "out0")
    session = onnxruntime.InferenceSession(Path(weights).read_bytes(), providers=["CPUExecutionProvider"])
    sys.path.insert(0, os.environ["STAND_IN_ROOT"])
    from facelib.wrong_input import MISTAKES
    apply = {each.name: each.apply for each in MISTAKES}.get(os.environ.get("MISTAKE"), lambda pixels: pixels)

    def run(values):
        pixels = apply(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        return session.run(None, {"input_1": np.ascontiguousarray(pixels, np.float32)})[0]

    return {"shape": json.loads(shape), "dtype": "float32", "outputs": [1, 48]}, run

if __name__ == "__main__":
    convert(*sys.argv[2:])
"""


onnx_2_ncnn, ncnn_test = (load_script("ncnn", name) for name in ("onnx_2_ncnn", "ncnn_test"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """model.onnx with its sidecar, and toy.bin."""
    folder = tmp_path_factory.mktemp("ncnn")
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
    return stand_in_for("ncnn", STAND_IN, tmp_path, monkeypatch)


def convert(room, *words):
    assert onnx_2_ncnn.main([str(room / "model.onnx"), *words]) == 0


def test_an_ncnn_model_is_tested_like_every_artefact(room, stand_in, capsys):
    convert(room, "--mode", "fp16")

    sidecar = read_sidecar(room / "model_fp16.param")
    assert (sidecar.kind, sidecar.licence) == ("ncnn_fp16", "mine")
    assert (sidecar.io.input, sidecar.io.output, sidecar.io.layout) == ("in0", "out0", "nchw")
    assert sidecar.rest["weights"]["path"] == "model_fp16.bin"
    assert sidecar.rest["parity"]["mean_cosine"] == pytest.approx(1, abs=1e-6)
    assert ncnn_test.main([str(room / "model_fp16.param"), "--valid", str(room / "toy.bin"), *FLAGS]) == 0

    assert "mean cosine to model.onnx on" in capsys.readouterr().out
    report = json.loads((room / "model_fp16.param.report.json").read_text())
    assert (report["kind"], report["executor"], report["mean_cosine"]) == (
        "ncnn_fp16",
        "ncnn, CPU",
        pytest.approx(1),
    )
    assert report["size_bytes"] == sum((room / f"model_fp16.{end}").stat().st_size for end in ("param", "bin"))


def test_any_script_runs_an_ncnn_model(room, stand_in):
    convert(room)
    faces = np.stack([synthetic_face(1, k, 0) for k in range(5)])
    embedder = open_embedder(room / "model_float.param", read_sidecar(room / "model_float.param").io, threads=2)

    together = embedder(faces)

    np.testing.assert_allclose(together, OnnxEmbedder(room / "model.onnx", IO)(faces), atol=1e-5)
    embedder.close()


@pytest.mark.parametrize("mistake", mistakes.TRIED, ids=lambda mistake: mistake.name.replace(" ", "_"))
def test_a_mistake_in_feeding_is_named(mistake, room, stand_in, monkeypatch):
    convert(room)
    monkeypatch.setenv("MISTAKE", mistake.name)

    with pytest.raises(FaceError, match=mistake.name):
        ncnn_test.main([str(room / "model_float.param"), "--valid", str(room / "toy.bin"), *FLAGS])


def test_weights_of_another_model_are_refused(room, stand_in):
    convert(room)
    with open(room / "model_float.bin", "ab") as file:
        file.write(b"more")

    with pytest.raises(FaceError, match=r"model_float\.bin' was changed after the sidecar of 'model_float\.param'"):
        ncnn_test.main([str(room / "model_float.param"), "--valid", str(room / "toy.bin"), *FLAGS])


def refused(room, *words):
    with pytest.raises(FaceError) as caught:
        onnx_2_ncnn.main([str(room / "model.onnx"), *words])
    assert not list(room.glob("*.param*"))
    return str(caught.value)


def test_without_the_environment_one_line_says_so(room, stand_in):
    (stand_in / ".venv-ncnn" / "ready").unlink()

    assert refused(room).endswith(".venv-ncnn is missing: make ncnn")


def test_a_model_of_another_layout_is_refused(room):
    write_sidecar(room / "model.onnx", kind="onnx", made_from=None, io=Io())

    assert "python pb_2_onnx.py optimized.pb --layout nchw" in refused(room)


def test_what_pnnx_says_is_passed_on(room, stand_in, monkeypatch):
    monkeypatch.setenv("REFUSED", "1")

    assert "model.onnx' (unsupported operator)" in refused(room)


def test_a_file_that_is_no_param_is_refused(room):
    (room / "model.param").write_bytes(b"layers")

    with pytest.raises(FaceError, match="must begin with 7767517"):
        ncnn_test.main([str(room / "model.param"), "--valid", str(room / "toy.bin"), "--layout", "nchw"])


# --------------------------------------------------------------------------------------------------------- the real one


@pytest.mark.slow
@pytest.mark.needs_tool(".venv-ncnn")
@pytest.mark.parametrize("mode", ["float", "fp16"])
def test_pnnx_converts_and_ncnn_runs_the_net(mode, tmp_path, capsys):
    """MobileFaceNet with few channels and random weights, ReLU6, from our own ONNX."""
    from backbones import build_backbone
    from facelib.export.freeze import freeze
    from facelib.export.onnx.convert import OnnxOptions, graph_to_onnx
    from facelib.export.optimize import optimize
    from facelib.training.recipe.toml import load_recipe
    from tests.helpers.random_weights import random_weights

    config = load_recipe(ROOT / "recipes" / "k210_mobilefacenet.toml", ["model.width=0.25", "model.embedding_size=16"])
    graph = optimize(freeze(random_weights(build_backbone(config.model), spread=0.5)), "input_1", "embeddings")
    model = graph_to_onnx(graph, "input_1", "embeddings", (112, 112), OnnxOptions(layout="nchw"))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    write_sidecar(tmp_path / "model.onnx", kind="onnx", made_from=None, io=IO)
    write_pairs(tmp_path / "toy.bin", SyntheticSet(20, 4), 20)

    convert(tmp_path, "--mode", mode)
    ncnn_test.main([str(tmp_path / f"model_{mode}.param"), "--valid", str(tmp_path / "toy.bin"), *FLAGS])

    report = json.loads((tmp_path / f"model_{mode}.param.report.json").read_text())
    assert report["mean_cosine"] > (0.999999 if mode == "float" else 0.9999)
