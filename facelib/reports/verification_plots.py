"""The figures of verification: ROC, DET, score histograms, folds, errors by embedding norm, all from report files.

`results` are (name, result), where result is a set of a report as docs/report.md describes it. Every `plot_...` returns
PNG bytes; `theme` is 'light' or 'dark'. Numbers that a result lacks are not drawn.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np

from facelib.evaluation.metrics import wilson_interval
from facelib.figure_style import Drawing, begin, finish, label, legend_below, styles

Results = Sequence[tuple[str, dict[str, Any]]]

_MAX_BANDS = 3  # more intervals over one another cannot be told apart
_DET_TICKS = (1e-6, 1e-5, 1e-4, 1e-3, 5e-3, 2e-2, 5e-2, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97)
_HIGHEST_DET = 0.5
_DET_LABEL_ROOM = 0.075  # of the axis
_DEVIATE = NormalDist().inv_cdf


def plot_roc(results: Results, theme: str = "light") -> bytes:
    """ROC: TAR against FAR on a log axis, with the 95 % interval of the TAR as a band.

    Lines are steps, since a rate holds until the next one is measured. Of more than three lines, only the first and the
    last have bands.
    """
    figure, (ax,), colours = begin(theme, height=3.2)
    smallest, lowest = 1.0, 1.0
    widths = np.linspace(3.6, 1.4, len(results))  # the first is the widest and lowest, so that equal curves all show
    for i, ((name, result), width, style) in enumerate(zip(results, widths, styles(colours), strict=False)):
        curve = {key: np.array(values, float) for key, values in (result.get("roc") or {}).items()}
        is_shown = curve.get("far", np.zeros(0)) > 0  # a log axis has no zero
        if not is_shown.any():
            continue
        far, tar = curve["far"][is_shown], curve["tar"][is_shown]
        bottom = tar
        if "tar_low" in curve and (len(results) <= _MAX_BANDS or i in (0, len(results) - 1)):
            bottom, top = curve["tar_low"][is_shown], curve["tar_high"][is_shown]
            ax.fill_between(far, 100 * bottom, 100 * top, step="post", color=style.color, alpha=0.16, linewidth=0)
        ax.step(far, 100 * tar, where="post", color=style.color, linestyle=style.dashes, linewidth=width, label=name)
        smallest, lowest = min(smallest, far.min()), min(lowest, bottom.min())
    ax.set_xscale("log")
    ax.set_xlim(min(smallest, 0.1), 1)
    margin = 0.04 * (1 - lowest) + 1e-4
    ax.set_ylim(100 * (lowest - margin), 100 * (1 + margin))
    for far in {far for _, result in results for far in result.get("vr") or {}}:
        ax.axvline(float(far), color=colours.text, linewidth=0.8, linestyle=":", alpha=0.7)
    label(ax, colours, "false accept rate (FAR)", "true accept rate = VR, %")
    legend_below(figure, ax, colours)
    return finish(figure)


def plot_det(results: Results, theme: str = "light") -> bytes:
    """Detection error trade-off: FNMR = 1 - TAR against FMR = FAR, both on normal-deviate axes.

    Scores that are normally distributed give straight lines (Martin et al. 1997, "The DET curve in assessment of
    detection task performance", Eurospeech). Dotted: equal errors.
    """
    figure, (ax,), colours = begin(theme, height=3.2)
    widths = np.linspace(3.6, 1.4, len(results))
    points = [_det_points(result) for _, result in results]
    for (name, _), (fmr, fnmr), width, style in zip(results, points, widths, styles(colours), strict=False):
        if len(fmr):
            ax.step(*map(_deviates, (fmr, fnmr)), where="post", color=style.color, linestyle=style.dashes,
                    linewidth=width, label=name)  # fmt: skip
    smallest = [min(column.min() for column in axis if len(column)) for axis in zip(*_filled(points), strict=True)]
    largest = max(fnmr.max() for _, fnmr in _filled(points))
    limits = ((smallest[0], _HIGHEST_DET), (smallest[1], max(largest, 2 * smallest[1])))
    for axis, set_limits, (low, high) in zip((ax.xaxis, ax.yaxis), (ax.set_xlim, ax.set_ylim), limits, strict=True):
        low, high = _deviates([low * 0.8, min(high * 1.1, 0.99)])
        ticks = _spread_ticks(low, high)
        axis.set_ticks(_deviates(ticks), [_percent(tick) for tick in ticks])
        set_limits(low, high)
    ax.axline((0, 0), slope=1, color=colours.text, linewidth=0.8, linestyle=":", alpha=0.7)
    label(ax, colours, "false match rate (FMR), %", "false non-match rate (FNMR), %")
    legend_below(figure, ax, colours)
    return finish(figure)


def plot_scores(results: Results, theme: str = "light") -> bytes:
    """Histograms of the distances of genuine and impostor pairs, one panel for each result.

    Dotted: the threshold at the smallest FAR.
    """
    results = [(name, result) for name, result in results if result.get("histogram")]
    panel = 1.15 if len(results) <= 4 else 0.85
    figure, axes, colours = begin(theme, height=0.9 + panel * len(results), rows=len(results))
    highest = 0.0
    for ax, (name, result) in zip(axes, results, strict=True):
        edges = np.array(result["histogram"]["edges"], float)
        for kind, colour, hatch in (("genuine", colours.genuine, None), ("impostor", colours.impostor, "////")):
            counts = np.array(result["histogram"][kind], float)
            share = 100 * counts / max(1.0, counts.sum())
            ax.stairs(share, edges, fill=True, facecolor=colour, alpha=0.4, hatch=hatch, edgecolor=colours.ground,
                      linewidth=0)  # fmt: skip
            ax.stairs(share, edges, color=colour, linewidth=1.3, label=kind)
            if counts.any():
                highest = max(highest, edges[np.flatnonzero(counts)[-1] + 1])
        threshold = _threshold_of_smallest_far(result)
        if threshold is not None:
            ax.axvline(threshold, color=colours.text, linestyle=":", linewidth=1.2)
        ax.set_title(name, fontsize=9, color=colours.text, loc="left", pad=3)
        ax.set_ylim(bottom=0)
    axes[0].set_xlim(0, highest or 4)
    figure.supylabel("% of pairs", color=colours.text, fontsize=10)
    label(axes[-1], colours, "squared L2 distance of unit embeddings")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8.5,
        labelcolor=colours.text, frameon=False,
    )  # fmt: skip
    return finish(figure)


def plot_folds(results: Results, theme: str = "light") -> bytes:
    """Accuracy of each fold, and to the right their mean with its 95 % interval, in %."""
    figure, (ax,), colours = begin(theme)
    num_folds = max(len(result.get("acc_folds") or ()) for _, result in results)
    offsets = np.linspace(-0.3, 0.3, len(results)) if len(results) > 1 else [0.0]
    for (name, result), offset, style in zip(results, offsets, styles(colours), strict=False):
        if not result.get("acc_folds"):
            continue
        folds = 100 * np.array(result["acc_folds"], float)
        look = {"color": style.color, "marker": style.marker, "markersize": 4.5, "linestyle": ""}
        ax.plot(np.arange(len(folds)) + 1 + offset, folds, label=name, **look)
        mean = 100 * result["acc"]
        low, high = result.get("acc_ci95") or (mean / 100, mean / 100)
        errors = [[max(0.0, mean - 100 * low)], [max(0.0, 100 * high - mean)]]
        ax.errorbar([num_folds + 2 + 3 * offset], [mean], yerr=errors, elinewidth=1.4, capsize=2, **look)
    ax.axvline(num_folds + 0.75, color=colours.text, linewidth=0.8)
    ax.set_xticks([*range(1, num_folds + 1), num_folds + 2], [*map(str, range(1, num_folds + 1)), "mean"])
    ax.grid(False, axis="x")
    label(ax, colours, "fold", "ACC, %")
    legend_below(figure, ax, colours)
    return finish(figure)


def plot_norms(results: Results, theme: str = "light") -> bytes:
    """Share of wrongly decided pairs against the smaller embedding norm of their two faces, in bins of equal count."""
    figure, (ax,), colours = begin(theme)
    widths = np.linspace(2.6, 1.4, len(results))
    for (name, result), width, style in zip(results, widths, styles(colours), strict=False):
        if not result.get("norms"):
            continue
        edges, pairs, errors = (np.array(result["norms"][key], float) for key in ("edges", "pairs", "errors"))
        share = np.where(pairs > 0, 100 * errors / np.maximum(pairs, 1), np.nan)
        ax.plot((edges[1:] + edges[:-1]) / 2, share, color=style.color, linestyle=style.dashes, marker=style.marker,
                markersize=4.5, linewidth=width, label=name)  # fmt: skip
    ax.set_ylim(bottom=0)
    label(ax, colours, "smaller embedding norm of the pair", "wrong decisions, %")
    legend_below(figure, ax, colours)
    return finish(figure)


def plot_reliability(results: Results, theme: str = "light") -> bytes:
    """Share of genuine pairs against the probability given, at prior 0.5, with 95 % intervals; dotted: equal.

    Probabilities are those that the other folds gave. Bins have equal width in the log-likelihood ratio.
    """
    figure, (ax,), colours = begin(theme, height=3.2)
    for (name, result), style in zip(results, styles(colours), strict=False):
        found = (result.get("probability") or {}).get("reliability")
        if not found:
            continue
        ratio, genuine, impostor = (np.array(found[key], float) for key in ("ratio", "genuine", "impostor"))
        balance = max(impostor.sum(), 1) / max(genuine.sum(), 1)  # so that the prior is 0.5
        ends = np.array([wilson_interval(int(g), int(g + i)) for g, i in zip(genuine, impostor, strict=True)])
        shares = np.stack([genuine / (genuine + impostor), *ends.T])
        shares = shares * balance / (shares * balance + 1 - shares)
        given = 1 / (1 + np.exp(-ratio))
        error = np.clip([shares[0] - shares[1], shares[2] - shares[0]], 0, None)
        ax.errorbar(100 * given, 100 * shares[0], 100 * error, color=style.color, linestyle=style.dashes,
                    marker=style.marker, markersize=4.5, capsize=2, label=name)  # fmt: skip
    ax.axline((0, 0), slope=1, color=colours.text, linewidth=0.8, linestyle=":", alpha=0.7)
    ax.set(xlim=(-2, 102), ylim=(-2, 102))
    label(ax, colours, "P(same person) given, %", "same person, %")
    legend_below(figure, ax, colours)
    return finish(figure)


def verification_figures(results: Results) -> list[Drawing]:
    """Every figure for which at least one result has numbers."""
    is_folder = any(result.get("protocol") == "all-pairs" for _, result in results)
    bands = "" if len(results) <= _MAX_BANDS else " of the first and last"
    has_bands = any("tar_low" in (result.get("roc") or {}) for _, result in results)
    kind = "genuine pairs" if is_folder else "pairs"
    figures: list[tuple[str, Callable, Callable[[dict], Any], str]] = [
        ("roc", plot_roc, _has_roc,
         "ROC. " + f"Band: 95 % interval{bands}. " * has_bands + "Dotted: the FARs of the table. Where curves are "
         "equal, the first is the widest."),
        ("det", plot_det, lambda result: len(_det_points(result)[0]),
         "DET, the same errors on normal-deviate axes: nearer the lower left corner is better. Dotted: equal errors."),
        ("folds", plot_folds, lambda result: result.get("acc_folds"),
         "Accuracy of each fold; to the right, their mean with its 95 % interval."),
        ("scores", plot_scores, lambda result: result.get("histogram"),
         "Distances of same-person and of different-person pairs. Dotted: the threshold of the smallest FAR."),
        ("norms", plot_norms, lambda result: result.get("norms"),
         f"Wrong decisions against the smaller raw embedding norm of the two faces; a point is a tenth of the {kind}. "
         "Poor pictures often have short embeddings."),
        ("reliability", plot_reliability, lambda result: result.get("probability"),
         "Reliability of the probability at prior 0.5, given by folds that were not fitted: on the dotted line it is "
         "what it says. Bars: 95 % intervals."),
    ]  # fmt: skip
    return [
        (key, caption, partial(draw, results))
        for key, draw, has_numbers, caption in figures
        if any(has_numbers(result) for _, result in results)
    ]


def _spread_ticks(low: float, high: float) -> list[float]:
    """The rates to label between two deviates, far enough apart that their labels do not touch."""
    ticks: list[float] = []
    for tick in reversed(_DET_TICKS):
        at = _DEVIATE(tick)
        if low <= at <= high and (not ticks or _DEVIATE(ticks[-1]) - at >= _DET_LABEL_ROOM * (high - low)):
            ticks.append(tick)
    return ticks


def _percent(rate: float) -> str:
    """A rate in %, short: 0.001 -> '0.1', 1e-6 -> '1e-4'."""
    return f"{100 * rate:g}" if rate >= 1e-4 else f"{100 * rate:.0e}".replace("e-0", "e-")


def _has_roc(result: dict[str, Any]) -> bool:
    return any(far > 0 for far in (result.get("roc") or {}).get("far", ()))


def _det_points(result: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(FMR, FNMR) of the points that normal-deviate axes can show: both above 0, FMR at most 0.5."""
    roc = result.get("roc") or {"far": [], "tar": []}
    fmr, fnmr = np.array(roc["far"], float), 1 - np.array(roc["tar"], float)
    is_shown = (fmr > 0) & (fmr <= _HIGHEST_DET) & (fnmr > 0) & (fnmr < 1)
    return fmr[is_shown], fnmr[is_shown]


def _filled(points: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [pair for pair in points if len(pair[0])]


def _deviates(rates: Iterable[float]) -> np.ndarray:
    return np.array([_DEVIATE(float(rate)) for rate in rates])


def _threshold_of_smallest_far(result: dict[str, Any]) -> float | None:
    vr = result.get("vr") or {}
    measured = [far for far in vr if vr[far].get("threshold") is not None]
    return vr[min(measured, key=float)]["threshold"] if measured else None
