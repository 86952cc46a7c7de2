"""Compiles a .tflite for the K210 with nncase, which runs in k210/.venv."""

import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facelib.child_processes import ends_with_parent
from facelib.errors import FaceError
from facelib.export.k210.rules import parse_memory
from facelib.runtimes.kmodel import nncase_command

# The settings with the highest mean cosine of the pretrained MobileFaceNet to its float net: 0.9947 on 12 LFW crops.
# Without use_mse_quant_w it is 0.9923; with calibrate_method 'l2' 0.9925, 'cdf' 0.987. w_quant_type has no effect.
SETTINGS: dict[str, Any] = {
    "compile": {
        "target": "k210", "quant_type": "uint8", "w_quant_type": "uint8", "use_mse_quant_w": True,
        "preprocess": True, "input_type": "uint8", "input_range": [0.0, 255.0], "input_layout": "NCHW",
        "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0],
    },
    "calibrate_method": "no_clip",
}  # fmt: skip
# Operations of the runtime between the parts that the KPU computes. All others are computation on the CPU.
PASSING = ("Call", "Copy", "Quantize", "Dequantize", "Pad", "Slice", "TableLookup1D")


@dataclass(frozen=True)
class Kmodel:
    """A compiled model.

    Attributes:
        content: of the .kmodel file.
        memory: {'input', 'output', 'data', 'model', 'total'}: bytes, as nncase reports them.
        on_kpu: number of convolutions on the KPU, including sums of maps.
        on_cpu: the operations on the CPU.
    """

    content: bytes
    memory: dict[str, int]
    on_kpu: int
    on_cpu: tuple[str, ...]


def compile_kmodel(tflite: Path, crops: np.ndarray) -> Kmodel:
    """Compiles a float .tflite of batch 1.

    Args:
        tflite: the file.
        crops: uint8 [N, H, W, 3] in the colour order of the model, to measure ranges on.

    Raises:
        FaceError: nncase is missing, or refuses the model.
    """
    pixels = np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
    settings = {**SETTINGS, "compile": {**SETTINGS["compile"], "input_shape": [1, *pixels.shape[1:]]}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(Path(tflite).read_bytes())
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        np.save(folder / "crops.npy", pixels)
        done = subprocess.run(
            nncase_command("compile", str(folder)), cwd=folder, capture_output=True, text=True, errors="replace",
            preexec_fn=ends_with_parent(),
        )  # fmt: skip
        if done.returncode != 0 or not (folder / "model.kmodel").is_file():
            reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise FaceError(
                f"nncase cannot compile '{tflite}' ({reason[:200]}). To find the cause: python "
                f"k210/check_k210.py {tflite}"
            )
        on_kpu, on_cpu = parse_placement(folder / "dump")
        return Kmodel((folder / "model.kmodel").read_bytes(), parse_memory(done.stdout), on_kpu, on_cpu)


def parse_placement(dump: Path) -> tuple[int, tuple[str, ...]]:
    """(number of convolutions on the KPU, operations on the CPU), from nncase's listings of the compiled program."""
    steps = [re.match(r"\[(\w+)\] ?(.*)", line) for line in _lines(dump / "stackvm")]
    on_cpu = [f"{op[1]} {op[2]}".strip() for op in steps if op and op[1] not in PASSING]
    return sum(line.startswith("[KPUConv2D]") for line in _lines(dump / "k210")), tuple(on_cpu)


def _lines(folder: Path) -> list[str]:
    return [
        line
        for path in sorted(folder.rglob("runtime_ops.txt"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
