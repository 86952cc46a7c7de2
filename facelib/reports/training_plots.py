"""The figures of trainings: measures by step, verification by epoch; of one run, or of several over each other.

Every function returns PNG bytes; `theme` is 'light' or 'dark'.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.figure_style import Drawing, begin, finish, label, legend_below, styles
from facelib.files import write_bytes
from facelib.reports.read_run import Run, read_metrics
from facelib.text_table import format_text_table

BY = ("epochs", "steps", "hours")
_ROW_HEIGHT = 1.7  # inches
_POINTS = 200  # of a curve; each is the mean of the steps that it stands for

_SMOOTHING_POINTS = 60  # a training curve is averaged over 1/60 of its length
_MEASURES = {  # of the step lines: (axis label, caption)
    "loss": ("loss", "Training loss by step"),
    "accuracy": ("accuracy, %", "Training accuracy by step, without the margin"),
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


@dataclass(frozen=True)
class History:
    """The lines of a run's metrics.jsonl, by kind. name: for legends."""

    name: str
    steps: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    stages: list[dict[str, Any]]

    def places(self, steps: Sequence[int], by: str) -> np.ndarray:
        """Where these steps lie on the axis of epochs, steps or hours."""
        steps = np.asarray(steps, float)
        if by == "steps" or not self.epochs:
            return steps
        ends = np.array([0, *(line["step"] for line in self.epochs)], float)
        values = np.array([0, *(line["epoch"] for line in self.epochs)], float)
        if by == "hours":
            values = np.concatenate([[0], np.cumsum([line.get("seconds", 0) for line in self.epochs])]) / 3600
        pace = (values[-1] - values[-2]) / max(ends[-1] - ends[-2], 1)  # the epoch that is not over yet
        return np.where(steps <= ends[-1], np.interp(steps, ends, values), values[-1] + pace * (steps - ends[-1]))

    @property
    def set_names(self) -> list[str]:
        """The verification sets, in the order of the log."""
        return list(dict.fromkeys(name for line in self.epochs for name in line.get("sets") or {}))


def read_history(run: Path, name: str = "") -> History:
    """Reads RUN/metrics.jsonl.

    Raises:
        FaceError: no such file, or nothing logged in it.
    """
    path = Path(run) / "metrics.jsonl"
    steps, epochs, stages = read_metrics(path)
    if not steps and not epochs:
        raise FaceError(
            f"A run directory has a metrics.jsonl with steps. '{path}' has none: name the --out of train.py."
        )
    return History(name or Path(run).name, steps, epochs, stages)


def write_history(histories: Sequence[History], path: Path, by: str = "epochs") -> Path:
    """Draws the histories to the PNG `path`; returns it."""
    write_bytes(path, plot_history(histories, by))
    return path


def plot_history(histories: Sequence[History], by: str = "epochs", theme: str = "light") -> bytes:
    """PNG bytes: a row for each measure, and one of ACC for each verification set (for one run: all sets in one).

    The stages of a single run are bands, named by their loss; of several runs, thin lines in the run's colour.
    """
    sets = list(dict.fromkeys(name for history in histories for name in history.set_names))
    is_single = len(histories) == 1
    set_rows = ([sets] if sets else []) if is_single else [[name] for name in sets]
    rows = len(_MEASURES) + len(set_rows)
    figure, axes, colours = begin(theme, _ROW_HEIGHT * rows, rows)
    for history, style in zip(histories, styles(colours), strict=False):
        for ax, key in zip(axes, _MEASURES, strict=False):
            places, values = _means(history, key, by)
            ax.plot(places, values * (100 if key == "accuracy" else 1), color=style.color, linewidth=1.6,
                    label=history.name)  # fmt: skip
        for ax, names in zip(axes[len(_MEASURES) :], set_rows, strict=True):
            looks = styles(colours) if is_single else iter([style])
            for name, look in zip(names, looks, strict=False):
                points = [(line["step"], 100 * line["sets"][name]["acc"]) for line in history.epochs
                          if name in (line.get("sets") or {})]  # fmt: skip
                if points:
                    steps, values = zip(*points, strict=True)
                    ax.plot(history.places(steps, by), values, color=look.color, marker=look.marker, markersize=4,
                            linewidth=1.6, label=name if is_single else history.name)  # fmt: skip
        _mark_stages(history, axes, by, style.color, colours, is_single)
    names = [title for title, _ in _MEASURES.values()] + [
        "ACC, %" if is_single else f"{names[0]} ACC, %" for names in set_rows
    ]
    for ax, title in zip(axes, names, strict=True):
        label(ax, colours, by if ax is axes[-1] else None, title)
    axes[1].set_ylim(0, 101)
    legend_below(figure, axes[-1] if is_single and sets else axes[0], colours)
    return finish(figure)


def best_table(histories: Sequence[History]) -> str:
    """A line for each run: how far it is, its last loss, and the best ACC of each set with its epoch."""
    sets = list(dict.fromkeys(name for history in histories for name in history.set_names))
    rows = [["run", "epochs", "hours", "loss", *(f"best {name}" for name in sets)]]
    for history in histories:
        hours = sum(line.get("seconds", 0) for line in history.epochs) / 3600
        loss = (history.epochs or history.steps)[-1]["loss"]
        row = [history.name, str(len(history.epochs)), f"{hours:.2f}", f"{loss:.4f}"]
        for name in sets:
            scores = [(line["sets"][name]["acc"], -line["epoch"]) for line in history.epochs
                      if name in (line.get("sets") or {})]  # fmt: skip
            row.append(f"{100 * max(scores)[0]:.2f} % (epoch {-max(scores)[1]})" if scores else "-")
        rows.append(row)
    return format_text_table(rows, num_left=1)


def _means(history: History, key: str, by: str) -> tuple[np.ndarray, np.ndarray]:
    """The logged values of `key` as at most `_POINTS` means of neighbours: (places, values)."""
    points = [(line["step"], line[key]) for line in history.steps if isinstance(line.get(key), int | float)]
    points = [point for point in points if math.isfinite(point[1])]
    if not points:
        return np.zeros(0), np.zeros(0)
    steps, values = (np.array(column, float) for column in zip(*points, strict=True))
    parts = np.array_split(np.arange(len(steps)), min(len(steps), _POINTS))
    return history.places([steps[part].mean() for part in parts], by), np.array([values[part].mean() for part in parts])


def _mark_stages(history: History, axes, by: str, color: str, colours, is_single: bool) -> None:
    last = max(line["step"] for line in [*history.steps[-1:], *history.epochs[-1:]])
    starts = [line["step"] for line in history.stages]
    if len(starts) < 2:
        return
    places = history.places([*starts, last], by)
    for number, line in enumerate(history.stages):
        for ax in axes:
            if is_single and number % 2:
                ax.axvspan(places[number], places[number + 1], color=colours.grid, alpha=0.45, linewidth=0)
            elif not is_single and number:
                ax.axvline(places[number], color=color, linewidth=0.8, linestyle=(0, (1, 2)))
        if is_single:
            middle = (places[number] + places[number + 1]) / 2
            axes[0].text(middle, 1.02, line["loss"], transform=axes[0].get_xaxis_transform(), ha="center", va="bottom",
                         fontsize=7.5, color=colours.text)  # fmt: skip
