"""facelib/training/trackers.py: MLflow with a file store, Weights & Biases offline, and trackers that fail."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import train
from facelib.errors import FaceError
from facelib.training.trackers import TrackedRun, Tracking
from tests.helpers.slow import slow_unless_quick
from tests.helpers.toy_data import write_data, write_toy_pairs
from tests.helpers.training_runs import STEPS, fit, lines

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "helpers" / "tiny_train.py"  # train.py with a small net
TOML = """
name = "tiny"
[model]
embedding_size = 16
[data]
batch_size = 16
[[stage]]
epochs = 2
scale = 16.0
margin = 0.2
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Eighty images of ten people (5 steps an epoch), a bin of 40 pairs, and a recipe."""
    folder = tmp_path_factory.mktemp("toy")
    write_data(folder, 10, 8)
    write_toy_pairs(folder)
    (folder / "tiny.toml").write_text(TOML)
    return folder


def run(toy, out, tracker, *more, **environ):
    """The output of a training that is tracked."""
    command = [sys.executable, TINY, toy / "tiny.toml", "--data", toy / "data", "--valid", toy / "toy.bin"]
    command += ["--out", out, "--log-every", "1", "--track", tracker, *more]
    done = subprocess.run(
        list(map(str, command)), cwd=toy, env={**os.environ, **environ}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0 and "warning: the tracker" not in done.stdout, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.needs_tool("mlflow")
def test_mlflow_has_curves_recipe_data_hash_plots_and_embedder(toy, tmp_path):
    store = f"file://{tmp_path / 'store'}"
    environ = {"MLFLOW_TRACKING_URI": store, "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_EXPERIMENT_NAME": "faces"}
    run(toy, tmp_path / "first", "mlflow", "--steps", "3", **environ)
    run(toy, tmp_path / "first", "mlflow", **environ)  # goes on in the same run

    (experiment,) = [path.parent for path in (tmp_path / "store").glob("*/meta.yaml") if "faces" in path.read_text()]
    (one,) = [path.parent for path in experiment.glob("*/meta.yaml")]
    assert one.name == json.loads((tmp_path / "first" / "tracker.json").read_text())["mlflow"]
    assert "run_name: first" in (one / "meta.yaml").read_text()
    assert "status: 3" in (one / "meta.yaml").read_text()  # FINISHED
    points = [line.split() for line in (one / "metrics" / "loss").read_text().splitlines()]
    logged = lines(tmp_path / "first", "step")
    assert [(int(p[2]), float(p[1])) for p in points] == [(line["step"], line["loss"]) for line in logged]
    assert len((one / "metrics" / "toy_acc_percent").read_text().splitlines()) == 2
    assert (one / "params" / "stage.0.epochs").read_text() == "2"
    provenance = json.loads((tmp_path / "first" / "provenance.json").read_text())
    assert (one / "tags" / "data_fingerprint").read_text() == provenance["data"]["fingerprint"]
    kept = one / "artifacts"
    assert {"config.toml", "embedder.h5", "embedder.h5.json"} <= {path.name for path in kept.iterdir()}
    assert (kept / "embedder.h5").read_bytes() == (tmp_path / "first" / "embedder.h5").read_bytes()
    assert list((kept / "plots").glob("*.png"))


@pytest.mark.slow
@pytest.mark.needs_tool("wandb")
def test_wandb_offline_has_a_run_with_its_embedder(toy, tmp_path):
    run(toy, tmp_path / "first", "wandb", WANDB_MODE="offline")

    (folder,) = (tmp_path / "first" / "wandb").glob("offline-run-*")
    run_id = json.loads((tmp_path / "first" / "tracker.json").read_text())["wandb"]
    assert folder.name.endswith(run_id)
    stored = (folder / f"run-{run_id}.wandb").read_bytes()
    fingerprint = json.loads((tmp_path / "first" / "provenance.json").read_text())["data"]["fingerprint"]
    for text in ("toy_acc_percent", "stage.0.epochs", "first-embedder", "embedder.h5", fingerprint):
        assert text.encode() in stored, text


def test_without_its_package_a_tracker_is_refused_at_once(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "mlflow" else find(name))

    with pytest.raises(FaceError, match="needs the package mlflow, which is not installed"):
        train.main(["--out", str(tmp_path / "run"), "--track", "mlflow"])

    assert not (tmp_path / "run").exists()


class Recorder:
    """A tracker that keeps what it is told, and fails in one method."""

    def __init__(self, fails):
        self.fails, self.called = fails, []

    def __call__(self, run):
        self.run = run
        self._note("open")
        return self

    def write(self, step, values):
        self._note("write", step, sorted(values))

    def flush(self):
        self._note("flush")

    def finish(self, files, is_complete):
        self._note("finish", [path.name for path in files], is_complete)

    def _note(self, method, *what):
        self.called.append((method, *what))
        if method == self.fails:
            raise ConnectionError("no answer\nfrom the server")


@pytest.mark.parametrize("fails", slow_unless_quick([None, "open", "write", "flush", "finish"], [None, "write"]))
def test_a_tracker_gets_curves_and_files_and_one_that_fails_is_one_warning(tmp_path, monkeypatch, capsys, fails):
    recorder = Recorder(fails)
    monkeypatch.setattr("facelib.training.trackers.Mlflow", recorder)

    _, is_complete = fit(tmp_path / "run", track="mlflow")

    assert is_complete and len(lines(tmp_path / "run", "step")) == 2 * STEPS
    warnings = capsys.readouterr().out.count("warning: the tracker mlflow cannot be written any more (no answer from")
    assert warnings == (fails is not None)
    if fails:
        assert recorder.called[-1][0] == fails
        return
    assert recorder.run.recipe["stage.0.epochs"] == 2 and recorder.run.fingerprint == "f"
    steps = [step for method, *what in recorder.called if method == "write" for step in what[:1]]
    assert steps == [1, 2, 3, 3, 3, 4, 5, 6, 6, 6]
    assert ("write", 3, ["epoch_accuracy_percent", "epoch_loss"]) in recorder.called
    method, files, is_complete = recorder.called[-1]
    assert method == "finish" and is_complete and {"config.toml", "embedder.h5", "embedder.h5.json"} <= set(files)


def test_none_writes_no_curves_and_a_finished_run_opens_no_tracker(tmp_path, monkeypatch):
    fit(tmp_path / "run", track="none")
    assert not (tmp_path / "run" / "tensorboard").exists()

    recorder = Recorder(None)
    monkeypatch.setattr("facelib.training.trackers.Mlflow", recorder)
    fit(tmp_path / "run", track="mlflow")
    assert recorder.called == []


def test_ids_of_several_trackers_are_kept(tmp_path):
    run = TrackedRun(tmp_path, {}, "f")
    run.write_id("mlflow", "a")
    run.write_id("wandb", "b")
    assert (run.read_id("mlflow"), run.read_id("wandb"), run.read_id("comet")) == ("a", "b", None)
    Tracking("none", run, print).write(1, {"loss": 1.0})
