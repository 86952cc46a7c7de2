"""The figures of trainings show the logged numbers, of one run or of several."""

import numpy as np
import pytest

from facelib.reports import training_plots
from facelib.reports.read_run import TrainingLog
from facelib.reports.training_plots import (
    plot_curves,
    plot_history,
    plot_verification,
    training_figures,
    write_training_plots,
)

STEPS = [{"step": step, "loss": 3 - step / 100, "accuracy": step / 2} for step in range(1, 201)]
STAGES = [{"stage": 0, "step": 0, "loss": "softmax"}, {"stage": 1, "step": 80, "loss": "arcface"}]


def epoch(number, acc, vr):
    result = {"acc": acc, "vr": {far: {"vr": rate} for far, rate in vr.items()}}
    return {"epoch": number, "step": 100 * number, "sets": {"lfw": result}}


TWO_EPOCHS = [epoch(1, 80, {"0.01": 0.5, "0.001": None}), epoch(2, 90, {"0.01": 0.6, "0.001": 0.25})]
RUNS = [("a", TrainingLog(STEPS, TWO_EPOCHS)), ("b", TrainingLog(STEPS, [epoch(1, 70, {"0.01": 0.4})]))]


@pytest.fixture
def drawn(monkeypatch):
    """Plots return figures instead of PNG bytes."""
    monkeypatch.setattr(training_plots, "finish", lambda figure: figure)


def lines_of(ax):
    return {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}


def test_a_single_run_has_its_points_and_a_running_mean(drawn):
    (ax,) = plot_curves([("a", TrainingLog(STEPS))], "accuracy").axes

    points, mean = ax.get_lines()
    np.testing.assert_allclose(points.get_xydata(), [[line["step"], line["accuracy"]] for line in STEPS])
    np.testing.assert_allclose(mean.get_ydata(), points.get_ydata())  # the mean of a straight line is that line
    assert ax.get_ylabel() == "accuracy, %"


def test_a_running_mean_smooths_noise_and_keeps_both_ends(drawn):
    values = np.tile([1.0, 3.0], 500)
    steps = [{"step": i, "loss": value} for i, value in enumerate(values)]

    mean = lines_of(plot_curves([("a", TrainingLog(steps))], "loss").axes[0])["a"].get_ydata()

    assert np.abs(mean[20:-20] - 2).max() < 0.1 and (mean[0], mean[-1]) == (values[0], values[-1])


def test_several_runs_are_running_means_alone(drawn):
    (ax,) = plot_curves(RUNS, "loss").axes

    assert list(lines_of(ax)) == ["a", "b"] and len(ax.get_lines()) == 2


def test_values_that_are_not_finite_are_left_out():
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": None}]

    for log in (TrainingLog(lines), TrainingLog()):
        assert plot_curves([("", log)], "loss").startswith(b"\x89PNG")


def test_verification_of_several_runs_has_one_far(drawn):
    (ax,) = plot_verification(RUNS, ["lfw"]).axes

    assert "VR@FAR=0.001" in ax.get_ylabel()
    assert {name: line.get_ydata().tolist() for name, line in lines_of(ax).items()} == {"a": [80, 90], "b": [70]}
    dashed = [line.get_xydata().tolist() for line in ax.get_lines() if line.get_label().startswith("_")]
    assert dashed == [[[2, 25]]]


def test_a_history_has_a_row_for_each_measure_and_names_the_stages_of_a_single_run(drawn):
    log = TrainingLog(STEPS, TWO_EPOCHS, STAGES)

    axes = plot_history([("a", log)], "epochs").axes

    assert [ax.get_ylabel() for ax in axes] == ["loss", "accuracy, %", "learning rate", "ACC, %"]
    assert [text.get_text() for text in axes[0].texts] == ["softmax", "arcface"]
    np.testing.assert_allclose([text.get_position()[0] for text in axes[0].texts], [0.4, 1.4])
    assert lines_of(axes[3])["lfw"].get_xydata().tolist() == [[1, 80], [2, 90]]


def test_the_margin_has_a_row_of_a_history_and_a_figure_where_it_was_logged(drawn):
    log = TrainingLog([step | {"margin": step["step"] / 400} for step in STEPS], TWO_EPOCHS)

    axes = plot_history([("a", log), *RUNS[1:]], "steps").axes

    labels = ["loss", "accuracy, %", "learning rate", "margin", "lfw ACC, %"]
    assert [ax.get_ylabel() for ax in axes] == labels
    np.testing.assert_allclose(lines_of(axes[3])["a"].get_ydata()[[0, -1]], [0.0025, 0.5])
    assert "margin" in [name for name, _, _ in training_figures([("a", log)])]


def test_a_curve_of_a_history_has_at_most_200_points(drawn):
    steps = [{"step": i, "loss": float(i)} for i in range(1, 1001)]

    line = lines_of(plot_history([("a", TrainingLog(steps))], "steps").axes[0])["a"]

    assert len(line.get_xdata()) == 200 and line.get_xydata()[0].tolist() == [3, 3]  # the mean of 1 to 5


def test_only_figures_with_numbers_are_made():
    assert [name for name, _, _ in training_figures(RUNS[:1])] == ["loss", "accuracy", "verification"]
    assert [name for name, _, _ in training_figures(RUNS)] == ["loss", "accuracy", "verification lfw"]
    assert training_figures([("", TrainingLog())]) == []


def test_without_a_log_no_plots_are_written(tmp_path):
    assert write_training_plots(tmp_path) == [] and not list(tmp_path.iterdir())
