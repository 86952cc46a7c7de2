"""facelib/training/run_dir.py: who may use a run directory, and when a run may resume."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from facelib.errors import FaceError
from facelib.training.checkpoint import list_checkpoints
from facelib.training.recipe.changes import MAY_CHANGE, STAGE_MAY_CHANGE, forbidden_changes
from facelib.training.recipe.schema import Stage, recipe_keys
from facelib.training.recipe.toml import load_recipe
from facelib.training.run_dir import FollowedRun, RunDir
from facelib.training.run_dir import open_run as open_as
from tests.helpers.training_runs import RECIPE, STEPS, fit


def open_run(path, recipe=RECIPE, fingerprint="f"):
    return RunDir(path, recipe, Path("data"), fingerprint)


def test_two_processes_do_not_share_a_run(tmp_path):
    first = open_run(tmp_path / "run")
    with pytest.raises(FaceError, match="A different process is training into"):
        open_run(tmp_path / "run")

    first.close()

    open_run(tmp_path / "run").close()


def test_a_run_that_was_refused_is_not_locked(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for _ in range(2):
        with pytest.raises(FaceError, match="holds other files"):
            open_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("left", [["provenance.json"], ["provenance.json", "config.toml"]])
def test_a_run_without_a_checkpoint_may_begin_with_another_recipe(tmp_path, left):
    open_run(tmp_path / "run").close()
    for file in (tmp_path / "run").iterdir():
        if file.name not in left:
            file.unlink()
    other = replace(RECIPE, seed=7)

    open_run(tmp_path / "run", other, "g").close()

    assert load_recipe(tmp_path / "run" / "config.toml") == other
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["data"]["fingerprint"] == "g"


def test_the_config_of_another_program_is_not_overwritten(tmp_path):
    (tmp_path / "config.toml").write_text("mine = 1\n")
    with pytest.raises(FaceError, match="holds other files"):
        open_run(tmp_path)
    assert (tmp_path / "config.toml").read_text() == "mine = 1\n"


def test_half_written_files_of_a_killed_process_are_removed(tmp_path):
    open_run(tmp_path / "run").close()
    (tmp_path / "run" / "checkpoint").mkdir()
    left = [tmp_path / "run" / name for name in (".epoch-001.h5.7.h5", "checkpoint/.step-000000001.npz.7.part")]
    for file in left:
        file.write_bytes(b"x")

    open_run(tmp_path / "run").close()

    assert not any(file.exists() for file in left)


def test_a_run_with_a_model_keeps_its_recipe_and_data(tmp_path):
    fit(tmp_path / "run")
    for path in list_checkpoints(tmp_path / "run" / "checkpoint"):
        path.unlink()

    with pytest.raises(FaceError, match="started with a different recipe \\(seed: 0 -> 7\\)"):
        open_run(tmp_path / "run", replace(RECIPE, seed=7))
    with pytest.raises(FaceError, match="started with different data"):
        open_run(tmp_path / "run", fingerprint="g")


def test_a_key_that_may_not_change_names_the_way(tmp_path):
    fit(tmp_path / "run", max_steps=STEPS + 1)
    stage = RECIPE.stage[0]
    later = Stage(loss="softmax", optimizer="adam")
    cases = [
        (
            replace(RECIPE, seed=7),
            "in docs/train.md may change.*seed: 0 -> 7.*--init-from .*run/embedder.h5 --out OTHER",
        ),
        (replace(RECIPE, stage=(replace(stage, optimizer="adam"),)), "stage.0.optimizer: None -> adam"),
        (replace(RECIPE, stage=(replace(stage, epochs=1),)), "stage.0.epochs must be at least 2, .* Received: 1"),
    ]
    before = (tmp_path / "run" / "config.toml").read_bytes()
    for recipe, message in cases:
        with pytest.raises(FaceError, match=message):
            open_run(tmp_path / "run", recipe)
    assert (tmp_path / "run" / "config.toml").read_bytes() == before

    allowed = replace(RECIPE, stage=(replace(stage, epochs=9, weight_decay=0.0), later), nan_retries=1)
    run = open_run(tmp_path / "run", allowed)
    run.close()

    assert {change.split(":")[0] for change in run.changes} >= {"nan_retries", "stage.0.epochs", "stage.1.optimizer"}
    sessions = json.loads((tmp_path / "run" / "provenance.json").read_text())["sessions"]
    assert "changes" not in sessions[0] and sessions[1]["changes"] == run.changes


def test_a_stage_that_is_over_does_not_change():
    old = replace(RECIPE, stage=(Stage(epochs=1), Stage(epochs=1), Stage(epochs=1)))
    new = replace(old, stage=tuple(replace(stage, epochs=2) for stage in old.stage))

    assert forbidden_changes(old, new, 1) == ["stage.0.epochs: 1 -> 2"]


def test_every_key_that_may_change_is_a_key_and_stands_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "train.md").read_text()

    assert set(STAGE_MAY_CHANGE) <= set(recipe_keys(Stage))
    assert all(f"`{key}`" in page for key in (*MAY_CHANGE, *STAGE_MAY_CHANGE))


def test_only_worker_0_locks_and_writes(tmp_path):
    chief = open_as(tmp_path / "run", RECIPE, Path("data"), "f", True)
    follower = open_as(tmp_path / "run", RECIPE, Path("data"), "f", False)
    follower.log(kind="step", step=1)
    assert isinstance(follower, FollowedRun) and not (tmp_path / "run" / "metrics.jsonl").exists()
    chief.log(kind="step", step=1)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == '{"kind": "step", "step": 1}\n'
    with pytest.raises(FaceError, match="A different process is training into"):
        open_run(tmp_path / "run")
    chief.close()


def test_a_resume_keeps_the_metrics_up_to_its_checkpoint(tmp_path):
    run = open_run(tmp_path / "run")
    entries = [
        {"kind": "stage", "step": 0, "epoch": 1, "stage": 0}, {"kind": "step", "step": 2, "epoch": 1},
        {"kind": "epoch", "step": 3, "epoch": 1}, {"kind": "stage", "step": 3, "epoch": 2, "stage": 1},
        {"kind": "step", "step": 4, "epoch": 2}, {"kind": "epoch", "step": 3, "epoch": 2},
    ]  # fmt: skip
    for entry in entries:
        run.log(**entry)
    with open(tmp_path / "run" / "metrics.jsonl", "ab") as file:
        file.write(b'{"kind": "step", "step": 1')  # a killed process

    run.forget_after(step=3, num_epochs=1, stage=0)

    kept = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert kept == entries[:3]
    run.close()
