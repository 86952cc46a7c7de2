"""A training from first to last step in one picture: measures, stages, verification; or several trainings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.figure_style import begin, finish, label, legend_below, styles
from facelib.files import write_bytes
from facelib.reports.read_run import read_metrics

BY = ("epochs", "steps", "hours")
_MEASURES = (("loss", "loss"), ("accuracy", "accuracy, %"), ("learning_rate", "lr"))
_ROW_HEIGHT = 1.7  # inches
_POINTS = 200  # of a curve; each is the mean of the steps that it stands for


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
        for ax, (key, _) in zip(axes, _MEASURES, strict=False):
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
    names = [title for _, title in _MEASURES] + ["ACC, %" if is_single else f"{names[0]} ACC, %" for names in set_rows]
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
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


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
