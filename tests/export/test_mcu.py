"""mcu/: the scripts with a stand-in for TFLite Micro, the C code against NumPy, and TFLite Micro where it is."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tflite_test
from backbones import build_backbone
from facelib.data.synthetic.faces import synthetic_face
from facelib.data.synthetic.files import SyntheticSet, write_pairs
from facelib.errors import FaceError
from facelib.export.freeze import freeze
from facelib.export.optimize import optimize
from facelib.export.tflite.convert import TfliteOptions, graph_to_tflite
from facelib.model_input import Io, fit_faces
from facelib.runtimes import array_worker, tflm
from facelib.runtimes.tflite import Lite, TfliteEmbedder
from facelib.self_test import ramps
from facelib.sidecar import read_sidecar, sidecar_path, write_sidecar
from facelib.training.recipe.toml import load_recipe
from facelib.unit_vectors import normalize
from facelib.wrong_input import MISTAKES
from tests.helpers.random_weights import random_weights

ROOT = Path(__file__).parents[2]
SIDE = 32
IO = Io(size=(SIDE, SIDE), fit="resize")


def load_script(name):
    """A script of mcu/ as a module: they are run by path."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "mcu" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tflm_test, tflite_2_c, vela_report = map(load_script, ("tflm_test", "tflite_2_c", "vela_report"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """toy.bin, and a small random net as float.tflite, uint8.tflite and int8.tflite with sidecars."""
    import keras

    from facelib.models.layers import PixelScale

    keras.utils.set_random_seed(3)
    inputs = keras.Input((SIDE, SIDE, 3), name="input_1")
    x = PixelScale(127.5, 128.0, name="pixel_scale")(inputs)
    x = keras.layers.Conv2D(16, 3, 2, activation="relu6", name="conv")(x)
    x = keras.layers.DepthwiseConv2D(3, 2, activation="relu6", name="dw")(x)
    x = keras.layers.Dense(24, use_bias=False, name="dense")(keras.layers.Flatten(name="flat")(x))
    model = keras.Model(inputs, keras.layers.Activation("linear", name="embeddings")(x), name="small")
    folder = tmp_path_factory.mktemp("mcu")
    crops = fit_faces(np.stack([synthetic_face(7, k, 0) for k in range(24)]), IO.size, IO.fit)
    graph = freeze(model)
    for name, options in (
        ("float", TfliteOptions("float")),
        ("uint8", TfliteOptions("int8", crops)),
        ("int8", TfliteOptions("int8", crops, edges="int8")),
    ):
        path, is_float = folder / f"{name}.tflite", name == "float"
        path.write_bytes(graph_to_tflite(graph, IO, (1, SIDE, SIDE, 3), options))
        kind, parent = ("tflite_float", None) if is_float else ("tflite_int8", folder / "float.tflite")
        io = Io(**{**IO.__dict__, "dtype": "float32" if is_float else name})
        write_sidecar(path, kind=kind, made_from=parent, io=io)
    write_pairs(folder / "toy.bin", SyntheticSet(20, 4), 20)
    return folder


@pytest.fixture
def room(models, tmp_path):
    """A copy of the models' folder, which a test may write into."""
    shutil.copytree(models, tmp_path / "room")
    return tmp_path / "room"


# ------------------------------------------------------------------------------------------ kernels of tflite_test.py


def embedded(path, kernels, num_faces=12):
    faces = np.stack([synthetic_face(9, k, 1) for k in range(num_faces)])
    return TfliteEmbedder(path, read_sidecar(path).io, 1, kernels=kernels)(faces)


def test_the_report_names_the_kernels(room, capsys):
    flags = [str(room / "int8.tflite"), "--valid", str(room / "toy.bin"), "--far", "0.2"]

    tflite_test.main([*flags, "--threads", "1"])
    tflite_test.main([*flags, "--threads", "1", "--kernels", "reference"])

    assert json.loads((room / "int8.tflite.report.json").read_text())["executor"] == "LiteRT, XNNPACK"
    assert (
        json.loads((room / "int8.tflite.reference.report.json").read_text())["executor"] == "LiteRT, reference kernels"
    )
    printed = capsys.readouterr().out
    assert "1 threads, LiteRT, XNNPACK)" in printed and "1 threads, LiteRT, reference kernels)" in printed


def test_reference_kernels_give_nearly_the_same_embeddings(models):
    ours, theirs = (embedded(models / "int8.tflite", kernels) for kernels in ("xnnpack", "reference"))

    assert 0.99 < np.sum(ours * theirs, axis=1).min() <= 1.0001


# ------------------------------------------------------------------------------------------- a stand-in for the worker

STAND_IN = '''
"""Stands in for TFLite Micro: LiteRT's reference kernels, fed by the mistake in MISTAKE where there is one."""
import os, sys
import numpy as np

def load(path):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
    lite = Interpreter(path, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    lite.allocate_tensors()
    source, target = lite.get_input_details()[0], lite.get_output_details()[0]
    sys.path.insert(0, os.environ["STAND_IN_ROOT"])
    from facelib.wrong_input import MISTAKES
    apply = {each.name: each.apply for each in MISTAKES}.get(os.environ.get("MISTAKE"), lambda pixels: pixels)
    zero_point = source["quantization"][1]

    def run(values):
        pixels = apply(values.astype(np.float32) - zero_point) + zero_point
        limits = np.iinfo(source["dtype"])
        lite.set_tensor(source["index"], np.clip(np.rint(pixels), limits.min, limits.max).astype(source["dtype"]))
        lite.invoke()
        return lite.get_tensor(target["index"])

    print("a greeting that is no answer")
    head = {"shape": source["shape"].tolist(), "dtype": np.dtype(source["dtype"]).name}
    arena = {"total": 262144, "head": 200704, "tail": 61440}
    return {**head, "outputs": target["shape"].tolist(), "arena": arena}, run
'''


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A project folder with a .venv-mcu and a worker that stands in for TFLite Micro."""
    home = tmp_path / "home"
    (home / ".venv-mcu" / "bin").mkdir(parents=True)
    (home / ".venv-mcu" / "ready").touch()
    python = home / ".venv-mcu" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (home / "tflm_worker.py").write_text(STAND_IN)
    monkeypatch.setattr(array_worker, "scripts_folder", lambda: home)
    monkeypatch.setattr(tflm, "WORKER", home / "tflm_worker.py")
    monkeypatch.setenv("STAND_IN_ROOT", str(ROOT))
    return home


def run_tflm(room, *words, model="int8.tflite"):
    flags = ["--valid", str(room / "toy.bin"), "--pairs", "20", "--far", "0.2", "--threads", "1"]
    return tflm_test.main([str(room / model), *flags, *words])


@pytest.mark.parametrize("model", ["int8.tflite", "uint8.tflite"])
def test_the_table_has_the_arena_and_the_cosines(model, room, stand_in, capsys):
    assert run_tflm(room, "--max-arena", "256", "--max-flash", "100", model=model) == 0

    printed = capsys.readouterr().out
    assert "arena 256.0 KiB (feature maps 196.0, bookkeeping 60.0 on a 64-bit computer), flash " in printed
    assert "data set | AUC" in printed and "TFLite Micro, reference kernels)" in printed
    to_float = float(re.search(r"mean cosine to float\.tflite on \d+ faces: (0\.9\d+|1\.0+)", printed)[1])
    assert to_float > 0.98
    assert re.search(r"mean cosine to LiteRT, XNNPACK .same file.: (0\.99|1\.0)", printed)
    report = json.loads((room / f"{model}.tflm.report.json").read_text())
    flash = (room / model).stat().st_size
    assert report["memory"] == {"arena": 262144, "arena_head": 200704, "arena_tail": 61440, "flash": flash}
    assert report["executor"] == "TFLite Micro, reference kernels" and report["mean_cosine"] == pytest.approx(
        to_float, abs=1e-4
    )
    assert "toy" in json.loads(sidecar_path(room / model).read_text())["thresholds"]


@pytest.mark.parametrize(
    ("flag", "limit", "message"),
    [
        (
            "--max-arena",
            "255",
            r"must fit into the chip's memory: arena <= 255 KiB\. Received: 256\.0 KiB\. Lower model\.width",
        ),
        ("--max-flash", "1", r"must fit into the chip's memory: flash <= 1 KiB\. Received: \d+\.\d KiB"),
        ("--max-arena", "0", r"--max-arena must be a size in KiB above 0\. Received: 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_test(flag, limit, message, room, stand_in):
    with pytest.raises(FaceError, match=message):
        run_tflm(room, flag, limit)

    assert not list(room.glob("*.tflm.report.json"))


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name.replace(" ", "_"))
def test_mistakes_in_feeding_are_named(mistake, room, stand_in, monkeypatch):
    monkeypatch.setenv("MISTAKE", mistake.name)

    with pytest.raises(FaceError, match=rf"embeddings as 'float\.tflite'\. .*The likely cause: {mistake.name}"):
        run_tflm(room)


def test_without_the_environment_one_line_says_so(room, stand_in):
    (stand_in / ".venv-mcu" / "ready").unlink()

    with pytest.raises(FaceError) as caught:
        run_tflm(room)

    expected = "TFLite Micro needs its own Python environment. .venv-mcu is missing: make mcu"
    assert str(caught.value) == expected


def test_the_reason_of_the_worker_is_passed_on(room, stand_in):
    (stand_in / "tflm_worker.py").write_text("def load(path):\n    raise ValueError('no kernel for ELU')\n")

    with pytest.raises(FaceError, match=r"TFLite Micro cannot run '.*int8\.tflite'.*\(no kernel for ELU\)\.$"):
        run_tflm(room)


# -------------------------------------------------------------------------------------------------------------- Vela

# What Vela 5.2 writes, shortened to the columns that are read.
VELA = """#!{python}
import sys
from pathlib import Path
accelerator = sys.argv[sys.argv.index("--accelerator-config") + 1]
if accelerator == "ethos-u99":
    sys.exit("error: argument --accelerator-config: invalid choice: 'ethos-u99'")
assert Path(sys.argv[1]).read_bytes()[4:8] == b"TFL3"
Path("model_summary_High_End.csv").write_text(
    "system_config,core_clock,inference_time,sram_memory_used,dram_memory_used,off_chip_flash_memory_used\\n"
    "High_End,500000000.0,0.0125,599.5,0.0,1051.25\\n"
)
Path("model_per-layer.csv").write_text(
    "Original Operator,Target,Op Cycles,Name\\n"
    "Conv2D,NPU,3000000,small_1/conv_1/Relu6;small_1/conv_1/convolution\\n"
    "Conv2D,NPU,1000000,small_1/conv_1/Relu6;small_1/conv_1/convolution\\n"
    "Elu,CPU,0,small_1/act_1/Elu\\n"
    "FullyConnected,NPU,2250000,embeddings\\n"
)
print("CPU operators = 1 (33.3%)\\nNPU operators = 2 (66.7%)")
"""


@pytest.fixture
def vela(stand_in):
    path = stand_in / ".venv-mcu" / "bin" / "vela"
    path.write_text(VELA.replace("{python}", sys.executable))
    path.chmod(0o755)


def test_vela_s_estimates_are_a_table_and_a_picture(room, vela, capsys):
    words = [str(room / "int8.tflite"), "--accelerators", "ethos-u55-128", "ethos-u85-256"]

    assert vela_report.main(words) == 0

    printed = capsys.readouterr().out
    assert "| ethos-u55-128 | High_End | 500 | 12.50 | 599.5 | 1051.2 | 2 | 1 |" in printed
    assert "ethos-u85-256: on the CPU: Elu small_1/act_1/Elu" in printed
    report = json.loads((room / "int8.tflite.vela.json").read_text())
    (first, _) = report["estimates"]
    assert [layer["cycles"] for layer in first["layers"]] == [3e6, 1e6, 2.25e6]
    assert (room / "int8.tflite.vela.png").read_bytes().startswith(b"\x89PNG")


def test_what_vela_refuses_is_one_line(room, vela):
    with pytest.raises(FaceError, match=r"Vela cannot compile '.*' for ethos-u99 \(error: argument --acc.*int8"):
        vela_report.main([str(room / "int8.tflite"), "--accelerators", "ethos-u99"])

    assert not list(room.glob("*.vela.*"))


# ------------------------------------------------------------------------------------------------------------ C code


@pytest.fixture(scope="module", params=["int8", "uint8"])
def program(request, models, tmp_path_factory):
    """(the model, the example compiled with the array of that model)."""
    out, path = tmp_path_factory.mktemp("c"), models / f"{request.param}.tflite"
    assert tflite_2_c.main([str(path), "--out", str(out), "--threshold", "1.25"]) == 0
    words = ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", "example.c", "face.c", "face_model.c"]
    subprocess.run([*words, "-lm", "-o", "example"], cwd=out, check=True)
    return path, out / "example"


def call(program, what, data):
    return subprocess.run([program, what], input=data, capture_output=True, check=True).stdout


@pytest.mark.needs_tool("gcc")
def test_c_feeds_the_same_bytes_as_the_test_scripts(program):
    path, example = program
    faces = fit_faces(np.stack([synthetic_face(2, k, 0) for k in range(3)]), IO.size, IO.fit)
    lite = Lite(path)

    for face in faces:
        assert call(example, "input", face.tobytes()) == lite.quantise(face.astype(np.float32)).tobytes()


@pytest.mark.needs_tool("gcc")
def test_c_runs_the_self_test(program):
    path, example = program
    lite, seen = Lite(path, kernels="reference"), []
    lite.dequantise = lambda output: seen.append(output) or output
    lite(ramps(IO.size)[None].astype(np.float32))
    assert call(example, "ramps", b"") == lite.quantise(ramps(IO.size).astype(np.float32)).tobytes()

    assert call(example, "self-test", seen[0].tobytes()) == b"cosine 1.0000, bit for bit\n"
    near = np.where(seen[0] == seen[0].max(), seen[0] - 1, seen[0]).astype(seen[0].dtype)
    assert re.fullmatch(rb"cosine (1\.0000|0\.99\d+)\n", call(example, "self-test", near.tobytes()))
    wrong = subprocess.run([example, "self-test"], input=seen[0][:, ::-1].tobytes(), capture_output=True, check=False)
    assert wrong.returncode == 1 and wrong.stdout.startswith(b"cosine ") and b"bit" not in wrong.stdout


@pytest.mark.needs_tool("gcc")
@pytest.mark.parametrize("same", [True, False])
def test_c_decides_as_numpy(program, same):
    path, example = program
    lite, random = Lite(path), np.random.default_rng(5)
    first = random.integers(-90, 90, lite.output_size)
    second = first + random.integers(-9, 10, lite.output_size) if same else random.integers(-90, 90, lite.output_size)
    outputs = np.stack([first, second]).astype(np.int8)

    norms, distance, verdict = re.fullmatch(
        r"((?:norm .*\n){2})distance (.*)\n(.*)\n", call(example, "compare", outputs.tobytes()).decode()
    ).groups()

    values = lite.dequantise(outputs)
    unit = normalize(values)
    expected = np.square(unit[0] - unit[1]).sum()
    assert float(distance) == pytest.approx(expected, abs=2e-6)
    np.testing.assert_allclose(
        [float(line.split()[1]) for line in norms.splitlines()], np.linalg.norm(values, axis=1), rtol=1e-5
    )
    assert verdict == ("same person" if same else "different people") and (expected <= 1.25) == same


@pytest.mark.needs_tool("gcc")
def test_the_array_is_the_file(program, tmp_path):
    path, example = program
    (tmp_path / "dump.c").write_text(
        '#include <stdio.h>\n#include "face_model.h"\nint main(void) '
        "{ return fwrite(face_model, 1, FACE_MODEL_BYTES, stdout) != FACE_MODEL_BYTES; }\n"
    )
    folder = example.parent
    words = ["gcc", "-Wall", "-Werror", f"-I{folder}", str(tmp_path / "dump.c"), str(folder / "face_model.c")]
    subprocess.run([*words, "-o", str(tmp_path / "dump")], check=True)

    assert subprocess.run([tmp_path / "dump"], capture_output=True, check=True).stdout == path.read_bytes()


def test_the_header_has_the_threshold_of_the_sidecar_and_the_points_of_the_crop(room, tmp_path):
    path = room / "int8.tflite"
    sidecar = json.loads(sidecar_path(path).read_text())
    one = {"distance": 1.125, "cosine": 0.4375, "distance_ci95": [1.0, 1.25], "far_ci95": [0.0005, 0.002]}
    thresholds = {"lfw": {"impostors": 3000, "flip": False, "far": {"0.001": one}}}
    sidecar_path(path).write_text(json.dumps({**sidecar, "thresholds": thresholds}))

    tflite_2_c.main([str(path), "--out", str(tmp_path / "c")])

    text = (tmp_path / "c" / "face_model.h").read_text()
    assert "#define FACE_THRESHOLD 1.125000000e+00f" in text and "calibrated on lfw: 3,000 impostor pairs" in text
    x, y = np.float32(38.2946) * SIDE / 112, np.float32(51.6963) * SIDE / 112
    assert f"{{{x:.4f}f, {y:.4f}f}}" in text


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("float.tflite", ("--threshold", "1"), r"has float32 input and float32 output.*--mode int8 --edges int8"),
        ("int8.tflite", (), r"no calibrated threshold\. Calibrate it"),
        ("int8.tflite", ("--threshold", "5"), r"0 to 4\. Received: 5"),
    ],
)
def test_c_source_is_refused_with_a_way_out(model, words, message, room, tmp_path):
    with pytest.raises(FaceError, match=message):
        tflite_2_c.main([str(room / model), "--out", str(tmp_path / "c"), *words])

    assert not (tmp_path / "c").exists()


# --------------------------------------------------------------------------------------------------------- the real one


@pytest.mark.slow
@pytest.mark.needs_tool(".venv-mcu")
@pytest.mark.parametrize("model", ["int8.tflite", "uint8.tflite", "float.tflite"])
def test_tflite_micro_gives_what_the_reference_kernels_give(model, models):
    faces = np.stack([synthetic_face(9, k, 1) for k in range(12)])
    micro = tflm.TflmEmbedder(models / model, read_sidecar(models / model).io)

    embeddings = micro(faces)
    micro.close()

    tolerance = 1e-6 if model == "float.tflite" else 0  # the order of float sums
    np.testing.assert_allclose(embeddings, embedded(models / model, "reference"), rtol=0, atol=tolerance)
    assert micro.memory["arena"] == micro.memory["arena_head"] + micro.memory["arena_tail"] > 16 * 16 * 15


@pytest.mark.slow
@pytest.mark.needs_tool(".venv-mcu")
def test_the_net_of_the_recipe_fits_half_a_mebibyte_of_ram_and_one_of_flash(tmp_path):
    model = random_weights(build_backbone(load_recipe(ROOT / "recipes" / "mcu_mobilefacenet.toml").model), spread=0.5)
    io = Io(size=(96, 96), fit="resize")
    crops = fit_faces(np.stack([synthetic_face(3, k, 0) for k in range(2)]), io.size, io.fit)
    graph = optimize(freeze(model), io.input, io.output)
    path = tmp_path / "net.tflite"
    path.write_bytes(graph_to_tflite(graph, io, (1, 96, 96, 3), TfliteOptions("int8", crops, edges="int8")))

    micro = tflm.TflmEmbedder(path, io)
    micro.close()

    assert micro.memory["arena"] <= 512 * 1024 and micro.memory["flash"] <= 1024 * 1024
    assert micro.memory["arena_head"] == 324 * 1024
