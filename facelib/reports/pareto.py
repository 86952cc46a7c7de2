"""One picture of all artefacts: accuracy against the time of a single face and against size, with the Pareto front."""

from collections.abc import Sequence

import numpy as np

from facelib.figure_style import begin, finish, label, legend_below, styles
from facelib.reports.artefact_table import Row

CAPTION = "Accuracy, time of one face on one thread, and size. The line joins those that none beats in both."

_DECADE = 10
_MAX_STEPS = 8


def comparable_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of the first verification set that were measured as its first row; an empty list if fewer than two."""
    found = [row for row in rows if row.set_name == rows[0].set_name and not row.obstacles]
    return found if len(found) > 1 else []


def pareto_front(costs: Sequence[float], rates: Sequence[float]) -> list[int]:
    """Indices of the points that no other beats in both, in the order of their cost."""
    front: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -rates[i])):
        if not front or rates[i] > rates[front[-1]]:
            front.append(i)
    return front


def choose_locator(low: float, high: float):
    """Where a log axis has its ticks: at 1, 2, 5, 10, ..; over less than a decade, where these are few, evenly spaced.

    Args:
        low: the lower end of the axis, above 0.
        high: its upper end.

    Returns:
        A locator of matplotlib.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    return LogLocator(subs=(1, 2, 5)) if high / low >= _DECADE else MaxNLocator(_MAX_STEPS, steps=(1, 2, 5, 10))


def plot_pareto(rows: Sequence[Row], theme: str = "light") -> bytes:
    """The picture, PNG: ms (above) and MiB (below), both on log axes, against ACC in % with its 95 % interval.

    Args:
        rows: of `comparable_rows`. One without a time or a size is missing in that half.
        theme: 'light' or 'dark'.
    """
    figure, axes, colours = begin(theme, height=6.4, rows=2)
    costs = ([row.ms_single for row in rows], [row.size_bytes and row.size_bytes / 2**20 for row in rows])
    for ax, values in zip(axes, costs, strict=True):
        shown = [(row, value, style) for row, value, style in zip(rows, values, styles(colours), strict=False) if value]
        for row, value, style in shown:
            spread = np.abs(np.subtract(row.acc_ci95, row.acc))[:, None] * 100 if row.acc_ci95 else None
            ax.errorbar(
                [100 * row.acc], [value], xerr=spread, color=style.color, marker=style.marker, markersize=8,
                markerfacecolor="none", linestyle="none", elinewidth=0.6,
                label=f"{row.artefact} ({row.executor or 'executor not said'})",
            )  # fmt: skip
        front = pareto_front([value for _, value, _ in shown], [row.acc for row, _, _ in shown])
        best = [(100 * shown[i][0].acc, shown[i][1]) for i in front]
        ax.plot([acc for acc, _ in best], [cost for _, cost in best], color=colours.text, linewidth=0.8, zorder=0)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(choose_locator(*ax.get_ylim()))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
    label(axes[0], colours, y="ms of one face, one thread (log)")
    label(axes[1], colours, f"ACC, % ({rows[0].set_name})", "MiB (log)")
    legend_below(figure, axes[1], colours)
    return finish(figure)
