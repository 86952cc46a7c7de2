"""The figures of a run: training curves, ROC, score histograms. matplotlib is imported when the first is drawn.

Every function returns PNG bytes; `theme` is 'light' or 'dark'. Sizes suit a telephone: text stays readable when a
figure is 340 pixels wide. Colours are told apart by colour-blind readers, and lines differ in dashes too.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facelib.files import write_bytes
from facelib.run_summary import Run, Stage, read_metrics


@dataclass(frozen=True)
class _Theme:
    ground: str
    text: str
    grid: str
    series: tuple[str, ...]  # Okabe and Ito's palette; the dark one is lightened
    genuine: str
    impostor: str


_THEMES = {
    "light": _Theme("#ffffff", "#24292f", "#d8dee4",
                    ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#e69f00", "#56b4e9", "#444444"),
                    "#0072b2", "#e69f00"),
    "dark": _Theme("#161b22", "#d1d7de", "#30363d",
                   ("#56b4e9", "#ff8c42", "#2fc79b", "#e09ac4", "#f0c808", "#9ecae1", "#c0c0c0"),
                   "#56b4e9", "#f0a830"),
}  # fmt: skip
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 3)), (0, (9, 2)), "-.")
_WIDTH, _HEIGHT = 4.6, 3.0  # inches
_DPI = 160
_SMOOTHING_POINTS = 60  # a training curve is averaged over 1/60 of its length


def _begin(theme: str, height: float = _HEIGHT, rows: int = 1):
    """A figure, its axes (a list, one a row) and its theme."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = _THEMES[theme]
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained", facecolor=colours.ground)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for ax in axes:
        ax.set_facecolor(colours.ground)
        ax.grid(True, color=colours.grid, linewidth=0.7)
        ax.set_axisbelow(True)
        ax.tick_params(colors=colours.text, labelsize=9, length=3)
        for name, spine in ax.spines.items():
            spine.set_visible(name in ("left", "bottom"))
            spine.set_color(colours.grid)
    return figure, axes, colours


def _label(ax, colours: _Theme, x: str | None = None, y: str | None = None) -> None:
    if x:
        ax.set_xlabel(x, color=colours.text, fontsize=10)
    if y:
        ax.set_ylabel(y, color=colours.text, fontsize=10)


def _legend(ax, colours: _Theme, **keywords) -> None:
    legend = ax.legend(fontsize=8.5, labelcolor=colours.text, framealpha=0.85, **keywords)
    legend.get_frame().set(facecolor=colours.ground, edgecolor=colours.grid)


def _finish(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def _series(lines: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the lines that have a finite `key`."""
    points = [(line["step"], line[key]) for line in lines if isinstance(line.get(key), int | float)]
    points = [point for point in points if math.isfinite(point[1])]
    return np.array([p[0] for p in points]), np.array([p[1] for p in points], float)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a window that shrinks at both ends, so that no end is bent."""
    reach = len(values) // (2 * _SMOOTHING_POINTS)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    half = np.minimum(reach, np.minimum(place, len(values) - 1 - place))
    return (sums[place + half + 1] - sums[place - half]) / (2 * half + 1)


def plot_curve(steps: Sequence[dict[str, Any]], key: str, title: str, theme: str = "light") -> bytes:
    """One measure of the training steps, each point faint and their running mean strong. Accuracy is shown in %."""
    figure, (ax,), colours = _begin(theme)
    x, y = _series(steps, key)
    y = 100 * y if key == "accuracy" else y
    if len(x):
        ax.plot(x, y, color=colours.series[0], alpha=0.25, linewidth=1)
        ax.plot(x, _smooth(y), color=colours.series[0], linewidth=2)
    if key == "accuracy":
        ax.set_ylim(0, 101)
    elif key == "learning_rate" or (len(y) and y.min() >= 0):
        ax.set_ylim(bottom=0)
    _label(ax, colours, "step", title)
    return _finish(figure)


def plot_verification(epochs: Sequence[dict[str, Any]], theme: str = "light") -> bytes:
    """ACC of every verification set after each epoch (solid), and VR at its smallest FAR (dashed), in %."""
    figure, (ax,), colours = _begin(theme)
    names = list(dict.fromkeys(name for line in epochs for name in line.get("sets") or {}))
    for name, colour in zip(names, _cycle(colours.series), strict=False):
        lines = [(line["epoch"], line["sets"][name]) for line in epochs if name in (line.get("sets") or {})]
        ax.plot(*zip(*((epoch, 100 * result["acc"]) for epoch, result in lines), strict=True), color=colour,
                marker="o", markersize=4, linewidth=2, label=f"{name} ACC")  # fmt: skip
        fars = {far for _, result in lines for far, vr in result.get("vr", {}).items() if _rate(vr) is not None}
        if fars:
            far = min(fars, key=float)
            rates = [
                (epoch, 100 * _rate(r["vr"][far])) for epoch, r in lines if _rate(r.get("vr", {}).get(far)) is not None
            ]
            ax.plot(*zip(*rates, strict=True), color=colour, marker="s", markersize=3.5, linewidth=1.4,
                    linestyle=(0, (4, 2)), label=f"{name} VR@FAR={float(far):g}")  # fmt: skip
    ax.xaxis.get_major_locator().set_params(integer=True)
    _label(ax, colours, "epoch", "%")
    if names:
        _legend(ax, colours, loc="lower right")
    return _finish(figure)


def plot_roc(stages: Sequence[Stage], set_name: str, theme: str = "light") -> bytes:
    """ROC of every stage on one set, FAR on a log axis. Steps: a rate holds until the next one is measured."""
    figure, (ax,), colours = _begin(theme, height=3.3)
    smallest, lowest = 1.0, 1.0
    widths = np.linspace(4.5, 1.5, len(stages))  # the first lies widest below, so that equal curves all show
    for stage, width, colour, dashes in zip(stages, widths, _cycle(colours.series), _cycle(_DASHES), strict=False):
        curve = stage.report["sets"].get(set_name, {}).get("roc") or {}
        far, tar = np.array(curve.get("far", ()), float), np.array(curve.get("tar", ()), float)
        is_shown = far > 0  # a log axis has no 0
        if not is_shown.any():
            continue
        ax.step(far[is_shown], 100 * tar[is_shown], where="post", color=colour, linestyle=dashes, linewidth=width,
                label=stage.name)  # fmt: skip
        smallest, lowest = min(smallest, far[is_shown].min()), min(lowest, tar[is_shown].min())
    ax.set_xscale("log")
    ax.set_xlim(min(smallest, 0.1), 1)
    ax.set_ylim(100 * lowest - 4, 102)
    for far in {far for stage in stages for far in stage.report["sets"].get(set_name, {}).get("vr", {})}:
        ax.axvline(float(far), color=colours.text, linewidth=0.8, linestyle=":", alpha=0.7)
    _label(ax, colours, "false accept rate (FAR)", "true accept rate = VR, %")
    if ax.get_legend_handles_labels()[0]:
        _legend(ax, colours, loc="lower right")
    return _finish(figure)


def plot_scores(stages: Sequence[Stage], set_name: str, theme: str = "light") -> bytes:
    """Distances of genuine and impostor pairs, one panel a stage; dotted: the threshold at the smallest FAR."""
    stages = [stage for stage in stages if stage.report["sets"].get(set_name, {}).get("histogram")]
    figure, axes, colours = _begin(theme, height=0.9 + 1.15 * max(1, len(stages)), rows=max(1, len(stages)))
    highest = 0.0
    for ax, stage in zip(axes, stages, strict=False):
        result = stage.report["sets"][set_name]
        edges = np.array(result["histogram"]["edges"], float)
        for kind, colour in (("genuine", colours.genuine), ("impostor", colours.impostor)):
            counts = np.array(result["histogram"][kind], float)
            share = 100 * counts / max(1.0, counts.sum())
            ax.stairs(share, edges, fill=True, color=colour, alpha=0.45)
            ax.stairs(share, edges, color=colour, linewidth=1.3, label=kind)
            if counts.any():
                highest = max(highest, edges[np.flatnonzero(counts)[-1] + 1])
        for far in sorted(result.get("vr", {}), key=float)[:1]:
            threshold = result["vr"][far].get("threshold")
            if threshold is not None:
                ax.axvline(threshold, color=colours.text, linestyle=":", linewidth=1.2)
        ax.set_title(stage.name, fontsize=9, color=colours.text, loc="left", pad=3)
        ax.set_ylim(bottom=0)
    axes[0].set_xlim(0, highest or 4)
    _label(axes[len(axes) // 2], colours, y="% of pairs")
    _label(axes[-1], colours, "squared L2 distance of unit embeddings")
    if stages:
        handles = axes[0].get_legend_handles_labels()
        figure.legend(
            *handles, loc="outside upper right", ncols=2, fontsize=8.5, labelcolor=colours.text, frameon=False
        )
    return _finish(figure)


def write_training_plots(run_dir: Path) -> list[Path]:
    """Draws what metrics.jsonl has as RUN/plots/{loss,accuracy,learning_rate,verification}.png; returns the paths."""
    steps, epochs = read_metrics(Path(run_dir) / "metrics.jsonl")
    written = []
    for name, _, draw in training_figures(Run(Path(run_dir), steps=steps, epochs=epochs)):
        written.append(Path(run_dir) / "plots" / f"{name}.png")
        write_bytes(written[-1], draw("light"))
    return written


def training_figures(run: Run) -> list[tuple[str, str, Any]]:
    """(file name, caption, theme -> PNG bytes) of each training figure that the log has numbers for."""
    captions = {
        "loss": "Training loss by step: each logged step, and a running mean.",
        "accuracy": "Training accuracy by step, without the margin.",
        "learning_rate": "Learning rate by step.",
    }
    titles = {"loss": "loss", "accuracy": "training accuracy, %", "learning_rate": "learning rate"}
    figures = []
    for key, caption in captions.items():
        if len(_series(run.steps, key)[0]):
            figures.append((key, caption, lambda theme, key=key: plot_curve(run.steps, key, titles[key], theme)))
    if any(line.get("sets") for line in run.epochs):
        caption = "Verification after each epoch: accuracy (solid) and VR at a fixed FAR (dashed)."
        figures.append(("verification", caption, lambda theme: plot_verification(run.epochs, theme)))
    return figures


def _cycle(values: Sequence):
    while True:
        yield from values


def _rate(vr: Any) -> float | None:
    return vr.get("vr") if isinstance(vr, dict) else None
