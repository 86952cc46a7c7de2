"""Arm's Vela: what a model costs on an Ethos-U. It compiles the model in .venv-mcu and estimates; nothing is run."""

import csv
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facelib.child_processes import ends_with_parent
from facelib.errors import FaceError
from facelib.runtimes.array_worker import environment_python


@dataclass(frozen=True)
class LayerCost:
    """One operation that Vela runs on the accelerator.

    Attributes:
        name: as Vela prints it: of its output tensor.
        operation: e.g. 'CONV_2D'.
        cycles: estimated, of the accelerator's clock.
    """

    name: str
    operation: str
    cycles: float


@dataclass(frozen=True)
class Estimate:
    """What Vela says of one accelerator.

    Attributes:
        accelerator: e.g. 'ethos-u55-128'.
        system: name of the configuration of clock and memories.
        clock_mhz: clock of the accelerator.
        ms: time of one face.
        sram_bytes: on-chip memory that the feature maps need.
        flash_bytes: weights and program in flash or DRAM.
        on_npu: number of operations on the accelerator.
        on_cpu: the other operations.
        layers: costs in the order of execution.
    """

    accelerator: str
    system: str
    clock_mhz: float
    ms: float
    sram_bytes: int
    flash_bytes: int
    on_npu: int
    on_cpu: tuple[str, ...]
    layers: tuple[LayerCost, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**self.__dict__, "on_cpu": list(self.on_cpu), "layers": [layer.__dict__ for layer in self.layers]}


def estimate(model: Path, accelerator: str) -> Estimate:
    """Compiles a .tflite for an accelerator and returns what Vela estimates.

    Args:
        model: an int8 .tflite.
        accelerator: one of Vela's --accelerator-config.

    Raises:
        FaceError: the environment is missing, or Vela refuses the model or the accelerator.
    """
    vela = Path(environment_python("mcu", "Vela")).with_name("vela")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(model.read_bytes())
        words = ["model.tflite", "--accelerator-config", accelerator, "--output-dir", ".", "--verbose-performance"]
        done = subprocess.run(
            [str(vela), *words], cwd=folder, capture_output=True, text=True, errors="replace",
            preexec_fn=ends_with_parent(),
        )  # fmt: skip
        summaries = list(folder.glob("model_summary_*.csv"))
        if done.returncode != 0 or len(summaries) != 1:
            reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise FaceError(
                f"Vela cannot compile '{model}' for {accelerator} ({reason[:200]}). It takes int8 models: "
                f"pb_2_tflite.py --mode int8."
            )
        return read_estimate(accelerator, summaries[0], folder / "model_per-layer.csv")


def read_estimate(accelerator: str, summary: Path, layers: Path) -> Estimate:
    """What Vela's two CSV files say.

    Args:
        accelerator: for the result.
        summary: one line of totals; sizes in KiB, the time in seconds.
        layers: a line for each operation.
    """
    (totals,) = _rows(summary)
    rows = _rows(layers)
    kib = {key: float(value) * 1024 for key, value in totals.items() if key.endswith("_memory_used")}
    return Estimate(
        accelerator=accelerator,
        system=totals["system_config"],
        clock_mhz=float(totals["core_clock"]) / 1e6,
        ms=float(totals["inference_time"]) * 1000,
        sram_bytes=round(kib["sram_memory_used"]),
        flash_bytes=round(sum(size for key, size in kib.items() if key != "sram_memory_used")),
        on_npu=sum(row["Target"] == "NPU" for row in rows),
        on_cpu=tuple(f"{row['Original Operator']} {row['Name']}" for row in rows if row["Target"] == "CPU"),
        layers=tuple(
            LayerCost(row["Name"], row["Original Operator"], float(row["Op Cycles"]))
            for row in rows
            if row["Target"] == "NPU"
        ),
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def draw(estimates: Sequence[Estimate], theme: str = "light") -> bytes:
    """A PNG: the time of each layer in the order of execution, a line for each accelerator."""
    from facelib import figure_style

    canvas, (ax,), colours = figure_style.begin(theme)
    for each, style in zip(estimates, figure_style.styles(colours), strict=False):
        times = [layer.cycles / (each.clock_mhz * 1e3) for layer in each.layers]
        ax.plot(
            range(1, len(times) + 1), times, color=style.color, marker=style.marker, markersize=3, linewidth=1.2,
            label=f"{each.accelerator}, {each.ms:.2f} ms",
        )  # fmt: skip
    ax.set_yscale("log")
    figure_style.label(ax, colours, "operation on the NPU, in order", "ms, estimated")
    figure_style.legend_below(canvas, ax, colours)
    return figure_style.finish(canvas)
