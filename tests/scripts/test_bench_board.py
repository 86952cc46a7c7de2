"""board/bench_board.py: self tests, times, sensors and memory of models, as a table and as JSON; nothing in QEMU."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from facelib import machine
from facelib.errors import FaceError
from facelib.model_input import Io
from facelib.runtimes.tflite import TfliteEmbedder
from facelib.self_test import make_self_test
from facelib.sidecar import sidecar_path, write_sidecar
from tests.helpers.chip_stand_in import load_script
from tests.helpers.patches_onnx import write_model

ROOT = Path(__file__).parents[2]
bench_board = load_script("board", "bench_board")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """net.tflite, the network of the detector with a self test, and net.onnx without one."""
    folder = tmp_path_factory.mktemp("board")
    net, io = folder / "net.tflite", Io(size=(192, 192), fit="resize", pixels="unit", output="points")
    shutil.copy(ROOT / "facelib/alignment/weights/face_points.tflite", net)
    test = make_self_test(TfliteEmbedder(net, io), "tflite_float")
    write_sidecar(net, kind="tflite_float", made_from=None, io=io, self_test=test)
    write_sidecar(write_model(folder / "net.onnx"), kind="onnx", made_from=None, io=Io(layout="nchw"))
    return folder


@pytest.fixture
def here(monkeypatch):
    """Measures in this process, on a machine of two cores, with sensors that warm up."""
    monkeypatch.setattr(bench_board, "in_separate_process", bench_board.measure)
    monkeypatch.setattr(machine, "cores", lambda: 2)
    celsius, mhz = iter(range(40, 99)), iter(range(2400, 0, -100))
    monkeypatch.setattr(machine, "temperature", lambda: next(celsius))
    monkeypatch.setattr(machine, "clock_mhz", lambda: next(mhz))


def bench(folder, *words):
    assert bench_board.main([*words, "--seconds", "0.05", "--out", str(folder / "board.json")]) == 0
    return json.loads((folder / "board.json").read_text())


def test_each_model_has_a_row_and_its_numbers(folder, here, capsys):
    found = bench(folder, str(folder / "net.tflite"), str(folder / "net.onnx"))

    assert (found["emulated"], found["cores"]) == (False, 2) and found["packages"]["ai-edge-litert"]
    for model in found["models"]:
        assert [call["threads"] for call in model["calls"]] == [1, 2]  # not 4 on two cores
        assert all(call["num"] >= 3 and 0 < call["ms_median"] <= call["ms_p95"] for call in model["calls"])
        assert model["peak_bytes"] > 1 << 20
    first, second = found["models"]
    assert first["self_test"] == {"cosine": pytest.approx(1), "same_bits": True, "made_on": "LiteRT, XNNPACK"}
    assert (first["before"], first["after"]) == ({"celsius": 40, "mhz": 2400}, {"celsius": 41, "mhz": 2300})
    assert second["self_test"] is None and second["executor"] == "ONNX Runtime, CPU"
    heads, _, *rows = capsys.readouterr().out.split("\n")[:4]
    assert "4 threads" in heads and re.search(r"same bits .* \d+\.\d\d / \d+\.\d\d .* - \|.*40 -> 41", rows[0])
    assert "none in the sidecar" in rows[1]


def test_on_an_emulated_cpu_only_the_self_test_runs(folder, here, monkeypatch, capsys):
    monkeypatch.setattr(machine, "is_emulated", lambda: True)
    monkeypatch.setattr(bench_board, "call_times_ms", None)

    (model,) = bench(folder, str(folder / "net.tflite"))["models"]

    assert model["self_test"]["same_bits"] and model["calls"] == [] and model["peak_bytes"] is None
    assert model["before"] == model["after"] == {"celsius": None, "mhz": None}
    assert ", emulated |" in (printed := capsys.readouterr().out) and "are left out" in printed


def test_a_model_that_is_run_wrongly_is_one_line_and_no_json(folder, here, tmp_path):
    for path in (folder / "net.tflite", sidecar_path(folder / "net.tflite")):
        shutil.copy(path, tmp_path)
    sidecar = sidecar_path(tmp_path / "net.tflite")
    sidecar.write_text(sidecar.read_text().replace('"unit"', '"raw"'))

    with pytest.raises(FaceError, match="does not return the embedding of its self test"):
        bench(tmp_path, str(tmp_path / "net.tflite"))
    assert not (tmp_path / "board.json").exists()


def test_what_cannot_be_measured_is_refused_before_the_first_model(folder, tmp_path):
    shutil.copy(folder / "net.tflite", tmp_path / "alone.tflite")
    for words, message in (
        (["alone.tflite"], "needs a sidecar"), (["none.onnx"], "No model"), (["board.json"], "No model"),
        (["alone.tflite", "--seconds", "0"], "above 0"),
    ):  # fmt: skip
        with pytest.raises(FaceError, match=message):
            bench_board.main([str(tmp_path / words[0]), *words[1:]])
    (tmp_path / "net.h5").write_bytes(b"h5")
    with pytest.raises(FaceError, match=r"must be a \.tflite or \.onnx file"):
        bench_board.main([str(tmp_path / "net.h5")])


def test_the_shell_script_measures_each_model_in_a_process_of_its_own(folder, tmp_path):
    words = [ROOT / "board/bench_board.sh", folder / "net.tflite", "--seconds", "0.05", "--out", tmp_path / "a.json"]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(words, capture_output=True, text=True, env={"PATH": path}, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "a.json").read_text())["models"][0]["self_test"]["same_bits"]
    assert done.stdout.startswith("| board ")
