"""esp/: the scripts with a stand-in for esp-ppq, and esp-ppq itself where it is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from facelib.data.synthetic.faces import synthetic_face
from facelib.data.synthetic.files import SyntheticSet, write_pairs
from facelib.errors import FaceError
from facelib.model_input import Io
from facelib.runtimes.esp import EspdlEmbedder
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.runtimes.open_embedder import open_embedder
from facelib.sidecar import read_sidecar, write_sidecar
from tests.helpers import mistakes
from tests.helpers.chip_stand_in import load_script, stand_in_for
from tests.helpers.patches_onnx import write_model

ROOT = Path(__file__).parents[2]
IO = Io(layout="nchw", pixels="pm1")
FLAGS = ["--pairs", "20", "--far", "0.2", "--threads", "1"]

# Its .espdl holds the ONNX model. ONNX Runtime runs it, fed by the mistake in MISTAKE where there is one.
STAND_IN = """
import json, os, sys
from pathlib import Path
import numpy as np

def convert(folder):
    settings = json.loads((folder / "settings.json").read_text())
    pixels = np.load(folder / "pixels.npy")
    assert pixels.dtype == np.float32 and pixels.shape[1:] == (3, 112, 112)
    assert pixels.min() == np.float32(-127.5 / 128) and pixels.max() == np.float32(127.5 / 128)
    if os.environ.get("REFUSED"):
        raise SystemExit("unsupported operator")
    (folder / "model.espdl").write_bytes(b"EDL2" + (folder / "model.onnx").read_bytes())
    int16 = ["conv"] if settings["int16"] is None and settings["bits"] == 8 else settings["int16"] or []
    report = {"int16": int16, "layers": [{"name": "conv", "error": 0.25}], "exponents": {"x": -4}, "trained": 0}
    (folder / "report.json").write_text(json.dumps({**report, "asked": settings}))
    Path(os.environ["ASKED"]).write_text(json.dumps(settings))

def load(path, onnx):
    import onnxruntime
    content = Path(path).read_bytes()[4:]
    assert content == Path(onnx).read_bytes()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    sys.path.insert(0, os.environ["STAND_IN_ROOT"])
    from facelib.wrong_input import MISTAKES
    apply = {each.name: each.apply for each in MISTAKES}.get(os.environ.get("MISTAKE"), lambda pixels: pixels)

    def run(values):
        raw = values.transpose(0, 2, 3, 1) * 128 + 127.5
        pixels = (apply(raw).transpose(0, 3, 1, 2) - 127.5) / 128
        return session.run(None, {"input_1": np.ascontiguousarray(pixels, np.float32)})[0]

    return {"shape": [1, 3, 112, 112], "dtype": "float32", "outputs": [1, 48]}, run

if __name__ == "__main__":
    convert(Path(sys.argv[2]))
"""


onnx_2_espdl, espdl_test = (load_script("esp", name) for name in ("onnx_2_espdl", "espdl_test"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """model.onnx with its sidecar, and toy.bin."""
    folder = tmp_path_factory.mktemp("esp")
    write_model(folder / "model.onnx", offset=0.0)
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
    """A project folder with an environment and a worker that stands in for esp-ppq."""
    monkeypatch.setenv("ASKED", str(tmp_path / "asked.json"))
    return stand_in_for("esp", STAND_IN, tmp_path, monkeypatch)


def convert(room, *words):
    return onnx_2_espdl.main([str(room / "model.onnx"), "--calibration", str(room / "toy.bin"), *words])


def test_an_espdl_is_tested_like_every_artefact(room, stand_in, capsys):
    assert convert(room, "--chip", "esp32p4") == 0

    sidecar = read_sidecar(room / "model_esp32p4.espdl")
    assert (sidecar.kind, sidecar.licence, sidecar.io) == ("espdl", "mine", IO)
    assert {name: sidecar.rest[name] for name in ("chip", "bits", "int16", "exponents")} == {
        "chip": "esp32p4",
        "bits": 8,
        "int16": ["conv"],
        "exponents": {"x": -4},
    }
    assert sidecar.rest["layers"] == [{"name": "conv", "error": 0.25}] and sidecar.rest["calibration"]["count"] > 8
    assert "16 bits in 1 layers: conv" in capsys.readouterr().out
    assert espdl_test.main([str(room / "model_esp32p4.espdl"), "--valid", str(room / "toy.bin"), *FLAGS]) == 0

    assert "mean cosine to model.onnx on" in capsys.readouterr().out
    report = json.loads((room / "model_esp32p4.espdl.report.json").read_text())
    assert (report["kind"], report["executor"]) == ("espdl", "esp-ppq, simulator")
    assert report["mean_cosine"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], {"chip": "esp32s3", "bits": 8, "int16": None, "min_cosine": 0.97, "exponents": None}),
        (["--int16", "none"], {"int16": []}),
        (["--int16", "a", "b", "--min-cosine", "0.9"], {"int16": ["a", "b"], "min_cosine": 0.9}),
        (["--bits", "16", "--chip", "esp32p4"], {"bits": 16, "chip": "esp32p4"}),
    ],
)
def test_the_flags_reach_esp_ppq(room, stand_in, words, asked):
    assert convert(room, *words) == 0

    received = json.loads((stand_in / "asked.json").read_text())
    assert asked.items() <= received.items()
    name = f"model_{received['chip']}{'_int16' if received['bits'] == 16 else ''}.espdl"
    assert (room / name).is_file() and (room / f"{name}.json").is_file()


def test_any_script_runs_an_espdl(room, stand_in):
    convert(room)
    faces = np.stack([synthetic_face(1, k, 0) for k in range(5)])
    embedder = open_embedder(room / "model_esp32s3.espdl", read_sidecar(room / "model_esp32s3.espdl").io, threads=2)

    together = embedder(faces)

    np.testing.assert_allclose(together, OnnxEmbedder(room / "model.onnx", IO)(faces), atol=1e-4)
    embedder.close()


@pytest.mark.parametrize("mistake", mistakes.TRIED, ids=lambda mistake: mistake.name.replace(" ", "_"))
def test_a_mistake_in_feeding_is_named(mistake, room, stand_in, monkeypatch):
    convert(room)
    monkeypatch.setenv("MISTAKE", mistake.name)

    with pytest.raises(FaceError, match=mistake.name):
        espdl_test.main([str(room / "model_esp32s3.espdl"), "--valid", str(room / "toy.bin"), *FLAGS])

    assert not (room / "model_esp32s3.espdl.report.json").exists()


def test_a_float_model_that_is_another_or_missing_is_refused(room, stand_in):
    convert(room)
    command = [str(room / "model_esp32s3.espdl"), "--valid", str(room / "toy.bin"), *FLAGS]
    with open(room / "model_esp32s3.onnx", "ab") as file:
        file.write(b"more")

    with pytest.raises(FaceError, match=r"esp32s3\.onnx' was changed after the sidecar of 'model_esp32s3\.espdl'"):
        espdl_test.main(command)

    (room / "model_esp32s3.onnx").unlink()
    with pytest.raises(FaceError, match="No file of simulated"):
        espdl_test.main(command)


def test_the_float_model_does_not_replace_the_one_that_is_converted(room):
    with pytest.raises(FaceError, match=r"the script also writes an \.onnx with the name of --out"):
        convert(room, "--out", str(room / "model.espdl"))


def refused(room, *words):
    with pytest.raises(FaceError) as caught:
        convert(room, *words)
    assert not list(room.glob("*.espdl*")) and not list(room.glob("model_*"))
    return str(caught.value)


def test_without_the_environment_one_line_says_so(room, stand_in):
    (stand_in / ".venv-esp" / "ready").unlink()

    assert refused(room).endswith(".venv-esp is missing: make esp")


@pytest.mark.parametrize("io", [Io(pixels="pm1"), Io(layout="nchw")], ids=["nhwc", "raw"])
def test_a_model_of_another_form_is_refused(room, io):
    write_sidecar(room / "model.onnx", kind="onnx", made_from=None, io=io)

    assert "pb_2_onnx.py optimized.pb --layout nchw --pixels outside --batch 1" in refused(room)


def test_crops_are_needed(room):
    for words in ([], ["--calibration", str(room / "toy.bin"), "--num-calibration", "7"]):
        with pytest.raises(FaceError, match="At least 8 real crops"):
            onnx_2_espdl.main([str(room / "model.onnx"), *words])


def test_what_esp_ppq_says_is_passed_on(room, stand_in, monkeypatch):
    monkeypatch.setenv("REFUSED", "1")

    assert "cannot quantise the model (unsupported operator)" in refused(room)


def test_a_file_that_is_no_espdl_is_refused(room):
    (room / "model.espdl").write_bytes(b"layers")

    with pytest.raises(FaceError, match="must begin with 'EDL2'"):
        espdl_test.main([str(room / "model.espdl"), "--valid", str(room / "toy.bin"), "--layout", "nchw"])


# --------------------------------------------------------------------------------------------------------- the real one


@pytest.mark.slow
@pytest.mark.needs_tool(".venv-esp")
@pytest.mark.parametrize("chip", ["esp32s3", "esp32p4"])
def test_esp_ppq_quantises_and_simulates_the_net(chip, tmp_path, capsys):
    """MobileFaceNet with few channels and random weights, ReLU6, from our own ONNX; one layer with 16 bits."""
    from backbones import build_backbone
    from facelib.export.freeze import freeze
    from facelib.export.graph_input import without_scaling
    from facelib.export.onnx.convert import OnnxOptions, graph_to_onnx
    from facelib.export.optimize import optimize
    from facelib.training.recipe.toml import load_recipe
    from tests.helpers.random_weights import random_weights

    config = load_recipe(ROOT / "recipes" / "k210_mobilefacenet.toml", ["model.width=0.25", "model.embedding_size=16"])
    graph = optimize(freeze(random_weights(build_backbone(config.model), spread=0.5)), "input_1", "embeddings")
    graph, io = without_scaling(graph, Io(), tmp_path / "a.pb")
    model = graph_to_onnx(graph, "input_1", "embeddings", (112, 112), OnnxOptions(layout="nchw", batch=1))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    write_sidecar(tmp_path / "model.onnx", kind="onnx", made_from=None, io=Io(layout="nchw", pixels=io.pixels))
    write_pairs(tmp_path / "toy.bin", SyntheticSet(20, 4), 20)
    layer = next(node.name for node in model.graph.node if node.op_type == "Conv")

    assert convert(tmp_path, "--chip", chip, "--int16", layer) == 0
    espdl_test.main(
        [str(tmp_path / f"model_{chip}.espdl"), "--valid", str(tmp_path / "toy.bin"), *FLAGS, "--min-cosine", "0.8"]
    )

    sidecar = read_sidecar(tmp_path / f"model_{chip}.espdl")
    report = json.loads((tmp_path / f"model_{chip}.espdl.report.json").read_text())
    assert sidecar.rest["int16"] == [layer] and sidecar.rest["exponents"]["input_1"] == -15
    assert report["mean_cosine"] > 0.9
    (tmp_path / f"model_{chip}.onnx").write_bytes((tmp_path / "model.onnx").read_bytes())  # other weights
    (tmp_path / f"model_{chip}.espdl.json").unlink()
    with pytest.raises(FaceError, match=r"the weights of .* differ from those of the ONNX model"):
        EspdlEmbedder(tmp_path / f"model_{chip}.espdl", sidecar.io)
