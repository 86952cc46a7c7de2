"""k210/: the linter on nets made here, the scripts with a stand-in for kmodel, and nncase itself where it is."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import tflite_test
from backbones import build_backbone
from facelib.data.synthetic.faces import encode_jpeg, synthetic_face
from facelib.data.verification.bins import write_bin
from facelib.data.verification.pair_lists import draw_listed
from facelib.errors import FaceError
from facelib.export.freeze import freeze
from facelib.export.k210.rules import check_ops, kpu_bytes
from facelib.export.optimize import optimize
from facelib.export.tflite.convert import TfliteOptions, graph_to_tflite
from facelib.model_input import Io
from facelib.models.layers import PixelScale, PReLU
from facelib.runtimes import kmodel
from facelib.runtimes.open_embedder import open_embedder
from facelib.runtimes.tflite import read_ops
from facelib.sidecar import read_sidecar, write_sidecar
from facelib.training.recipe.toml import load_recipe
from tests.helpers.random_weights import random_weights

ROOT = Path(__file__).parents[2]
REPORT = """8. Generate code...

SUMMARY
INPUTS
0\tinput\tu8[1,3,112,112]
OUTPUTS
0\tembeddings_1\tf32[1,128]

MEMORY USAGES
.input\t  36.75 KB\t(37632 B)
.output\t 512.00 B\t(512 B)
.data\t   1.95 MB\t(2044672 B)
MODEL\t   1.40 MB\t(1472032 B)
TOTAL\t   3.39 MB\t(3554848 B)
"""  # what nncase 1.9.0.20230322 printed for the LeakyReLU version of the recipe's net


def load_script(name):
    """A script of k210/ as a module: they are run by path."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "k210" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_k210, tflite_2_kmodel, kmodel_test = map(load_script, ("check_k210", "tflite_2_kmodel", "kmodel_test"))


def convert(model, path, mode="float", crops=None, size=None):
    """A Keras model as a .tflite of batch 1."""
    graph = freeze(model)
    size = size or model.inputs[0].shape[1:3]
    path.write_bytes(graph_to_tflite(graph, Io(size=tuple(size)), (1, *size, 3), TfliteOptions(mode, crops)))
    return path


def net(path, *stack, size=(16, 16), mode="float", crops=None):
    """A .tflite of a few layers."""
    inputs = keras.Input((*size, 3), name="input_1")
    x = inputs
    for layer in stack:
        x = layer(x)
    x = layers.Activation("linear", name="embeddings")(layers.Flatten()(x))
    return convert(keras.Model(inputs, x, name="small"), path, mode, crops)


def conv(filters=8, kernel=3, stride=1, padding="valid", name="c", **options):
    return layers.Conv2D(filters, kernel, stride, padding, name=name, use_bias=False, **options)


def slopes(*values, name="act"):
    """A PReLU with these slopes, as training leaves one."""
    layer = PReLU(name=name)
    layer.build((None, 1, 1, len(values)))
    layer.alpha.assign(values)
    return layer


def mixed_prelu(name="act"):
    return slopes(*np.linspace(0.1, 0.5, 8), name=name)


# ------------------------------------------------------------------------------------------------------------ linter

ERRORS = {
    "prelu": ((conv(), mixed_prelu()), {}, "act", r"PReLU of 8 slopes.*swap_activation.py EMBEDDER.h5 OUT --to relu6"),
    "keras_prelu": (
        (conv(), layers.PReLU(shared_axes=[1, 2], alpha_initializer="random_uniform", name="act")), {}, "act",
        r"PReLU of 8 slopes",
    ),
    "same_at_stride_2": ((conv(stride=2, padding="same"),), {}, "c", r"pads 0, 1 \(before, after\).*\"symmetric\""),
    "depthwise_same_at_stride_2": (
        (conv(), layers.DepthwiseConv2D(3, 2, "same", name="dw")), {"size": (18, 18)}, "dw", r"pads 0, 1",
    ),
    "uneven_pad_layer": (
        (layers.ZeroPadding2D(((1, 0), (1, 0))), conv(stride=2)), {}, "c", r"pads 1, 0 \(before, after\)",
    ),
    "channels": ((conv(1032, 1),), {"size": (4, 4)}, "c", r"1,032 channels, but the KPU supports at most 1,024"),
    "map": ((conv(2),), {"size": (244, 16)}, "c", r"a map of 244x16, but the KPU supports at most 240x320"),
    "maps_of_kpu": ((conv(64), conv(256, 1, name="d")), {"size": (114, 114)}, "d", r"maps of 4.4 MiB for its input"),
    "unknown": ((conv(), layers.Activation("elu", name="act")), {}, "act", r"is ELU, which nncase 1.9 does not"),
    "ram": ((conv(20, 5), layers.Activation("tanh", name="t")), {"size": (204, 204)}, "the whole", r"needs 6.1 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_the_linter_names_the_layer_and_what_to_do(case, tmp_path):
    stack, options, layer, message = ERRORS[case]
    path = net(tmp_path / "x.tflite", *stack, **options)

    errors = {finding.layer: finding.what for finding in check_ops(read_ops(path)).errors}

    assert list(errors) == [layer], errors
    assert re.search(message, errors[layer]), errors[layer]


GOOD = {
    "symmetric": (layers.ZeroPadding2D(1), conv(stride=2)),
    "same_on_odd_maps": (conv(kernel=2, name="odd"), conv(stride=2, padding="same")),
    "same_at_stride_1": (conv(padding="same"), layers.DepthwiseConv2D(3, 1, "same")),
    "relu6": (conv(), layers.ReLU(6.0)),
    "leaky_relu": (conv(), layers.LeakyReLU(0.1)),
    "one_slope_for_all": (conv(), slopes(*[0.25] * 8)),
    "input_scale": (PixelScale((120, 110, 100), (58, 57, 59)), conv()),
}


@pytest.mark.parametrize("case", GOOD)
def test_what_fits_has_no_errors(case, tmp_path):
    lint = check_ops(read_ops(net(tmp_path / "x.tflite", *GOOD[case])))

    assert lint.errors == []
    assert {finding.layer for finding in lint.notes} <= {"odd"}
    assert lint.on_kpu >= 1


@pytest.mark.parametrize(
    ("stack", "layer", "reason"),
    [
        ((layers.DepthwiseConv2D(7, name="gdc"),), "gdc", "its kernel is 7x7"),
        ((conv(kernel=5),), "c", "its kernel is 5x5"),
        ((conv(stride=3),), "c", "its stride is 3x3"),
        ((conv(dilation_rate=2),), "c", "not support dilation"),
        ((layers.MaxPooling2D(3, name="pool"), conv()), "pool", "not support such a MAX_POOL_2D"),
        ((conv(), layers.Activation("tanh", name="act")), "act", "not support such a TANH"),
    ],
)  # fmt: skip
def test_what_the_cpu_does_is_a_note(stack, layer, reason, tmp_path):
    lint = check_ops(read_ops(net(tmp_path / "x.tflite", *stack)))

    assert lint.errors == []
    assert [reason in finding.what for finding in lint.notes if finding.layer == layer] == [True]


def test_a_quantised_model_is_refused_once(tmp_path):
    crops = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    for mode in ("int8", "fp16", "dynamic"):
        stack = (conv(32, padding="same"), layers.ReLU(), conv(64, name="d"))
        path = net(tmp_path / "x.tflite", *stack, mode=mode, crops=crops)

        (error,) = check_ops(read_ops(path)).errors

        assert "--mode float" in error.what, mode


def test_a_map_in_the_kpu_has_rows_of_64_bytes():
    """By hand: up to 16 columns 4 channels share a row, up to 32 columns 2; wider maps take whole rows."""
    assert kpu_bytes(7, 7, 512) == 7 * (512 // 4) * 64
    assert kpu_bytes(7, 7, 5) == 7 * 2 * 64
    assert kpu_bytes(28, 28, 128) == 28 * (128 // 2) * 64
    assert kpu_bytes(56, 56, 128) == 56 * 128 * 64
    assert kpu_bytes(112, 112, 3) == 112 * 3 * 2 * 64


def test_the_ram_holds_the_weights_and_the_largest_maps_of_the_cpu(tmp_path):
    """By hand: KPU weights take a byte each; what the CPU computes is float32, weights and maps."""
    path = net(tmp_path / "x.tflite", conv(8), conv(4, 5, name="d"), size=(16, 12))

    lint = check_ops(read_ops(path))

    on_kpu, on_cpu = 3 * 3 * 3 * 8, 5 * 5 * 8 * 4
    maps = 14 * 10 * 8 + 10 * 6 * 4  # in and out of "d"
    assert lint.on_kpu == 1 and [finding.layer for finding in lint.notes] == ["d"]
    assert lint.ram_bytes == on_kpu + 4 * on_cpu + 4 * maps


@pytest.mark.slow
def test_the_recipe_fits_the_k210(tmp_path):
    model = build_backbone(load_recipe(ROOT / "recipes" / "k210_mobilefacenet.toml").model)
    path = tmp_path / "model_float.tflite"
    graph = optimize(freeze(random_weights(model)), "input_1", "embeddings")
    path.write_bytes(graph_to_tflite(graph, Io(), (1, 112, 112, 3), TfliteOptions("float")))

    lint = check_ops(read_ops(path))

    assert lint.errors == []
    assert [finding.layer for finding in lint.notes] == ["gdc"]
    assert lint.on_kpu == 49 and lint.kpu_layer == "group1_block1_dw"
    assert lint.kpu_bytes == 2 * 56 * 128 * 64  # in and out, of the first strided depthwise layer
    weights = sum(np.prod(w.shape) for layer in model.layers for w in layer.weights if w.name == "kernel")
    assert weights < lint.ram_bytes < 6 * 2**20


def test_the_script_lists_all_and_exits_with_1(tmp_path):
    path = net(
        tmp_path / "x.tflite", conv(stride=2, padding="same"), mixed_prelu(), layers.DepthwiseConv2D(7, name="g")
    )

    done = subprocess.run(
        [sys.executable, "k210/check_k210.py", str(path)], cwd=ROOT, capture_output=True, text=True, timeout=100
    )

    assert done.returncode == 1
    assert [line.split(":")[0].split() for line in done.stdout.splitlines()] == [
        ["error", "c"], ["error", "act"], ["note", "g"],
    ]  # fmt: skip
    assert done.stderr.startswith("error: The K210 cannot run") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("cut", [0, 3, 8, 100, 1000, -1])
def test_a_damaged_tflite_is_one_line(cut, tmp_path):
    path = net(tmp_path / "x.tflite", conv())
    path.write_bytes(path.read_bytes()[:cut])

    if cut == -1:
        return  # the last byte is padding: either answer will do, as long as it is one of these
    with pytest.raises(FaceError):
        check_k210.main([str(path)])


# ------------------------------------------------------------------------------------------------------- --pairs N


@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_drawn_pairs_are_even_over_folds_and_kinds(each, spare, seed):
    rng = np.random.default_rng(seed)
    fold = np.repeat([True, False], each + spare)
    is_same = np.concatenate([rng.permutation(fold) for _ in range(10)])

    picked = draw_listed(is_same, 20 * each)

    assert (np.diff(picked) > 0).all() and len(picked) == 20 * each
    by_fold = is_same[picked].reshape(10, 2 * each)
    assert (by_fold.sum(1) == each).all()
    assert (picked.reshape(10, -1) // len(fold) == np.arange(10)[:, None]).all()
    np.testing.assert_array_equal(picked, draw_listed(is_same, 20 * each))


@pytest.mark.parametrize(
    ("num_pairs", "message"),
    [(30, "multiple of 20.*Use --pairs 40"), (0, "multiple of 20"), (60, "at most --pairs 40")],
)
def test_pairs_that_cannot_be_drawn(num_pairs, message):
    with pytest.raises(FaceError, match=message):
        draw_listed(np.tile([True, True, False, False], 10), num_pairs)


# -------------------------------------------------------------------------------------------- scripts, with a stand-in

STAND_IN = '''
"""Stands in for nncase in the tests: its "kmodel" is the .tflite, which LiteRT runs."""
import os, sys
from pathlib import Path
import numpy as np

def load(path):
    from ai_edge_litert.interpreter import Interpreter
    lite = Interpreter(model_content=Path(path).read_bytes()[4:])
    lite.allocate_tensors()
    source, target = lite.get_input_details()[0], lite.get_output_details()[0]
    _, height, width, _ = source["shape"].tolist()
    random, noise = np.random.default_rng(0), float(os.environ.get("STAND_IN_NOISE", "0"))
    sys.path.insert(0, os.environ["STAND_IN_ROOT"])
    from facelib.wrong_input import MISTAKES
    apply = {each.name: each.apply for each in MISTAKES}.get(os.environ.get("MISTAKE"), lambda pixels: pixels)

    def run(pixels):
        fed = np.ascontiguousarray(apply(pixels.transpose(0, 2, 3, 1).astype(np.float32)), np.float32)
        lite.set_tensor(source["index"], fed); lite.invoke()
        return lite.get_tensor(target["index"]) + random.normal(size=target["shape"]) * noise

    return {"shape": [1, 3, height, width], "dtype": "uint8", "outputs": target["shape"].tolist()}, run

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    assert np.load(folder / "crops.npy").shape[1:] == (3, 112, 112)
    (folder / "model.kmodel").write_bytes(b"LDMK" + (folder / "model.tflite").read_bytes())
    on_cpu, on_kpu = "[Call] k210_0\\n[Conv2D] gdc\\n[Quantize] q\\n", "[KPUConv2D] x\\n" * 3
    for name, text in (("stackvm", on_cpu), ("k210/a", on_kpu)):
        (folder / "dump" / name).mkdir(parents=True)
        (folder / "dump" / name / "runtime_ops.txt").write_text(text)
    print(os.environ["STAND_IN_REPORT"])
'''


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The recipe's net with few channels and random weights as a .tflite, and a set of synthetic faces."""
    folder = tmp_path_factory.mktemp("small")
    config = load_recipe(ROOT / "recipes" / "k210_mobilefacenet.toml", ["model.width=0.25", "model.embedding_size=16"])
    keras.utils.set_random_seed(1)  # of some seeds, the one whose net heeds colours most: a mistake must show
    convert(random_weights(build_backbone(config.model), spread=0.5), folder / "model_float.tflite")
    write_sidecar(folder / "model_float.tflite", kind="tflite_float", made_from=None, io=Io(), licence="mine")
    images = [encode_jpeg(synthetic_face(4, k // 4, k % 2 if k % 4 < 2 else k), 95) for k in range(80)]
    write_bin(folder / "toy.bin", images, [k % 2 == 0 for k in range(40)])
    return folder


@pytest.fixture
def room(small, tmp_path, monkeypatch):
    """A folder with the .tflite, and a stand-in for k210/ with its environment."""
    k210 = tmp_path / "k210"
    (k210 / ".venv" / "bin").mkdir(parents=True)
    (k210 / ".venv" / "ready").touch()
    python = k210 / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (k210 / "nncase_worker.py").write_text(STAND_IN)
    monkeypatch.setattr(kmodel, "K210_DIR", k210)
    monkeypatch.setenv("STAND_IN_REPORT", REPORT)
    monkeypatch.setenv("STAND_IN_ROOT", str(ROOT))
    for name in ("model_float.tflite", "model_float.tflite.json"):
        (tmp_path / name).write_bytes((small / name).read_bytes())
    return tmp_path


def compile_it(room, small, *words):
    words = ["--calibration", str(small / "toy.bin"), "--num-calibration", "4", *words]
    return tflite_2_kmodel.main([str(room / "model_float.tflite"), *words])


def test_a_kmodel_is_tested_like_every_artefact(room, small, capsys):
    assert compile_it(room, small) == 0

    printed = capsys.readouterr().out
    assert "RAM 3,554,848 of 6,291,456 bytes: input 37,632, output 512, data 2,044,672, model 1,472,032" in printed
    assert "3 convolutions on the KPU; on the CPU Conv2D gdc" in printed
    sidecar = read_sidecar(room / "model.kmodel")
    assert (sidecar.kind, sidecar.licence, sidecar.io.dtype, sidecar.io.layout) == ("kmodel", "mine", "uint8", "nchw")
    assert sidecar.rest["calibration"]["count"] == 4 and sidecar.rest["calibration"]["seed"] == 0
    assert sidecar.rest["memory"]["total"] == 3554848
    assert sidecar.rest["nncase"]["calibrate_method"] == "no_clip"
    assert sidecar.rest["parity"]["mean_cosine"] == pytest.approx(1, abs=1e-6)

    flags = ["--valid", str(small / "toy.bin"), "--pairs", "20", "--far", "0.2"]
    tflite_test.main([str(room / "model_float.tflite"), *flags])
    reference = str(room / "model_float.tflite.report.json")
    capsys.readouterr()
    assert kmodel_test.main([str(room / "model.kmodel"), *flags, "--threads", "2", "--against", reference]) == 0

    printed = capsys.readouterr().out
    assert "mean cosine to model_float.tflite on 40 faces: 1.0000" in printed
    ours, theirs = (
        json.loads(Path(f"{room}/{name}.report.json").read_text()) for name in ("model.kmodel", "model_float.tflite")
    )
    assert (ours["kind"], ours["mean_cosine"]) == ("kmodel", pytest.approx(1))
    assert ours["sets"]["toy"]["pairs"] == 20 and ours["sets"]["toy"]["source"]["drawn_from"] == 40
    for key in ("acc", "auc", "dist_max", "dist_min"):
        assert ours["sets"]["toy"][key] == pytest.approx(theirs["sets"]["toy"][key], abs=1e-5)


def test_a_kmodel_that_is_another_net_is_refused(room, small, monkeypatch):
    compile_it(room, small)
    monkeypatch.setenv("STAND_IN_NOISE", "100")
    words = [str(room / "model.kmodel"), "--valid", str(small / "toy.bin"), "--pairs", "20", "--far", "0.2"]

    with pytest.raises(FaceError, match=r"self test.*No known mistake explains it.*nncase 1\.9, simulator"):
        kmodel_test.main(words)
    assert not (room / "model.kmodel.report.json").exists()

    sidecar = json.loads((room / "model.kmodel.json").read_text())
    (room / "model.kmodel.json").write_text(json.dumps({**sidecar, "self_test": None}))  # as an older one
    with pytest.raises(FaceError, match=r"mean cosine >= 0.985.*with different or more calibration crops"):
        kmodel_test.main(words)
    assert (room / "model.kmodel.report.json").is_file()


@pytest.mark.parametrize("mistake", ["pixels scaled twice", "BGR for RGB", "NHWC pixels read as NCHW"])
def test_a_mistake_in_feeding_is_named(mistake, room, small, monkeypatch):
    compile_it(room, small)
    monkeypatch.setenv("MISTAKE", mistake)

    with pytest.raises(FaceError, match=mistake):
        kmodel_test.main([str(room / "model.kmodel"), "--valid", str(small / "toy.bin"), "--pairs", "20"])
    assert not (room / "model.kmodel.report.json").exists()


@pytest.mark.slow
def test_any_script_runs_a_kmodel_in_any_batch(room, small):
    compile_it(room, small)
    faces = np.stack([synthetic_face(1, k, 0) for k in range(5)])
    embedder = open_embedder(room / "model.kmodel", read_sidecar(room / "model.kmodel").io, threads=2)

    together = embedder(faces)

    flat = open_embedder(room / "model_float.tflite", Io(), threads=1)(faces)
    np.testing.assert_allclose(together, flat, atol=1e-5)
    np.testing.assert_array_equal(embedder(faces[3:4]), together[3:4])
    embedder.close()


def refused(room, small, *words):
    with pytest.raises(FaceError) as caught:
        compile_it(room, small, *words)
    assert not list(room.glob("*.kmodel*")) and not list(room.glob(".*part"))
    return str(caught.value)


def test_a_model_that_does_not_fit_is_not_written(room, small, monkeypatch):
    monkeypatch.setenv("STAND_IN_REPORT", REPORT.replace("(3554848 B)", "(6291457 B)"))

    assert "has 6 MiB of RAM. " in refused(room, small)


def test_what_nncase_says_is_passed_on(room, small):
    (kmodel.K210_DIR / "nncase_worker.py").write_text("raise SystemExit('KPU allocator: no memory')")

    assert "(KPU allocator: no memory). To find the cause: python k210/check_k210.py" in refused(room, small)


def test_without_python_310_one_line_says_so(room, small):
    (kmodel.K210_DIR / ".venv" / "ready").unlink()

    assert (
        refused(room, small)
        == "nncase 1.9, which compiles for the K210, needs Python 3.10. k210/.venv is missing: make k210"
    )


def test_a_model_for_another_chip_is_refused(room, small):
    net(room / "model_float.tflite", conv(), mixed_prelu(), conv(name="d"), mixed_prelu("act2"))
    (room / "model_float.tflite.json").unlink()

    message = refused(room, small, "--pixels", "raw")
    assert "act is a PReLU of 8 slopes" in message and "1 more problems: python k210/check_k210.py" in message


def test_calibration_is_asked_for(room):
    with pytest.raises(FaceError, match=r"measure the ranges of the activations\. Pass --calibration DATA"):
        tflite_2_kmodel.main([str(room / "model_float.tflite")])


def test_a_file_that_is_no_kmodel_is_refused(room, small):
    (room / "model.kmodel").write_bytes(b"KMDL" * 20)

    with pytest.raises(FaceError, match="must begin with 'LDMK'"):
        kmodel_test.main([str(room / "model.kmodel"), "--valid", str(small / "toy.bin"), "--layout", "nchw"])


@pytest.mark.slow
def test_a_folder_has_no_pairs_to_draw_from(room, small, tmp_path):
    compile_it(room, small)
    for person in ("a", "b"):
        (tmp_path / "people" / person).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "people" / person / "1.png"), np.zeros((112, 112, 3), np.uint8))

    with pytest.raises(FaceError, match="tests N pairs"):
        kmodel_test.main([str(room / "model.kmodel"), "--valid", str(tmp_path / "people")])


# --------------------------------------------------------------------------------------------------------- the real one


@pytest.mark.needs_tool("nncase")
def test_nncase_compiles_and_simulates_the_net(small, tmp_path, capsys):
    for name in ("model_float.tflite", "model_float.tflite.json"):
        (tmp_path / name).write_bytes((small / name).read_bytes())

    assert compile_it(tmp_path, small) == 0

    sidecar = read_sidecar(tmp_path / "model.kmodel")
    assert sidecar.rest["parity"]["mean_cosine"] > 0.97  # random weights; 0.99 with trained ones
    memory = sidecar.rest["memory"]
    assert memory["input"] == 3 * 112 * 112 and memory["output"] == 4 * 16
    assert memory["model"] == (tmp_path / "model.kmodel").stat().st_size
    assert memory["total"] == sum(size for name, size in memory.items() if name != "total") < 6 * 2**20
    (on_cpu,) = sidecar.rest["on_cpu"]
    assert "gdc" in on_cpu  # as the linter says
    printed = capsys.readouterr().out
    assert f"cosine to the float model on 4 crops: worst {sidecar.rest['parity']['min_cosine']:.6f}" in printed
