"""The figures of trainings: loss, accuracy and learning rate by step, verification by epoch, of one run or several.

`runs` are (name, training log). Every `plot_...` returns PNG bytes; `theme` is 'light' or 'dark'.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from facelib.evaluation.results import format_text_table
from facelib.figure_style import Drawing, Style, Theme, begin, finish, label, legend_below, styles
from facelib.files import write_bytes
from facelib.reports.read_run import TrainingLog, read_training_log

BY = ("epochs", "steps", "hours")  # what the horizontal axis of a history may show
Runs = Sequence[tuple[str, TrainingLog]]

_ROW_HEIGHT = 1.7  # inches
_HISTORY_POINTS = 200  # of a curve of a history; each is the mean of the steps that it stands for
_SMOOTHING_POINTS = 60  # a training curve is averaged over 1/60 of its length
_MEASURES = {  # of the step lines: (axis label, caption)
    "loss": ("loss", "Training loss by step"),
    "accuracy": ("accuracy, %", "Training accuracy by step, without the margin"),
    "learning_rate": ("learning rate", "Learning rate by step"),
    "margin": ("margin", "Margin by step"),
}


def plot_curves(runs: Runs, key: str, theme: str = "light") -> bytes:
    """One measure of the training steps: running means, and for a single run its points too.

    Args:
        runs: (name, training log).
        key: 'loss', 'accuracy', 'learning_rate' or 'margin'.
        theme: 'light' or 'dark'.
    """
    figure, (ax,), colours = begin(theme)
    lowest = 0.0
    for (name, log), style in zip(runs, styles(colours), strict=False):
        x, y = log.series(key)
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
    label(ax, colours, "step", _MEASURES[key][0])
    if len(runs) > 1:
        legend_below(figure, ax, colours)
    return finish(figure)


def plot_verification(runs: Runs, set_names: Sequence[str], theme: str = "light") -> bytes:
    """ACC after each epoch (solid) and VR at the smallest FAR that was measured (dashed), in %.

    Args:
        runs: (name, training log). Several runs are compared on one set.
        set_names: verification sets. Several sets are of one run.
        theme: 'light' or 'dark'.
    """
    figure, (ax,), colours = begin(theme)
    lines = [
        (name if len(runs) > 1 else set_name, log.results(set_name)) for name, log in runs for set_name in set_names
    ]
    fars = {
        far
        for _, epochs in lines
        for line in epochs
        for far in line["result"].get("vr", {})
        if _rate(line["result"], far) is not None
    }
    far = min(fars, key=float, default="")
    for (name, epochs), style in zip(lines, styles(colours), strict=False):
        look = {"color": style.color, "marker": style.marker, "markersize": 4.5}
        if epochs:
            accuracies = [line["result"]["acc"] for line in epochs]
            ax.plot([line["epoch"] for line in epochs], accuracies, linewidth=2, label=name, **look)
        rates = [(line["epoch"], _rate(line["result"], far)) for line in epochs]
        measured = [(epoch, 100 * rate) for epoch, rate in rates if rate is not None]
        if measured:
            ax.plot(*zip(*measured, strict=True), linewidth=1.4, linestyle=(0, (4, 2)),
                    mfc=colours.ground, **look)  # fmt: skip
    ax.xaxis.get_major_locator().set_params(integer=True)
    label(ax, colours, "epoch", f"ACC, VR@FAR={float(far):g} (dashed), %" if far else "ACC, %")
    legend_below(figure, ax, colours)
    return finish(figure)


def training_figures(runs: Runs) -> list[Drawing]:
    """Every training figure for which at least one of the logs has numbers."""
    figures: list[Drawing] = []
    for key, (_, caption) in _MEASURES.items():
        if _has(runs, key):
            how = "running means" if len(runs) > 1 else "each logged step, and a running mean"
            figures.append((key, f"{caption}: {how}.", partial(plot_curves, runs, key)))
    names = _set_names(runs)
    caption = "after each epoch: accuracy (solid) and VR at the smallest FAR measured (dashed)."
    if len(runs) == 1 and names:
        figures.append(("verification", f"Verification {caption}", partial(plot_verification, runs, names)))
    elif names:
        for name in names:
            draw = partial(plot_verification, runs, [name])
            figures.append((f"verification {name}", f"Verification on {name} {caption}", draw))
    return figures


def write_training_plots(run_dir: Path) -> list[Path]:
    """Draws metrics.jsonl as RUN/plots/history.png and a picture for each of `training_figures`; returns the paths."""
    run_dir = Path(run_dir)
    log = read_training_log(run_dir / "metrics.jsonl")
    if log.is_empty:
        return []
    written = [write_history([(run_dir.name, log)], run_dir / "plots" / "history.png")]
    for name, _, draw in training_figures([("", log)]):
        written.append(run_dir / "plots" / f"{name}.png")
        write_bytes(written[-1], draw("light"))
    return written


def write_history(runs: Runs, path: Path, by: str = "epochs") -> Path:
    """Draws `plot_history` to the PNG `path`; returns the path."""
    write_bytes(path, plot_history(runs, by))
    return path


def plot_history(runs: Runs, by: str = "epochs", theme: str = "light") -> bytes:
    """All curves below one another: a row for each measure of the steps, and ACC of the verification sets.

    A single run has one row for all its sets, and its stages are bands with the name of their loss. Several runs have
    a row for each set, and their stages begin at thin lines.

    Args:
        runs: (name, training log).
        by: what the horizontal axis shows, one of `BY`.
        theme: 'light' or 'dark'.
    """
    sets, is_single = _set_names(runs), len(runs) == 1
    set_rows = ([sets] if sets else []) if is_single else [[name] for name in sets]
    measures = [key for key in _MEASURES if key != "margin" or _has(runs, key)]  # older runs have no margin
    rows = len(measures) + len(set_rows)
    figure, axes, colours = begin(theme, _ROW_HEIGHT * rows, rows)
    for (name, log), style in zip(runs, styles(colours), strict=False):
        for ax, key in zip(axes, measures, strict=False):
            ax.plot(*_means(log, key, by), color=style.color, linewidth=1.6, label=name)
        for ax, names in zip(axes[len(measures) :], set_rows, strict=True):
            looks = styles(colours) if is_single else iter([style])
            for set_name, look in zip(names, looks, strict=False):
                epochs = log.results(set_name)
                if epochs:
                    places = log.places([line["step"] for line in epochs], by)
                    accuracies = [line["result"]["acc"] for line in epochs]
                    ax.plot(places, accuracies, color=look.color, marker=look.marker, markersize=4, linewidth=1.6,
                            label=set_name if is_single else name)  # fmt: skip
        _mark_stages(log, axes, by, style, colours, is_single)
    set_labels = ["ACC, %" if is_single else f"{names[0]} ACC, %" for names in set_rows]
    for ax, text in zip(axes, [_MEASURES[key][0] for key in measures] + set_labels, strict=True):
        label(ax, colours, by if ax is axes[-1] else None, text)
    axes[measures.index("accuracy")].set_ylim(0, 101)
    legend_below(figure, axes[-1] if is_single and sets else axes[0], colours)
    return finish(figure)


def best_table(runs: Runs) -> str:
    """A line for each run: epochs, hours, last loss, and the best ACC on each set with its epoch."""
    sets = _set_names(runs)
    rows = [["run", "epochs", "hours", "loss", *(f"best {name}" for name in sets)]]
    for name, log in runs:
        loss = (log.epochs or log.steps)[-1]["loss"]
        row = [name, str(len(log.epochs)), f"{log.seconds / 3600:.2f}", f"{loss:.4f}"]
        for set_name in sets:
            scores = [(line["result"]["acc"], -line["epoch"]) for line in log.results(set_name)]
            row.append(f"{max(scores)[0]:.2f} % (epoch {-max(scores)[1]})" if scores else "-")
        rows.append(row)
    return format_text_table(rows, num_left=1)


def _set_names(runs: Runs) -> list[str]:
    return list(dict.fromkeys(name for _, log in runs for name in log.set_names))


def _has(runs: Runs, key: str) -> bool:
    return any(len(log.series(key)[0]) for _, log in runs)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a window that shrinks towards both ends, so that the ends stay where they are."""
    reach = max(len(values) // (2 * _SMOOTHING_POINTS), min(2, len(values) // 20))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    half = np.minimum(reach, np.minimum(place, len(values) - 1 - place))
    return (sums[place + half + 1] - sums[place - half]) / (2 * half + 1)


def _rate(result: dict[str, Any], far: str) -> float | None:
    vr = result.get("vr", {}).get(far)
    return vr.get("vr") if isinstance(vr, dict) else None


def _means(log: TrainingLog, key: str, by: str) -> tuple[np.ndarray, np.ndarray]:
    """(places, values) of a measure, as at most `_HISTORY_POINTS` means of neighbours."""
    steps, values = log.series(key)
    if not len(steps):
        return steps, values
    parts = np.array_split(np.arange(len(steps)), min(len(steps), _HISTORY_POINTS))
    return log.places([steps[part].mean() for part in parts], by), np.array([values[part].mean() for part in parts])


def _mark_stages(log: TrainingLog, axes, by: str, style: Style, colours: Theme, is_single: bool) -> None:
    """Bands with names for a single run; for one of several runs, thin lines in its colour."""
    if len(log.stages) < 2:
        return
    last = max(line["step"] for line in [*log.steps[-1:], *log.epochs[-1:]])
    places = log.places([*(line["step"] for line in log.stages), last], by)
    for number, line in enumerate(log.stages):
        for ax in axes:
            if is_single and number % 2:
                ax.axvspan(places[number], places[number + 1], color=colours.grid, alpha=0.45, linewidth=0)
            elif not is_single and number:
                ax.axvline(places[number], color=style.color, linewidth=0.8, linestyle=(0, (1, 2)))
        if is_single:
            middle = (places[number] + places[number + 1]) / 2
            axes[0].text(middle, 1.02, line["loss"], transform=axes[0].get_xaxis_transform(), ha="center", va="bottom",
                         fontsize=7.5, color=colours.text)  # fmt: skip
