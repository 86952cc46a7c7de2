"""Plots of histories: the table of the best, and pictures of finished, staged and unfinished runs."""

import json

import cv2
import numpy as np
import plot_history
import pytest

from facelib.errors import FaceError
from facelib.reports.read_run import require_training_log
from facelib.reports.training_plots import best_table
from tests.helpers.simulated_runs import write_log
from tests.helpers.slow import slow_unless_quick


def staged_run(folder, num_steps=40):
    folder.mkdir(parents=True)
    write_log(folder, num_steps=num_steps, epoch_steps=10)
    with open(folder / "metrics.jsonl", "a") as file:
        for stage, loss in enumerate(("softmax", "arcface", "batch_hard_triplet")):
            line = {
                "kind": "stage",
                "step": 10 * stage,
                "epoch": stage + 1,
                "stage": stage,
                "loss": loss,
                "optimizer": "sgd",
            }
            file.write(json.dumps(line) + "\n")
    return folder


def test_the_table_has_the_best_accuracy_of_each_run(tmp_path):
    one, two = staged_run(tmp_path / "one"), staged_run(tmp_path / "two", num_steps=15)

    lines = best_table([(run.name, require_training_log(run)) for run in (one, two)]).splitlines()

    heads, _, first, second = ([cell.strip() for cell in line.split(" | ")] for line in lines)
    assert heads == ["run", "epochs", "hours", "loss", "best toy"]
    assert first == ["one", "4", "0.07", "1.0000", "90.00 % (epoch 4)"]
    assert second == ["two", "1", "0.02", "1.0000", "60.00 % (epoch 1)"]


@pytest.mark.parametrize("by", slow_unless_quick(["epochs", "steps", "hours"], ["epochs"]))
def test_one_run_is_plotted_with_its_stages(tmp_path, capsys, by):
    run = staged_run(tmp_path / "run")

    assert plot_history.main([str(run), "--by", by]) == 0

    picture = cv2.imread(str(run / "plots" / "history.png"))
    assert picture.shape[0] > 800
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    assert "best toy" in capsys.readouterr().out


def test_several_runs_are_plotted_over_each_other(tmp_path):
    runs = [staged_run(tmp_path / name / "run") for name in "ab"]

    plot_history.main([*map(str, runs), "--out", str(tmp_path / "c.png")])

    assert cv2.imread(str(tmp_path / "c.png")).shape[0] > 800


def test_unfinished_older_and_killed_runs_are_plotted(tmp_path):
    (tmp_path / "run").mkdir()
    write_log(tmp_path / "run", num_steps=7)  # no epoch, no stage
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "st')

    assert (
        plot_history.main(
            [str(tmp_path / "run"), str(staged_run(tmp_path / "other")), "--out", str(tmp_path / "x.png")]
        )
        == 0
    )


@pytest.mark.parametrize(
    "text, message",
    [(None, "lists no steps. Use the --out folder"), ("", "lists no steps"), ("x\n{}\n", "Line 1 of .* is not")],
)
def test_a_folder_without_a_history_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(FaceError, match=message):
        plot_history.main([str(tmp_path)])
    assert not (tmp_path / "plots").exists()


def test_a_picture_that_is_not_a_png_is_refused(tmp_path):
    with pytest.raises(FaceError, match=r"--out must end in .png. Received: 'x.jpg'"):
        plot_history.main([str(tmp_path), "--out", "x.jpg"])


def test_the_picture_lies_in_the_run_and_that_of_several_runs_in_the_folder_above_them(tmp_path, monkeypatch, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    one, two = staged_run(tmp_path / "runs" / "one"), staged_run(tmp_path / "runs" / "deep" / "two")

    plot_history.main([str(one)])
    plot_history.main([str(one), str(two)])

    assert f"wrote {one / 'plots' / 'history.png'}" in capsys.readouterr().out
    pictures = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert pictures == ["runs/history.png", "runs/one/plots/history.png"]


HISTORY = {
    "loss": [30.5, 12.25, 4.0], "accuracy": [0.0, 0.25, 0.75], "lr": [0.1, 0.05, 0.001], "regular_loss": [9, 5, 1],
    "lfw": [0.8, 0.95, 0.9], "lfw_thresh": [0.3, 0.25, 0.2], "agedb_30": [0.6, 0.7], "agedb_30_thresh": [0.2, 0.2],
}  # fmt: skip


def test_a_history_of_keras_insightface_is_plotted_beside_a_run(tmp_path, capsys):
    history = tmp_path / "mbf_hist.json"
    history.write_text(json.dumps(HISTORY))

    assert plot_history.main([str(history), str(staged_run(tmp_path / "run"))]) == 0

    lines = [[cell.strip() for cell in line.split(" | ")] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["run", "epochs", "hours", "loss", "best lfw", "best agedb_30", "best toy"]
    assert lines[2] == ["mbf_hist.json", "3", "0.00", "4.0000", "95.00 % (epoch 2)", "70.00 % (epoch 2)", "-"]
    assert cv2.imread(str(tmp_path / "history.png")).shape[0] > 800


@pytest.mark.parametrize("by", ["epochs", "steps", "hours"])
def test_a_history_alone_is_plotted_beside_its_file(tmp_path, by):
    (tmp_path / "mbf_hist.json").write_text(json.dumps(HISTORY))

    assert plot_history.main([str(tmp_path / "mbf_hist.json"), "--by", by]) == 0

    assert (tmp_path / "history.png").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": []}, "must have a list 'loss'"),
        ({"lfw": [0.8, None, 0.9]}, "a different value in the list 'lfw'"),
        ({"lr": "0.1"}, "a different value in the list 'lr'"),
    ],
)
def test_a_history_with_other_values_is_one_line(tmp_path, change, message):
    (tmp_path / "x_hist.json").write_text(json.dumps({**HISTORY, **change}))

    with pytest.raises(FaceError, match=message):
        plot_history.main([str(tmp_path / "x_hist.json")])
