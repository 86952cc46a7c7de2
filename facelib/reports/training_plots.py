"""The figures of trainings: measures by step, verification by epoch; of one run, or of several over each other.

Every function returns PNG bytes; `theme` is 'light' or 'dark'.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from facelib.figure_style import Drawing, begin, finish, label, legend_below, styles
from facelib.files import write_bytes
from facelib.reports.history import History, write_history
from facelib.reports.read_run import Run, read_metrics

_SMOOTHING_POINTS = 60  # a training curve is averaged over 1/60 of its length
_MEASURES = {
    "loss": ("loss", "Training loss by step"),
    "accuracy": ("training accuracy, %", "Training accuracy by step, without the margin"),
    "learning_rate": ("learning rate", "Learning rate by step"),
}
Lines = Sequence[dict[str, Any]]  # of metrics.jsonl


def plot_curves(runs: Sequence[tuple[str, Lines]], key: str, title: str, theme: str = "light") -> bytes:
    """One measure of the training steps of one or more runs: running means, and a single run's points, faint.

    `runs`: (name, step lines). Accuracy is shown in %.
    """
    figure, (ax,), colours = begin(theme)
    lowest = 0.0
    for (name, steps), style in zip(runs, styles(colours), strict=False):
        x, y = _series(steps, key)
        y = 100 * y if key == "accuracy" else y
        if not len(x):
            continue
        if len(runs) == 1:
            ax.plot(x, y, color=style.color, alpha=0.25, linewidth=1)
        dashes = style.dashes if len(runs) > 1 else "-"
        ax.plot(x, _smooth(y), color=style.color, linestyle=dashes, linewidth=2, label=name)
        lowest = min(lowest, y.min())
    if key == "accuracy":
        ax.set_ylim(0, 101)
    elif lowest >= 0:
        ax.set_ylim(bottom=0)
    label(ax, colours, "step", title)
    if len(runs) > 1:
        legend_below(figure, ax, colours)
    return finish(figure)


def plot_verification(runs: Sequence[tuple[str, Lines]], set_names: Sequence[str], theme: str = "light") -> bytes:
    """ACC after each epoch (solid) and VR at the smallest FAR that was measured (dashed), in %.

    `runs`: (name, epoch lines): several sets of one run, or several runs on one set.
    """
    figure, (ax,), colours = begin(theme)
    lines = [
        (name if len(runs) > 1 else set_name, _of_set(epochs, set_name))
        for name, epochs in runs
        for set_name in set_names
    ]
    fars = {
        far for _, line in lines for _, result in line for far in result.get("vr", {}) if _rate(result, far) is not None
    }
    far = min(fars, key=float, default="")
    for (name, line), style in zip(lines, styles(colours), strict=False):
        accuracies = [(epoch, 100 * result["acc"]) for epoch, result in line]
        rates = [(epoch, 100 * _rate(result, far)) for epoch, result in line if _rate(result, far) is not None]
        look = {"color": style.color, "marker": style.marker, "markersize": 4.5}
        if accuracies:
            ax.plot(*zip(*accuracies, strict=True), linewidth=2, label=name, **look)
        if rates:
            ax.plot(*zip(*rates, strict=True), linewidth=1.4, linestyle=(0, (4, 2)), mfc=colours.ground, **look)
    ax.xaxis.get_major_locator().set_params(integer=True)
    label(ax, colours, "epoch", f"ACC, VR@FAR={float(far):g} (dashed), %" if far else "ACC, %")
    legend_below(figure, ax, colours)
    return finish(figure)


def training_figures(runs: Sequence[tuple[str, Run]]) -> list[Drawing]:
    """Each training figure that the logs of one or more runs, (name, run), have numbers for."""
    steps, epochs = [(name, run.steps) for name, run in runs], [(name, run.epochs) for name, run in runs]
    figures: list[Drawing] = []
    for key, (title, caption) in _MEASURES.items():
        if any(len(_series(lines, key)[0]) for _, lines in steps):
            how = "running means" if len(runs) > 1 else "each logged step, and a running mean"
            figures.append((key, f"{caption}: {how}.", partial(plot_curves, steps, key, title)))
    names = list(dict.fromkeys(name for _, lines in epochs for line in lines for name in line.get("sets") or {}))
    caption = "after each epoch: accuracy (solid) and VR at the smallest FAR measured (dashed)."
    if len(runs) == 1 and names:
        figures.append(("verification", f"Verification {caption}", partial(plot_verification, epochs, names)))
    elif names:
        for name in names:
            draw = partial(plot_verification, epochs, [name])
            figures.append((f"verification {name}", f"Verification on {name} {caption}", draw))
    return figures


def write_training_plots(run_dir: Path) -> list[Path]:
    """Draws metrics.jsonl as RUN/plots/{history,loss,accuracy,learning_rate,verification}.png; returns the paths."""
    steps, epochs, stages = read_metrics(Path(run_dir) / "metrics.jsonl")
    history = History(Path(run_dir).name, steps, epochs, stages)
    written = [write_history([history], Path(run_dir) / "plots" / "history.png")] if steps or epochs else []
    for name, _, draw in training_figures([("", Run(Path(run_dir), steps=steps, epochs=epochs))]):
        written.append(Path(run_dir) / "plots" / f"{name}.png")
        write_bytes(written[-1], draw("light"))
    return written


def _series(lines: Lines, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the lines that have a finite `key`."""
    points = [(line["step"], line[key]) for line in lines if isinstance(line.get(key), int | float)]
    points = [point for point in points if math.isfinite(point[1])]
    return np.array([p[0] for p in points]), np.array([p[1] for p in points], float)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a window that shrinks at both ends, so that no end is bent."""
    reach = max(len(values) // (2 * _SMOOTHING_POINTS), min(2, len(values) // 20))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    half = np.minimum(reach, np.minimum(place, len(values) - 1 - place))
    return (sums[place + half + 1] - sums[place - half]) / (2 * half + 1)


def _of_set(epochs: Lines, set_name: str) -> list[tuple[int, dict[str, Any]]]:
    """(epoch, result) of one set."""
    return [(line["epoch"], line["sets"][set_name]) for line in epochs if set_name in (line.get("sets") or {})]


def _rate(result: dict[str, Any], far: str) -> float | None:
    vr = result.get("vr", {}).get(far)
    return vr.get("vr") if isinstance(vr, dict) else None
