"""rknn/: the scripts with a stand-in for RKNN-Toolkit2, and the toolkit itself where it is."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from facelib.data.synthetic.faces import synthetic_face
from facelib.data.synthetic.files import SyntheticSet, write_pairs
from facelib.errors import FaceError
from facelib.export.rknn.convert import parse_layers
from facelib.model_input import Io, scaling_of
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.runtimes.open_embedder import open_embedder
from facelib.sidecar import read_sidecar, write_sidecar
from tests.helpers import mistakes
from tests.helpers.chip_stand_in import load_script, stand_in_for
from tests.helpers.patches_onnx import write_model

ROOT = Path(__file__).parents[2]
IO = Io(layout="nchw", pixels="imagenet")
FLAGS = ["--pairs", "20", "--far", "0.2", "--threads", "1"]
LAYERS = """
# simulator_error: calculate the output error of each layer
layer_name                                 simulator_error
                                       entire              single
                                    cos      euc        cos      euc
---------------------------------------------------------------------
[Input] input_1                   1.00000 | 0.00000   1.00000 | 0.00000
[Conv] net_1/stem_bn_1/Fused
[Clip] net_1/stem_act_1/Relu6     0.99990 | 2.48705   0.99980 | 2.48705
[Conv] net_1/gdc_bn_1/Fused       0.99356 | 1.94938   0.99488 | 1.75219
"""

# Its .rknn and simulator are the ONNX model. ONNX Runtime runs it on pixels that it scales itself, fed by the mistake
# in MISTAKE where there is one.
STAND_IN = f"""
import json, os, sys, zipfile
from pathlib import Path
import numpy as np

def convert(folder):
    if os.environ.get("REFUSED"):
        raise SystemExit("it cannot compile the model")
    room = Path(folder)
    settings, onnx = (room / "settings.json").read_text(), (room / "model.onnx").read_bytes()
    if json.loads(settings)["mode"] == "int8":
        crops = np.load(room / "crops.npy")
        assert crops.shape[1:] == (3, 112, 112) and crops.dtype == np.uint8
        (room / "layers.txt").write_text({LAYERS!r})
    (room / "model.rknn").write_bytes(b"RKNN" + onnx)
    with zipfile.ZipFile(room / "simulator.zip", "w") as bundle:
        bundle.writestr("settings.json", settings)
        bundle.writestr("model.onnx", onnx)

def load(simulator):
    import onnxruntime
    with zipfile.ZipFile(simulator) as bundle:
        settings, onnx = json.loads(bundle.read("settings.json")), bundle.read("model.onnx")
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    sys.path.insert(0, os.environ["STAND_IN_ROOT"])
    from facelib.wrong_input import MISTAKES
    apply = {{each.name: each.apply for each in MISTAKES}}.get(os.environ.get("MISTAKE"), lambda pixels: pixels)

    def run(pixels):
        scaled = (apply(pixels.astype(np.float32)) - settings["mean"]) / settings["std"]
        return session.run(None, {{settings["input"]: scaled.transpose(0, 3, 1, 2).astype(np.float32)}})[0]

    return {{"shape": [1, *settings["size"], 3], "dtype": "uint8", "outputs": [1, 48]}}, run

if __name__ == "__main__":
    convert(*sys.argv[2:])
"""

onnx_2_rknn, rknn_test = (load_script("rknn", name) for name in ("onnx_2_rknn", "rknn_test"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """model.onnx of scaled pixels with its sidecar, and toy.bin."""
    folder = tmp_path_factory.mktemp("rknn")
    write_model(folder / "model.onnx", offset=0)
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
    return stand_in_for("rknn", STAND_IN, tmp_path, monkeypatch)


def convert(room, *words, mode="int8"):
    calibration = ["--calibration", str(room / "toy.bin")] if mode == "int8" else []
    assert onnx_2_rknn.main([str(room / "model.onnx"), "--mode", mode, *calibration, *words]) == 0


def run_test(room, mode="int8"):
    return rknn_test.main([str(room / f"model_{mode}.rknn"), "--valid", str(room / "toy.bin"), *FLAGS])


def test_a_rknn_takes_raw_pixels_and_is_tested_like_every_artefact(room, stand_in, capsys):
    convert(room, "--chip", "rv1106")

    sidecar = read_sidecar(room / "model_int8.rknn")
    assert (sidecar.kind, sidecar.licence, sidecar.rest["chip"]) == ("rknn_int8", "mine", "rv1106")
    assert (sidecar.io.layout, sidecar.io.dtype, sidecar.io.pixels) == ("nhwc", "uint8", "raw")
    assert sidecar.rest["calibration"]["source"] == "toy.bin"
    assert sidecar.rest["parity"]["mean_cosine"] == pytest.approx(1, abs=1e-6)
    assert run_test(room) == 0

    assert "mean cosine to model.onnx on" in capsys.readouterr().out
    report = json.loads((room / "model_int8.rknn.report.json").read_text())
    assert (report["kind"], report["executor"]) == ("rknn_int8", "RKNN-Toolkit2, simulator")
    assert report["mean_cosine"] == pytest.approx(1)


def test_the_chip_is_told_mean_and_std_of_the_sidecar(room, stand_in):
    io = Io(layout="nchw", pixels="imagenet", colour="bgr")
    write_sidecar(room / "model.onnx", kind="onnx", made_from=None, io=io)

    convert(room, mode="fp16")

    with ZipFile(room / "model_fp16.rknn.simulator.zip") as bundle:
        settings = json.loads(bundle.read("settings.json"))
    told = {key: settings[key] for key in ("mean", "std")}
    assert told == scaling_of(io) and told["mean"][0] == 103.53


def test_the_layers_that_lose_most_are_named_and_drawn(room, stand_in, capsys):
    convert(room)

    assert "  gdc_bn (Conv) -0.0051, cosine 0.9936" in capsys.readouterr().out
    assert (room / "model_int8.layers.png").read_bytes()[:4] == b"\x89PNG"
    stem, gdc = parse_layers(LAYERS)
    assert (stem.layer, stem.operation, stem.cosine, stem.lost) == ("stem_act", "Clip", 0.9999, pytest.approx(0.0002))
    assert read_sidecar(room / "model_int8.rknn").rest["layers"] == [stem.as_dict(), gdc.as_dict()]


def test_any_script_runs_a_rknn(room, stand_in):
    convert(room, mode="fp16")
    faces = np.stack([synthetic_face(1, k, 0) for k in range(5)])
    embedder = open_embedder(room / "model_fp16.rknn", read_sidecar(room / "model_fp16.rknn").io, threads=2)

    together = embedder(faces)

    np.testing.assert_allclose(together, OnnxEmbedder(room / "model.onnx", IO)(faces), atol=1e-5)
    embedder.close()


@pytest.mark.parametrize("mistake", mistakes.TRIED, ids=lambda mistake: mistake.name.replace(" ", "_"))
def test_a_mistake_in_feeding_is_named(mistake, room, stand_in, monkeypatch):
    convert(room, mode="fp16")
    monkeypatch.setenv("MISTAKE", mistake.name)

    with pytest.raises(FaceError, match=mistake.name):
        run_test(room, "fp16")


def test_the_simulator_of_another_model_is_refused(room, stand_in):
    convert(room, mode="fp16")
    with open(room / "model_fp16.rknn.simulator.zip", "ab") as file:
        file.write(b"more")

    with pytest.raises(FaceError, match=r"simulator\.zip' was changed after the sidecar of 'model_fp16\.rknn'"):
        run_test(room, "fp16")


def refused(room, *words):
    with pytest.raises(FaceError) as caught:
        onnx_2_rknn.main([str(room / "model.onnx"), *words])
    assert not list(room.glob("*.rknn*")) and "\n" not in str(caught.value)
    return str(caught.value)


def test_without_the_environment_one_line_says_so(room, stand_in):
    (stand_in / ".venv-rknn" / "ready").unlink()

    assert refused(room, "--mode", "fp16").endswith(".venv-rknn is missing: make rknn")


@pytest.mark.parametrize(
    "words, message",
    [
        ((), "Pass --calibration DATA"),
        (("--chip", "rk9999", "--mode", "fp16"), "--chip must be one of rk3588, .* Received: 'rk9999'"),
        (("--chip", "rv1106", "--mode", "fp16"), "rv1106 computes only in integers"),
        (("--mode", "fp16", "--out", "model.onnx"), "--out must end in .rknn"),
    ],
)
def test_an_impossible_request_is_refused(words, message, room):
    with pytest.raises(FaceError, match=message):
        onnx_2_rknn.main([str(room / "model.onnx"), *words])


def test_a_model_of_another_layout_is_refused(room):
    write_sidecar(room / "model.onnx", kind="onnx", made_from=None, io=Io())

    assert "python pb_2_onnx.py optimized.pb --layout nchw --pixels outside" in refused(room, "--mode", "fp16")


def test_what_the_toolkit_says_is_passed_on(room, stand_in, monkeypatch):
    monkeypatch.setenv("REFUSED", "1")

    assert "model.onnx' (it cannot compile the model)" in refused(room, "--mode", "fp16")


def test_a_file_that_is_no_rknn_is_refused(room):
    (room / "model_fp16.rknn").write_bytes(b"layers")
    write_sidecar(room / "model_fp16.rknn", kind="rknn_fp16", made_from=None, io=Io(dtype="uint8"))

    with pytest.raises(FaceError, match="must begin with 'RKNN'"):
        run_test(room, "fp16")


# --------------------------------------------------------------------------------------------------------- the real one


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """MobileFaceNet with few channels, PReLU and random weights, from our own ONNX, with calibration crops."""
    from backbones import build_backbone
    from facelib.export.freeze import freeze
    from facelib.export.onnx.convert import OnnxOptions, graph_to_onnx
    from facelib.export.optimize import optimize
    from facelib.training.recipe.toml import load_recipe
    from tests.helpers.random_weights import random_weights

    folder = tmp_path_factory.mktemp("real")
    words = ["model.width=0.25", "model.embedding_size=32", "model.activation='prelu'"]
    config = load_recipe(ROOT / "recipes" / "k210_mobilefacenet.toml", words)
    graph = optimize(freeze(random_weights(build_backbone(config.model), spread=0.5)), "input_1", "embeddings")
    model = graph_to_onnx(graph, "input_1", "embeddings", (112, 112), OnnxOptions("nchw", prelu_nodes=True))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    write_sidecar(folder / "model.onnx", kind="onnx", made_from=None, io=Io(layout="nchw"))
    write_pairs(folder / "toy.bin", SyntheticSet(20, 4), 20)
    return folder


@pytest.mark.slow
@pytest.mark.needs_tool(".venv-rknn")
@pytest.mark.parametrize("mode, cosine", [("int8", 0.98), ("fp16", 0.9999)])
def test_the_toolkit_compiles_and_simulates_a_net_with_prelu(mode, cosine, real):
    convert(real, "--num-calibration", "16", mode=mode)
    run_test(real, mode)

    report = json.loads((real / f"model_{mode}.rknn.report.json").read_text())
    assert report["mean_cosine"] > cosine
    layers = read_sidecar(real / f"model_{mode}.rknn").rest.get("layers", [])
    assert ("gdc_bn" in [layer["layer"] for layer in layers]) == (mode == "int8")


@pytest.mark.slow
@pytest.mark.needs_tool(".venv-rknn")
@pytest.mark.parametrize(
    "mistake, told, fed",
    [
        ("pixels scaled twice", Io(layout="nchw", pixels="pm1"), Io(dtype="uint8")),
        ("BGR for RGB", Io(layout="nchw"), Io(dtype="uint8", colour="bgr")),
    ],
)
def test_a_rknn_that_is_told_or_fed_wrongly_is_refused(mistake, told, fed, real, tmp_path):
    """The toolkit is told a scaling that the net does itself, or the faces come in another order of colours."""
    for name in ("model.onnx", "toy.bin"):
        shutil.copy(real / name, tmp_path / name)
    write_sidecar(tmp_path / "model.onnx", kind="onnx", made_from=None, io=told)
    with suppress(FaceError):  # scaled twice, faces may look so alike that the conversion already refuses the model
        convert(tmp_path, mode="fp16")
    if not (tmp_path / "model_fp16.rknn").is_file():
        return
    write_sidecar(tmp_path / "model_fp16.rknn", kind="rknn_fp16", made_from=None, io=fed)

    words = [str(tmp_path / "model_fp16.rknn"), "--valid", str(tmp_path / "toy.bin"), *FLAGS]
    with pytest.raises(FaceError, match=mistake):
        rknn_test.main([*words, "--reference", str(real / "model.onnx")])


@pytest.mark.slow
@pytest.mark.needs_tool(".venv-rknn")
def test_an_nhwc_model_that_a_sidecar_calls_nchw_is_refused(tmp_path):
    from facelib.export.onnx.convert import OnnxOptions, graph_to_onnx
    from facelib.export.optimize import optimize
    from tests.helpers.small_net import small_graph

    graph = optimize(small_graph(), "input_1", "embeddings")
    model = graph_to_onnx(graph, "input_1", "embeddings", (112, 112), OnnxOptions())
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    write_sidecar(tmp_path / "model.onnx", kind="onnx", made_from=None, io=IO)

    assert "model.onnx'" in refused(tmp_path, "--mode", "fp16")
