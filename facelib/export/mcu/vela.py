"""Arm's Vela: what a model costs on an Ethos-U. It compiles the model in .venv-mcu and estimates; nothing is run."""

import csv
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facelib.child_processes import ends_with_parent
from facelib.errors import FaceError
from facelib.runtimes.array_worker import environment_python
from facelib.runtimes.frozen_graph import layer_of

NUM_DRAWN = 12


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
        on_npu: number of operations of the model on the accelerator.
        on_cpu: the other operations.
        layers: costs in the order of execution; Vela splits some operations.
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
                f"Vela cannot compile '{model}' for {accelerator} ({reason[:200]}). Vela needs an int8 model: "
                "pb_2_tflite.py --mode int8."
            )
        return read_estimate(accelerator, done.stdout, summaries[0], folder / "model_per-layer.csv")


def read_estimate(accelerator: str, printed: str, summary: Path, layers: Path) -> Estimate:
    """What Vela says in its output and in two CSV files.

    Args:
        accelerator: for the result.
        printed: 'NPU operators = 66 (100.0%)' and much else.
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
        on_npu=int(re.findall(r"NPU operators = (\d+)", printed)[-1]),
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
    """A PNG: the layers that take most time, in percent of the time of each accelerator."""
    from facelib import figure_style

    shares = [_shares(each) for each in estimates]
    totals: Counter[str] = sum(shares, Counter())
    layers = [name for name, _ in totals.most_common(NUM_DRAWN)][::-1]  # the most expensive on top
    canvas, (ax,), colours = figure_style.begin(theme, height=1.0 + 0.3 * len(layers))
    thickness = 0.8 / len(estimates)
    for i, (each, share) in enumerate(zip(estimates, shares, strict=True)):
        places = [place + 0.4 - (i + 0.5) * thickness for place in range(len(layers))]
        ax.barh(
            places, [share[name] for name in layers], thickness, color=colours.series[i % len(colours.series)],
            label=f"{each.accelerator}, {each.ms:.2f} ms",
        )  # fmt: skip
    ax.set_yticks(range(len(layers)), layers)
    figure_style.label(ax, colours, "% of the time, estimated")
    figure_style.legend_below(canvas, ax, colours)
    return figure_style.finish(canvas)


def _shares(estimate: Estimate) -> Counter[str]:
    """{layer: percent of the time}; operations of one layer are summed."""
    total = sum(layer.cycles for layer in estimate.layers) or 1.0
    shares: Counter[str] = Counter()
    for layer in estimate.layers:
        shares[layer_of(layer.name.split(";")[-1])] += 100 * layer.cycles / total  # type: ignore[assignment]
    return shares
