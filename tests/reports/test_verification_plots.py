"""The figures of verification show the numbers of the report on the axes that they name."""

import numpy as np
import pytest
from scipy.stats import norm

from facelib.reports import verification_plots
from facelib.reports.verification_plots import (
    plot_det,
    plot_folds,
    plot_norms,
    plot_reliability,
    plot_roc,
    plot_scores,
    verification_figures,
)

ROC = {
    "far": [0.0, 0.001, 0.01, 0.1, 1.0],
    "tar": [0.2, 0.5, 0.8, 0.95, 1.0],
    "tar_low": [0.1, 0.4, 0.75, 0.9, 0.99],
    "tar_high": [0.3, 0.6, 0.85, 0.98, 1.0],
}
FULL = {
    "acc": 0.9, "acc_ci95": [0.88, 0.93], "acc_folds": [0.85, 0.95], "roc": ROC,
    "vr": {"0.001": {"vr": 0.5, "threshold": 1.0}, "1e-05": {"vr": None, "threshold": None}},
    "histogram": {"edges": [0.0, 1.0, 2.0], "genuine": [3, 1], "impostor": [0, 8]},
    "norms": {"edges": [10.0, 20.0, 40.0], "pairs": [50, 0], "errors": [5, 0]},
    "probability": {"reliability": {"ratio": [-2.0, 0.0, 2.0], "genuine": [10, 50, 90], "impostor": [45, 25, 5]}},
}  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """Plots return figures instead of PNG bytes."""
    monkeypatch.setattr(verification_plots, "finish", lambda figure: figure)


def lines_of(figure):
    return {line.get_label(): line for line in figure.axes[0].get_lines() if not line.get_label().startswith("_")}


def test_the_roc_has_the_points_of_the_report_on_a_log_axis_and_its_interval_as_a_band(drawn):
    figure = plot_roc([("a", FULL)])

    (ax,) = figure.axes
    line = lines_of(figure)["a"]
    assert ax.get_xscale() == "log" and line.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(line.get_xydata(), np.c_[ROC["far"], 100 * np.array(ROC["tar"])][1:])  # no FAR of 0
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == pytest.approx((40, 100))


@pytest.mark.parametrize(("num_artefacts", "num_bands"), [(1, 1), (3, 3), (4, 2), (7, 2)])
def test_of_more_than_three_artefacts_only_the_first_and_last_have_bands(drawn, num_artefacts, num_bands):
    figure = plot_roc([(str(i), FULL) for i in range(num_artefacts)])

    assert len(figure.axes[0].collections) == num_bands


def test_an_older_roc_without_interval_is_drawn_without_a_band(drawn):
    older = {"roc": {"far": ROC["far"], "tar": ROC["tar"]}}

    assert not plot_roc([("a", older)]).axes[0].collections


def test_the_det_is_drawn_on_normal_deviates(drawn):
    figure = plot_det([("a", FULL)])

    far, tar = np.array(ROC["far"][1:4]), np.array(ROC["tar"][1:4])  # FAR 0 and 1 have no deviate
    np.testing.assert_allclose(lines_of(figure)["a"].get_xydata(), np.c_[norm.ppf(far), norm.ppf(1 - tar)], rtol=1e-9)
    (ax,) = figure.axes
    for tick, text in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True):
        assert 100 * norm.cdf(tick) == pytest.approx(float(text.get_text()))


def test_scores_are_shares_of_each_kind_with_the_threshold_of_the_smallest_measured_far(drawn):
    figure = plot_scores([("a", FULL), ("no histogram", {})])

    (ax,) = figure.axes
    shares = {patch.get_label(): patch.get_data().values.tolist() for patch in ax.patches if patch.get_label()}
    assert shares["genuine"] == [75, 25] and shares["impostor"] == [0, 100]
    assert [line.get_xdata()[0] for line in ax.get_lines()] == [1.0]


def test_folds_are_shown_with_their_mean_and_its_interval(drawn):
    figure = plot_folds([("a", FULL)])

    (ax,) = figure.axes
    assert lines_of(figure)["a"].get_ydata().tolist() == [85, 95]
    (bar,) = ax.collections
    assert bar.get_segments()[0][:, 1] == pytest.approx([88, 93])


def test_errors_are_at_the_middle_of_their_bin_of_norms_and_an_empty_bin_is_a_gap(drawn):
    points = lines_of(plot_norms([("a", FULL)]))["a"].get_xydata()

    np.testing.assert_allclose(points, [[15, 10], [30, np.nan]])


def test_the_reliability_curve_counts_both_kinds_alike(drawn):
    points = plot_reliability([("a", FULL)]).axes[0].get_lines()[0].get_xydata()

    genuine, impostor = np.array([10, 50, 90]) / 150, np.array([45, 25, 5]) / 75
    np.testing.assert_allclose(points[:, 0], 100 / (1 + np.exp([2, 0, -2])))
    np.testing.assert_allclose(points[:, 1], 100 * genuine / (genuine + impostor))


def test_an_artefact_has_the_same_colour_in_every_figure(drawn):
    results = [("older", {"roc": ROC, "acc": 0.9}), ("newer", FULL)]

    colours = {lines_of(plot(results))["newer"].get_color() for plot in (plot_roc, plot_det, plot_folds, plot_norms)}

    assert len(colours) == 1


@pytest.mark.parametrize("part", ["roc", "acc_folds", "histogram", "norms", "probability"])
def test_a_figure_without_numbers_is_left_out(part):
    result = {key: value for key, value in FULL.items() if key != part}
    gone = {"roc": {"roc", "det"}, "acc_folds": {"folds"}, "histogram": {"scores"}, "probability": {"reliability"}}

    keys = [key for key, _, _ in verification_figures([("a", result)])]

    assert keys == [
        key for key in ("roc", "det", "folds", "scores", "norms", "reliability") if key not in gone.get(part, {part})
    ]


def test_a_perfect_separation_has_no_det():
    perfect = {"roc": {"far": [0.0, 0.5, 1.0], "tar": [1.0, 1.0, 1.0]}}

    assert [key for key, _, _ in verification_figures([("a", perfect)])] == ["roc"]


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_figures_of_eight_artefacts_with_long_names_are_png(theme):
    results = [(f"a_folder_with_a_rather_long_name/model_{i}_int8.tflite", FULL) for i in range(8)]

    for _, _, draw in verification_figures(results):
        assert draw(theme).startswith(b"\x89PNG")
