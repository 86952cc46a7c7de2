"""metrics.jsonl as it is read: resumed runs, killed runs, and where steps lie on an axis."""

import json

import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.reports.read_run import TrainingLog, read_training_log, require_training_log

EPOCHS = [
    {"step": 100, "epoch": 1, "seconds": 3600, "sets": {"lfw": {"acc": 0.8}}},
    {"step": 120, "epoch": 2, "seconds": 1800, "sets": {"cfp_fp": {"acc": 0.7}, "lfw": {"acc": 0.9}}},
]


def write_lines(path, lines, ending=""):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + ending)
    return path


def test_the_last_line_of_a_repeated_step_counts_and_an_incomplete_last_line_does_not(tmp_path):
    losses = ((1, 5), (2, 4), (3, 9), (2, 4.5), (3, 3))
    lines = [{"kind": "step", "step": step, "loss": loss} for step, loss in losses]
    path = write_lines(tmp_path / "metrics.jsonl", lines, ending='{"kind": "step", "st')

    log = read_training_log(path)

    assert [(line["step"], line["loss"]) for line in log.steps] == [(1, 5), (2, 4.5), (3, 3)]
    assert log.epochs == log.stages == []


@pytest.mark.parametrize("line", ["no", '{"kind": "step"}', "[]", '{"kind": "step", "step": Infinity}', "[" * 60_000])
def test_a_damaged_line_before_the_last_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line + '\n{"kind": "step", "step": 1}\n')

    with pytest.raises(FaceError, match="Line 1 of"):
        read_training_log(path)


def test_a_missing_file_is_an_empty_log_unless_a_log_is_required(tmp_path):
    assert read_training_log(tmp_path / "metrics.jsonl").is_empty
    with pytest.raises(FaceError, match=r"lists no steps[.] Use the --out folder of train"):
        require_training_log(tmp_path)


def test_a_series_has_the_finite_values_alone():
    steps = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": None}, {"step": 4}]

    numbers, values = TrainingLog(steps).series("loss")

    assert numbers.tolist() == [1] and values.tolist() == [2.0] and values.dtype == np.float64


def test_accuracies_are_in_percent_whichever_version_wrote_the_line(tmp_path):
    results = {"lfw": {"acc": 0.5, "acc_std": 0.25, "auc": 0.75}}
    older = [
        {"kind": "step", "step": 1, "loss": 5, "accuracy": 0.25}, {"kind": "step", "step": 2, "loss": 5},
        {"kind": "epoch", "step": 2, "epoch": 1, "accuracy": 0.5, "sets": results},
        {"kind": "epoch", "step": 4, "epoch": 2, "accuracy": None, "sets": None},
    ]  # fmt: skip
    newer = [
        {"kind": "step", "step": 5, "loss": 5, "accuracy": 0.25, "accuracy_unit": "%"},
        {"kind": "epoch", "step": 6, "epoch": 3, "accuracy": 50, "accuracy_unit": "%", "sets": {"lfw": {"acc": 0.5}}},
    ]

    log = read_training_log(write_lines(tmp_path / "metrics.jsonl", older + newer))

    assert log.series("accuracy")[1].tolist() == [25, 0.25]
    assert [line["accuracy"] for line in log.epochs] == [50, None, 50]
    assert [line["result"]["acc"] for line in log.results("lfw")] == [50, 0.5]
    assert log.results("lfw")[0]["result"] == {"acc": 50, "acc_std": 25, "auc": 0.75}


def test_results_are_those_of_the_epochs_that_tested_the_set():
    log = TrainingLog(epochs=EPOCHS)

    assert log.set_names == ["lfw", "cfp_fp"]
    assert [(line["epoch"], line["result"]["acc"]) for line in log.results("lfw")] == [(1, 0.8), (2, 0.9)]
    assert [(line["epoch"], line["result"]["acc"]) for line in log.results("cfp_fp")] == [(2, 0.7)]


def test_seconds_add_up_and_are_zero_where_none_are_logged():
    assert TrainingLog(epochs=EPOCHS).seconds == 5400
    assert TrainingLog(epochs=[{"step": 1, "epoch": 1, "seconds": None}]).seconds == 0


@pytest.mark.parametrize(
    ("by", "steps", "places"),
    [
        ("epochs", [0, 50, 100, 110, 120], [0, 0.5, 1, 1.5, 2]),
        ("hours", [0, 50, 100, 110, 120], [0, 0.5, 1, 1.25, 1.5]),
        ("steps", [0, 50], [0, 50]),
        ("epochs", [130, 140], [2.5, 3]),  # the unfinished epoch
    ],
)
def test_steps_lie_evenly_within_their_epoch(by, steps, places):
    assert TrainingLog(epochs=EPOCHS).places(steps, by).tolist() == places


def test_before_the_end_of_the_first_epoch_steps_lie_on_their_numbers():
    assert TrainingLog().places([7], "epochs").tolist() == [7]
