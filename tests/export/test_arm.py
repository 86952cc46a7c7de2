"""arm/: the test script with this Python in place of the emulated one, the parts of its set-up, and the real thing."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from facelib.data.synthetic.files import SyntheticSet, write_pairs
from facelib.errors import FaceError
from facelib.model_input import Io
from facelib.runtimes.arm import CPUS, ArmEmbedder
from facelib.runtimes.open_embedder import open_embedder
from facelib.sidecar import write_sidecar
from facelib.unit_vectors import row_cosines
from tests.helpers.chip_stand_in import load_script
from tests.helpers.patches_onnx import write_model
from tests.helpers.random_weights import random_weights

ROOT = Path(__file__).parents[2]
IO = Io(layout="nchw")
FLAGS = ["--pairs", "20", "--far", "0.2", "--threads", "1"]
set_up, arm_test = (load_script("arm", name) for name in ("set_up", "arm_test"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with model.onnx and toy.bin."""
    folder = tmp_path_factory.mktemp("arm")
    write_pairs(folder / "toy.bin", SyntheticSet(20, 4, first_identity=100), 20)
    write_model(folder / "model.onnx")
    write_sidecar(folder / "model.onnx", kind="onnx", made_from=None, io=IO)
    return folder


@pytest.fixture
def emulated(tmp_path, monkeypatch):
    """Puts this Python in place of the emulated one."""
    python = tmp_path / ".venv-arm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (tmp_path / ".venv-arm" / "ready").touch()
    python.write_text(f'#!/bin/sh\ntest "$ARM_CPU" = nocpu && exit 1\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr("facelib.runtimes.array_worker.scripts_folder", lambda: tmp_path)


def test_the_report_names_the_cpu_and_no_times_and_the_bits_are_compared(folder, emulated, capsys):
    report = folder / "report.json"

    assert arm_test.main([str(folder / "model.onnx"), "--valid", str(folder / "toy.bin"), "--cpu", "cortex-a76",
                          "--report", str(report), *FLAGS]) == 0  # fmt: skip

    value = json.loads(report.read_text())
    assert value["executor"] == "ONNX Runtime, CPU on cortex-a76 in QEMU"
    assert value["ms_per_image"] is None and value["ms_single"] is None and value["min_cosine"] > 0.999999
    assert value["same_bits"] == 1
    printed = capsys.readouterr().out
    assert "images/s" not in printed
    assert re.search(r"on (\d+) faces: 1\.000000, worst 1\.000000; the same bits on \1\n", printed)


def test_the_report_of_each_cpu_has_a_name_of_its_own(folder, emulated):
    for cpu in CPUS[:2]:
        arm_test.main([str(folder / "model.onnx"), "--valid", str(folder / "toy.bin"), "--cpu", cpu, *FLAGS])

    assert {f"model.onnx.{cpu}.report.json" for cpu in CPUS[:2]} <= {path.name for path in folder.iterdir()}


def test_what_cannot_run_is_one_line(folder, emulated, tmp_path):
    with pytest.raises(FaceError, match=r"model\.onnx' does not run on an emulated nocpu\. Try"):
        ArmEmbedder(folder / "model.onnx", IO, cpu="nocpu")
    (tmp_path / "x.h5").write_bytes(b"h5")
    with pytest.raises(FaceError, match=r"can run only \.tflite and \.onnx files\. Received: '.*x\.h5'"):
        ArmEmbedder(tmp_path / "x.h5", Io())
    (tmp_path / ".venv-arm" / "ready").unlink()
    with pytest.raises(FaceError, match=r"\.venv-arm is missing: make arm"):
        ArmEmbedder(folder / "model.onnx", IO)


# -------------------------------------------------------------------------------------------------------------- set-up


def test_without_debians_programs_the_set_up_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FaceError, match="This computer does not have apt-get"):
        set_up.main([])


@pytest.mark.parametrize(
    ("said", "expected"), [("qemu-aarch64 version 10.0.2 (Debian 1)", (10, 0)), ("something else", (0, 0))]
)
def test_the_version_of_qemu_is_read(tmp_path, said, expected):
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)

    assert set_up.qemu_version(program) == expected


def test_the_first_stanza_of_a_debian_is_turned_to_its_backports(tmp_path, monkeypatch):
    text = "Types: deb\nURIs: http://mirror\nSuites: bookworm bookworm-updates\nComponents: main\n"
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "a.sources").write_text("Types: deb\nURIs: http://other\nSuites: stable\n")
    (tmp_path / "sources.list.d" / "debian.sources").write_text(text)
    release = "ID=debian\nVERSION_CODENAME=bookworm\n"

    changed, suite = set_up.backports_of(tmp_path, release)

    assert suite == "bookworm-backports"
    assert changed == text.replace("bookworm bookworm-updates", "bookworm bookworm-backports")
    assert set_up.backports_of(tmp_path, release.replace("debian", "ubuntu")) == ("", "")
    assert set_up.backports_of(tmp_path / "none", release) == ("", "")


# --------------------------------------------------------------------------------------------------------- the real one


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    """A small MobileFaceNet as int8 .tflite and .onnx, and toy.bin."""
    return convert_small_net(tmp_path_factory.mktemp("int8"), "relu6", (".tflite", ".onnx"))


def convert_small_net(folder, activation, suffixes):
    """Writes model.tflite and model.onnx, int8, of a net with random weights and slopes, and toy.bin."""
    import h5_2_pb
    import pb_2_onnx
    import pb_2_tflite
    from backbones import build_backbone
    from facelib.export import optimize
    from facelib.models.settings import ModelConfig

    write_pairs(folder / "toy.bin", SyntheticSet(20, 4, first_identity=100), 40)
    model = build_backbone(ModelConfig(width=0.25, embedding_size=16, activation=activation))
    random_weights(model, spread=0.3).save(folder / "embedder.h5")
    write_sidecar(folder / "embedder.h5", kind="h5", made_from=None, io=Io(embedding_size=16))
    assert h5_2_pb.main([str(folder / "embedder.h5"), "--out", str(folder / "frozen.pb")]) == 0
    assert optimize.main([str(folder / "frozen.pb"), str(folder / "optimized.pb")]) == 0
    calibration = ["--calibration", str(folder / "toy.bin"), "--mode", "int8"]
    for suffix in suffixes:
        convert, out = {".tflite": pb_2_tflite, ".onnx": pb_2_onnx}[suffix], str(folder / f"model{suffix}")
        assert convert.main([str(folder / "optimized.pb"), *calibration, "--out", out]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.needs_tool(".venv-arm")
@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", ["model.tflite", "model.onnx"])
def test_int8_on_every_cpu_is_that_of_this_one(int8, cpu, name):
    io = Io(embedding_size=16)
    faces = np.random.default_rng(0).integers(0, 256, (8, 112, 112, 3)).astype(np.uint8)
    embedder = ArmEmbedder(int8 / name, io, cpu=cpu)
    try:
        received = embedder.raw(faces)
    finally:
        embedder.close()

    expected = open_embedder(int8 / name, io, 1).raw(faces)
    assert row_cosines(received, expected).min() > 0.99  # one step in one layer shows in a net of random weights
    if name == "model.tflite":  # ONNX Runtime scales the pixels as floats, and rounds them
        np.testing.assert_array_equal(received, expected)


@pytest.mark.slow
@pytest.mark.needs_tool(".venv-arm")
def test_an_int8_prelu_net_has_the_same_bits(tmp_path):
    """Equal slopes, as before a training, would not: XNNPACK rounds exact ties of MUL in another way on ARM."""
    model = convert_small_net(tmp_path, "prelu", [".tflite"]) / "model.tflite"
    faces = np.random.default_rng(0).integers(0, 256, (4, 112, 112, 3)).astype(np.uint8)
    embedder = ArmEmbedder(model, Io(embedding_size=16))
    try:
        received = embedder.raw(faces)
    finally:
        embedder.close()

    np.testing.assert_array_equal(received, open_embedder(model, Io(embedding_size=16), 1).raw(faces))


@pytest.mark.slow
@pytest.mark.needs_tool(".venv-arm")
def test_the_scripts_of_a_board_run_unchanged_on_an_arm_cpu(int8, tmp_path):
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            ROOT / ".venv-arm" / "bin" / "python", "tflite_test.py", int8 / "model.tflite", "--valid", int8 / "toy.bin",
            "--pairs", "20", "--threads", "1", "--report", report,
        ],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"ARM_CPU": "cortex-a76"},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    here = tmp_path / "here.json"
    command = [sys.executable, "tflite_test.py", int8 / "model.tflite", "--valid", int8 / "toy.bin", "--pairs", "20"]
    subprocess.run([*command, "--threads", "1", "--report", here], cwd=ROOT, check=True, capture_output=True)
    one, other = (json.loads(path.read_text())["sets"]["toy"] for path in (report, here))
    assert {key: one[key] for key in ("acc", "auc", "dist_max", "dist_min")} == {
        key: other[key] for key in ("acc", "auc", "dist_max", "dist_min")
    }


@pytest.fixture
def wrong_sme(tmp_path):
    """Runs a script on the CPU `max` or another in QEMU 7.2, which computes SME wrongly."""
    qemu = shutil.which(set_up.QEMU)
    if qemu is None or set_up.qemu_version(Path(qemu)) != (7, 2):
        pytest.skip("needs_tool: QEMU 7.2 is not installed")
    arm, place = ROOT / ".venv-arm", tmp_path / "arm"
    (place / "root" / "proc").mkdir(parents=True)
    for each in (arm / "root").iterdir():
        (place / "root" / each.name).symlink_to(each.resolve())
    words = [arm / "bin" / "python", "-c", "print(open('/proc/cpuinfo').read())"]
    cpuinfo = subprocess.run(words, capture_output=True, check=True, env=os.environ | {"ARM_CPU": "max"}).stdout
    (place / "root" / "proc" / "cpuinfo").write_bytes(cpuinfo)  # 7.2 shows that of this computer
    (place / "bin").mkdir()
    shutil.copy(arm / "bin" / "python", place / "bin")

    def run(cpu, *words):
        environment = os.environ | {"ARM_CPU": cpu, "ARM_QEMU": qemu}
        words = [place / "bin" / "python", *words]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)

    return run


@pytest.mark.slow
@pytest.mark.needs_tool(".venv-arm")
def test_the_self_test_finds_a_wrong_emulation_before_any_table(int8, wrong_sme, tmp_path):
    model, report = int8 / "model.tflite", tmp_path / "report.json"

    done = wrong_sme("max", "tflite_test.py", model, "--valid", int8 / "toy.bin", "--pairs", "20", "--report", report)

    assert done.returncode == 1 and not done.stdout and not report.exists()
    assert "does not return the embedding of its self test" in done.stderr and "computes wrongly" in done.stderr
    right = wrong_sme("max,sme=off", "board/bench_board.py", model, "--out", tmp_path / "board.json")
    assert right.returncode == 0 and "same bits" in right.stdout
