"""export_kit.py: whole kits, and accept.py, which judges what a device gave with nothing but NumPy."""

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

import export_kit
from facelib.data.synthetic.files import SyntheticSet, write_pairs
from facelib.errors import FaceError
from facelib.export.kit import accept
from facelib.export.optimize import optimize
from facelib.model_input import Io
from facelib.runtimes.frozen_graph import save_graph
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.runtimes.tflite import Lite
from facelib.self_test import ramps
from facelib.sidecar import read_sidecar, write_sidecar
from facelib.wrong_input import MISTAKES, as_function_of_values
from tests.helpers.small_net import small_graph

THRESHOLD = 0.05


def calibrated(flip=False):
    """The thresholds of a sidecar, as a test script writes them."""
    ends = {"distance_ci95": [0.01, 0.1], "far_ci95": [1e-4, 5e-2], "vr": 0.9, "vr_ci95": [0.8, 1]}
    far = {"0.001": {"distance": THRESHOLD, "cosine": 1 - THRESHOLD / 2, **ends}}
    return {"toy": {"sha256": "0", "impostors": 3000, "flip": flip, "far": far}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with export/optimized.pb, and toy.bin in it."""
    folder = tmp_path_factory.mktemp("kit") / "run"
    graph = folder / "export" / "optimized.pb"
    graph.parent.mkdir(parents=True)
    save_graph(optimize(small_graph(), "input_1", "embeddings"), graph)
    write_sidecar(graph, kind="optimized_pb", made_from=None, io=Io(), licence="CC0", thresholds=calibrated())
    write_pairs(folder / "toy.bin", SyntheticSet(30, 4), 60)
    return folder


@pytest.fixture(scope="module")
def kit(run):
    """The folder of a kit with 64 test crops."""
    out = run / "export" / "kit"
    assert export_kit.main([str(run), "--valid", str(run / "toy.bin"), "--num-calibration", "5"]) == 0
    return out


def device(kit, change=lambda pixels: pixels):
    """What a chip gives that runs the TFLite model and feeds it `change(pixels)`: float32 [64, 24]."""
    lite, crops = Lite(kit / "models" / "model_float.tflite"), np.load(kit / "test" / "crops.npy").astype(np.float32)
    return np.concatenate([lite(np.ascontiguousarray(pixels[None], np.float32)) for pixels in change(crops)])


def judge(kit, path, *words, capsys):
    code = accept.main([str(path), *map(str, words)], kit)
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_a_kit_has_all_that_a_converter_and_a_device_need(run, kit):
    facts = json.loads((kit / "kit.json").read_text())
    crops = np.load(kit / "calibration" / "crops.npy")

    assert {path.name for path in kit.iterdir()} == {
        "README.md", "accept.py", "kit.json", "self_test.png", "models", "calibration", "test",
    }  # fmt: skip
    assert (crops.shape, crops.dtype) == ((5, 112, 112, 3), np.uint8)
    for i, crop in enumerate(crops):
        picture = cv2.imread(str(kit / "calibration" / f"{i:04}.png"), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(picture, crop)
    assert len(list((kit / "test").glob("*.png"))) == len(np.load(kit / "test" / "crops.npy")) == 64
    assert sum(facts["genuine"]) == 16 and len(facts["genuine"]) == 32
    assert facts["threshold"] == {"set": "toy", "far": 0.001, "distance": THRESHOLD}
    assert facts["licence"] == "CC0" and facts["comparison"]["normalise"]
    assert facts["models"]["models/model_nchw.onnx"]["pixel_scaling"] == {"mean": [127.5] * 3, "std": [128.0] * 3}
    assert "float32 [1, 3, 112, 112], RGB, (pixel - mean) / std" in (kit / "README.md").read_text()


def test_every_model_gives_the_expected_embeddings(kit):
    crops, expected = np.load(kit / "test" / "crops.npy"), np.load(kit / "test" / "expected.npy")

    for name in ("model_nchw.onnx", "model_nhwc.onnx"):
        io = read_sidecar(kit / "models" / name).io
        rows = OnnxEmbedder(kit / "models" / name, io).raw(crops)
        np.testing.assert_allclose(rows, expected, atol=1e-3, err_msg=name)
    np.testing.assert_allclose(device(kit), expected, atol=1e-3)


def test_accept_runs_with_numpy_alone_on_npy_raw_and_text(kit, tmp_path):
    rows, libraries = device(kit) + np.float32(1e-4), tmp_path / "libraries"
    libraries.mkdir()
    for package in Path(np.__file__).parents[1].glob("numpy*"):
        (libraries / package.name).symlink_to(package)
    np.save(tmp_path / "out.npy", rows.reshape(64, 24, 1, 1))
    rows.astype("<f4").tofile(tmp_path / "out.bin")
    (tmp_path / "out.txt").write_text("\n".join(", ".join(f"{value:.7g}" for value in row) for row in rows))
    names = [str(tmp_path / name) for name in ("out.npy", "out.bin", "out.txt")]
    code = (
        f"import sys; sys.path.insert(0, {str(libraries)!r}); import runpy\n"
        f"accept = runpy.run_path({str(kit / 'accept.py')!r})\n"
        f"print([accept['main']([name]) for name in {names!r}], 'cv2' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)

    assert done.stdout.splitlines()[-1:] == ["[0, 0, 0] False"], done.stdout + done.stderr
    assert done.stdout.count("\npass\n") == 3 and "mean 1.0000" in done.stdout


def test_accept_is_written_in_the_python_that_it_names():
    source = Path(accept.__file__).read_text()

    ast.parse(source, feature_version=(3, 8))
    imported = {
        name.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import) for name in node.names
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy"}


WRONG = {
    "BGR for RGB": lambda pixels: pixels[..., ::-1],
    "pixels scaled twice": lambda pixels: (pixels - 127.5) / 128,
    "NHWC pixels read as NCHW": lambda pixels: pixels.reshape(-1, 3, 112, 112).transpose(0, 2, 3, 1),
}


def test_the_self_test_passes_or_names_the_mistake(kit, tmp_path, capsys):
    image = cv2.imread(str(kit / "self_test.png"), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(image, ramps((112, 112)))
    model = kit / "models" / "model_nhwc.onnx"
    embed = as_function_of_values(OnnxEmbedder(model, read_sidecar(model).io))
    values = image[None].astype(np.float32)

    np.save(tmp_path / "one.npy", embed(values))
    code, printed = judge(kit, tmp_path / "one.npy", "--self-test", capsys=capsys)
    assert code == 0 and printed == "self test: cosine 1.0000, at least 0.95\npass\n"

    for each in MISTAKES:
        np.save(tmp_path / "one.npy", embed(each.apply(values)))
        code, printed = judge(kit, tmp_path / "one.npy", "--self-test", capsys=capsys)
        assert code == 1 and f"The likely cause: {each.name} (cosine 1.000" in printed, printed
    np.save(tmp_path / "one.npy", np.full((1, 24), np.nan))
    assert "no known mistake" in judge(kit, tmp_path / "one.npy", "--self-test", capsys=capsys)[1]


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_in_feeding_fails_and_is_named(kit, tmp_path, name, capsys):
    np.save(tmp_path / "out.npy", device(kit, WRONG[name]))

    code, printed = judge(kit, tmp_path / "out.npy", capsys=capsys)

    assert code == 1 and f"The likely cause: {name} (cosine " in printed.splitlines()[-1]


def test_crops_in_another_order_and_embeddings_of_nothing_fail(kit, tmp_path, capsys):
    rows = device(kit)
    np.save(tmp_path / "order.npy", rows[::-1])
    np.save(tmp_path / "zero.npy", np.zeros_like(rows))

    assert "fail" in (said := judge(kit, tmp_path / "order.npy", capsys=capsys))[1] and said[0] == 1
    assert "crops in a different order" in said[1]
    assert judge(kit, tmp_path / "zero.npy", capsys=capsys) == (1, "fail: an embedding is zero or not finite\n")


def test_a_rough_device_fails_without_a_named_mistake(kit, tmp_path, capsys):
    rows = device(kit)
    noise = np.random.default_rng(0).normal(size=rows.shape) * np.abs(rows).mean() * 2
    np.save(tmp_path / "rough.npy", rows + noise)

    code, printed = judge(kit, tmp_path / "rough.npy", capsys=capsys)

    assert code == 1 and "is below 0.95" in printed and "The likely cause" not in printed
    assert judge(kit, tmp_path / "rough.npy", "--min-cosine", "-1", capsys=capsys)[1].count("is below") == 0


def test_integers_need_their_zero_point(kit, tmp_path, capsys):
    rows = device(kit)
    step = np.abs(rows).max() / 110
    (np.rint(rows / step) + 5).astype(np.int8).tofile(tmp_path / "out.bin")

    assert "Pass the zero point" in judge(kit, tmp_path / "out.bin", "--dtype", "int8", capsys=capsys)[1]
    code, printed = judge(kit, tmp_path / "out.bin", "--dtype", "int8", "--zero-point", 5, capsys=capsys)
    assert code == 0 and printed.endswith("pass\n")
    code, printed = judge(kit, tmp_path / "out.bin", capsys=capsys)  # read as float32
    assert code == 1 and "64 embeddings of 24 values" in printed and "--dtype" in printed


def test_a_kit_can_be_a_zip_and_never_replaces_anything(run, kit, tmp_path):
    out = tmp_path / "chip.zip"
    assert (
        export_kit.main([str(run), "--valid", str(run), "--num-calibration", "2", "--pairs", "4", "--out", str(out)])
        == 0
    )

    names = zipfile.ZipFile(out).namelist()
    assert {"chip/accept.py", "chip/models/model_nchw.onnx", "chip/test/0007.png"} <= set(names)
    assert [path.name for path in tmp_path.iterdir()] == ["chip.zip"]
    with pytest.raises(FaceError, match="A kit must be written to a new path"):
        export_kit.main([str(run), "--valid", str(run)])


def test_a_run_without_a_graph_or_a_threshold_is_refused(run, tmp_path):
    with pytest.raises(FaceError, match=r"There is no '.*optimized\.pb'.*h5_2_pb\.py"):
        export_kit.main([str(tmp_path), "--valid", str(run)])
    with pytest.raises(FaceError, match=r"gave no threshold for FAR=0\.01"):
        export_kit.main([str(run), "--valid", str(run), "--far", "0.01", "--out", str(tmp_path / "kit")])
    with pytest.raises(FaceError, match="an even number"):
        export_kit.main([str(run), "--pairs", "3", "--out", str(tmp_path / "kit")])
    assert not (tmp_path / "kit").exists()
