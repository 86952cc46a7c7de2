"""Compiles an ONNX model for an NPU of Rockchip with RKNN-Toolkit2, which runs in .venv-rknn."""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.export.layer_errors import LayerError
from facelib.model_input import Io, scaling_of
from facelib.runtimes.array_worker import call_worker, environment_python
from facelib.runtimes.frozen_graph import layer_of
from facelib.runtimes.rknn import WORKER

MODES = ("int8", "fp16")
_INT8_CHIPS = ("rv1103", "rv1103b", "rv1106", "rv1106b")  # their NPU has no float16
CHIPS = ("rk3588", "rk3576", "rk3568", "rk3566", "rk3562", "rk2118", "rv1126b", *_INT8_CHIPS)
# '[Clip] stem_conv_act/Relu6   0.99998 | 2.48705   0.99997 | 2.48705': cosines of the whole net and of the layer alone
_LAYER = re.compile(r"^\[(\w+)\] (\S+) +([\d.-]+) \|\s*\S+ +([\d.-]+) \|", re.M)


@dataclass(frozen=True)
class RknnModel:
    """A compiled model.

    Attributes:
        content: of the .rknn.
        simulator: content of the file that the simulator needs, since it does not read a .rknn.
        layers: of an int8 model, the error of each operation on the first crop.
    """

    content: bytes
    simulator: bytes
    layers: list[LayerError]


def check_chip(chip: str, mode: str) -> None:
    """Refuses a chip that RKNN-Toolkit2 does not know, or that cannot compute in `mode`."""
    if chip not in CHIPS:
        raise FaceError(f"--chip must be one of {', '.join(CHIPS)}. Received: '{chip}'.")
    if mode != "int8" and chip in _INT8_CHIPS:
        raise FaceError(f"The NPU of {chip} computes only in integers. Received: --mode {mode}. Use --mode int8.")


def onnx_to_rknn(onnx: Path, io: Io, chip: str, crops: np.ndarray | None) -> RknnModel:
    """Compiles an ONNX model. The .rknn takes raw pixels, uint8 [1, height, width, 3], and scales them itself.

    Args:
        onnx: a model that takes float32 [1, 3, height, width].
        io: how it is fed; the .rknn gets mean and std from there.
        chip: one of `CHIPS`.
        crops: uint8 [N, height, width, 3] in the order of the model's colours, to measure ranges on for int8; None for
            float16.

    Raises:
        FaceError: the environment is missing, or the toolkit refuses the model.
    """
    mode = "fp16" if crops is None else "int8"
    edges = {"size": list(io.size), "input": io.input, "output": io.output}
    settings = {"mode": mode, "chip": chip, **edges, **scaling_of(io)}
    python = environment_python("rknn", "RKNN-Toolkit2")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(onnx.read_bytes())
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        if crops is not None:
            np.save(folder / "crops.npy", np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))
        call_worker(python, WORKER, f"RKNN-Toolkit2 cannot convert '{onnx}'.", "convert", name)
        layers = [] if crops is None else parse_layers((folder / "layers.txt").read_text(encoding="utf-8"))
        return RknnModel((folder / "model.rknn").read_bytes(), (folder / "simulator.zip").read_bytes(), layers)


def parse_layers(text: str) -> list[LayerError]:
    """The errors of the operations, in order, from the error_analysis.txt of the toolkit.

    An operation that is fused with the next one has no figures of its own.
    """
    found = [(kind, name, float(whole), float(alone)) for kind, name, whole, alone in _LAYER.findall(text)]
    return [LayerError(layer_of(name), kind, whole, 1 - alone) for kind, name, whole, alone in found if kind != "Input"]
