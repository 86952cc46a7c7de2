"""Quantises an ONNX model for ESP-DL with esp-ppq, which runs in .venv-esp."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facelib.runtimes.array_worker import call_worker, environment_python
from facelib.runtimes.esp import WORKER

CHIPS = ("esp32s3", "esp32p4")
MIN_CROPS = 8  # esp-ppq wants so many


@dataclass(frozen=True)
class Espdl:
    """A quantised model.

    Attributes:
        content: of the .espdl file.
        int16: names of the layers with 16 bits, where the others have 8.
        layers: {"name", "error"} of each layer, the largest error first: 1 - mean cosine of the embeddings when this
            layer alone is quantised. Empty where no layer was looked for.
        exponents: {tensor: exponent} of the activations; the scale is 2 ** exponent.
        trained: number of these that a training set (tools/quantize_aware.py).
    """

    content: bytes
    int16: tuple[str, ...]
    layers: tuple[dict[str, Any], ...]
    exponents: dict[str, int]
    trained: int


def onnx_to_espdl(
    onnx: bytes,
    pixels: np.ndarray,
    chip: str,
    bits: int,
    int16: Sequence[str] | None,
    min_cosine: float,
    exponents: dict[str, int] | None = None,
) -> Espdl:
    """Quantises a model.

    Args:
        onnx: content of a float model of batch 1 in planes.
        pixels: float32 [N, 3, H, W], as the model takes them: faces to measure the ranges on, N >= 8.
        chip: one of `CHIPS`.
        bits: 8 or 16, of weights and activations.
        int16: names of layers that get 16 bits; None to choose them, the worst first, until `min_cosine` is reached.
        min_cosine: mean cosine to the float model.
        exponents: {tensor: exponent} that a training set; None to measure all.

    Raises:
        FaceError: the environment is missing, or esp-ppq refuses the model.
    """
    settings = {"chip": chip, "bits": bits, "int16": int16, "min_cosine": min_cosine, "exponents": exponents}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(onnx)
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        np.save(folder / "pixels.npy", pixels)
        call_worker(environment_python("esp", "esp-ppq"), WORKER, "esp-ppq cannot quantise the model.", "convert", name)
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return Espdl(
            (folder / "model.espdl").read_bytes(), tuple(report["int16"]), tuple(report["layers"]),
            report["exponents"], report["trained"],
        )  # fmt: skip
