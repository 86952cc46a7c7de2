"""The worker that runs RKNN-Toolkit2 in .venv-rknn. Not a script for users.

python rknn_worker.py convert FOLDER   reads settings.json, model.onnx and, for int8, crops.npy (uint8 [N, 3, H, W]);
                                       writes model.rknn and simulator.zip, for int8 also layers.txt

facelib/runtimes/worker_loop.py calls `load`. The model runs in the simulator, takes uint8 [1, H, W, 3] and returns the
embedding, float32 [D]. The simulator cannot read a .rknn, so simulator.zip holds the files from which the .rknn was
compiled.
"""

import importlib.machinery
import importlib.util
import json
import os
import sys
import tempfile
import types
import zipfile
from pathlib import Path

import numpy as np

SETTINGS, FLOAT = "settings.json", ("model.onnx",)
QUANTISED = ("model.model", "model.data", "model.quantization.cfg")  # as hybrid_quantization_step1 names them


def convert(folder: str) -> None:
    """Compiles model.onnx; for int8 it measures the ranges on the crops, and the error of each layer on the first."""
    os.chdir(folder)  # the toolkit writes where it is
    settings = json.loads(Path(SETTINGS).read_text(encoding="utf-8"))
    files: tuple[str, ...] = FLOAT
    if settings["mode"] == "int8":
        quantise(settings)
        files = QUANTISED
    rknn = build(settings)
    done(rknn.export_rknn("model.rknn"), "write the .rknn")
    with zipfile.ZipFile("simulator.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
        for name in (SETTINGS, *files):
            bundle.write(name)
    if settings["mode"] == "int8":
        np.save("face.npy", np.load("crops.npy")[:1])
        done(rknn.accuracy_analysis(["face.npy"], output_dir="layers"), "measure the layers")
        os.replace("layers/error_analysis.txt", "layers.txt")


def load(simulator: str):
    """A simulator.zip as (what the first line says, the model as a function of its input)."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(simulator) as bundle:
            for name in (SETTINGS, *FLOAT, *QUANTISED):
                if name in bundle.namelist():
                    Path(folder, name).write_bytes(bundle.read(name))
        os.chdir(folder)
        settings = json.loads(Path(SETTINGS).read_text(encoding="utf-8"))
        rknn = build(settings)
        done(rknn.init_runtime(), "start the simulator")
        os.chdir("/")

    def run(pixels: np.ndarray) -> np.ndarray:
        return rknn.inference([pixels], data_format="nhwc")[0].reshape(-1)

    shape = [1, *settings["size"], 3]
    outputs = list(run(np.zeros(shape, np.uint8)).shape)
    return {"shape": shape, "dtype": "uint8", "outputs": outputs}, run


def quantise(settings: dict) -> None:
    """model.onnx and crops.npy -> the files QUANTISED."""
    names = []
    for i, crop in enumerate(np.load("crops.npy")):
        np.save(f"crop_{i}.npy", crop[None])
        names.append(f"crop_{i}.npy\n")
    Path("crops.txt").write_text("".join(names), encoding="utf-8")
    rknn = configured(settings)
    load_onnx(rknn, settings)
    done(rknn.hybrid_quantization_step1(dataset="crops.txt"), "quantise the model")


def build(settings: dict):
    """The toolkit with the model of the current folder, compiled."""
    rknn = configured(settings)
    if settings["mode"] == "int8":
        done(rknn.hybrid_quantization_step2(*QUANTISED), "compile the model")
    else:
        load_onnx(rknn, settings)
        done(rknn.build(do_quantization=False), "compile the model")
    return rknn


def configured(settings: dict):
    """The toolkit, told which chip and which scaling of pixels."""
    if importlib.util.find_spec("torch") is None:
        sys.meta_path.insert(0, NoTorch)
    from rknn.api import RKNN

    rknn = RKNN(verbose=False)
    scaling = {"mean_values": [settings["mean"]], "std_values": [settings["std"]]}
    done(rknn.config(target_platform=settings["chip"], **scaling), "take the settings")
    return rknn


def load_onnx(rknn, settings: dict) -> None:
    shape = [1, 3, *settings["size"]]
    names = {"inputs": [settings["input"]], "outputs": [settings["output"]]}
    done(rknn.load_onnx("model.onnx", input_size_list=[shape], **names), "read the ONNX model")


def done(code: int, what: str) -> None:
    """Ends if a step failed; the toolkit has printed why."""
    if code:
        raise SystemExit(f"it cannot {what}")


class Anything:
    """Stands in for whatever the toolkit takes from PyTorch at its start: a base class, a decorator."""

    def __init__(self, *args, **options):
        pass

    def __call__(self, value=None, *args, **options):
        return value


class NoTorch:
    """Lets the toolkit start without PyTorch, which only its reader of PyTorch models and 'gdq' call: 2 GB less."""

    @staticmethod
    def find_spec(name: str, path=None, target=None):
        if name.split(".")[0] != "torch":
            return None
        return importlib.machinery.ModuleSpec(name, NoTorch, is_package=True)  # type: ignore[arg-type]  # it is one

    @staticmethod
    def create_module(spec):
        module = types.ModuleType(spec.name)
        module.__dict__.update(__version__="2.4.0", __getattr__=nothing_special)
        return module

    @staticmethod
    def exec_module(module) -> None:
        pass


def nothing_special(name: str):
    if name.startswith("__"):
        raise AttributeError(name)
    return Anything


if __name__ == "__main__":
    {"convert": convert}[sys.argv[1]](*sys.argv[2:])
