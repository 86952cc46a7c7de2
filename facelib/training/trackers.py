"""Where the curves of a training go beside metrics.jsonl: TensorBoard, MLflow, Weights & Biases, or nowhere.

A tracker that fails, such as a server that does not answer or a full disk, is one warning; then it stays silent. MLflow
and Weights & Biases take their addresses and keys from their own variables: MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME, WANDB_MODE, WANDB_PROJECT, ... RUN/tracker.json has the id of the run there, so that a training
that is resumed continues the same curves.
"""

import importlib.util
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facelib.errors import FaceError
from facelib.files import read_json, write_json

TRACKERS = ("tensorboard", "mlflow", "wandb", "none")  # the first is the default
PROJECT = "mobilearc"
IDS = "tracker.json"
_MOST_PARAMETERS = 100  # in one message to MLflow


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a training.

    Attributes:
        path: of the run directory; its name is the name of the run.
        recipe: values by key, such as 'stage.0.epochs'.
        fingerprint: of the training data.
    """

    path: Path
    recipe: dict[str, Any]
    fingerprint: str

    @property
    def files(self) -> list[Path]:
        """The files that a tracker keeps: recipe, provenance, plots and the embedder with its sidecar."""
        names = ("config.toml", "provenance.json", "metrics.jsonl", "embedder.h5", "embedder.h5.json", "report.html")
        found = [self.path / name for name in names] + sorted((self.path / "plots").glob("*.png"))
        return [path for path in found if path.is_file()]

    def read_id(self, tracker: str) -> str | None:
        """The id under which this tracker knows the run; None for a new run."""
        path = self.path / IDS
        return read_json(path, "tracker ids").get(tracker) if path.is_file() else None

    def write_id(self, tracker: str, run_id: str) -> None:
        """Keeps the id for the next time."""
        path = self.path / IDS
        others = read_json(path, "tracker ids") if path.is_file() else {}
        write_json(path, {**others, tracker: run_id})


def check_tracker(tracker: str) -> None:
    """Raises FaceError if the package of a tracker is not installed."""
    if tracker in ("mlflow", "wandb") and importlib.util.find_spec(tracker) is None:
        raise FaceError(
            f"--track {tracker} needs the package {tracker}, which is not installed. Install it: pip install {tracker}."
        )


class Tracking:
    """Calls a tracker. One that raises is one warning, and is not called again.

    Args:
        tracker: 'tensorboard', 'mlflow', 'wandb' or 'none'.
        run: of the training.
        say: prints the warning.
    """

    def __init__(self, tracker: str, run: TrackedRun, say: Callable[[str], None]):
        self._name, self._run, self._say = tracker, run, say
        self._tracker: Any = None
        self._call(self._open)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One point of each curve in `values`."""
        self._call(lambda: self._tracker and self._tracker.write(step, values))

    def flush(self) -> None:
        """Makes sure that the points so far are stored."""
        self._call(lambda: self._tracker and self._tracker.flush())

    def finish(self, is_complete: bool) -> None:
        """Ends the run; a complete one with its files."""
        files = self._run.files if is_complete else []
        self._call(lambda: self._tracker and self._tracker.finish(files, is_complete))

    def _open(self) -> None:
        make = {"tensorboard": TensorBoard, "mlflow": Mlflow, "wandb": WeightsAndBiases}.get(self._name)
        self._tracker = make(self._run) if make else None

    def _call(self, function: Callable[[], object]) -> None:
        try:
            function()
        except Exception as error:
            self._tracker = None
            reason = " ".join(str(getattr(error, "message", error)).split())[:200]
            folder = self._run.path / "tensorboard"
            what = f"the TensorBoard log in '{folder}'" if self._name == "tensorboard" else f"the tracker {self._name}"
            self._say(
                f"warning: {what} cannot be written any more ({reason}). The training continues, and metrics.jsonl "
                "has all values."
            )


class TensorBoard:
    """Scalars by step, in RUN/tensorboard."""

    def __init__(self, run: TrackedRun):
        import tensorflow as tf

        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(str(run.path / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        with self._writer.as_default(step):
            for name, value in values.items():
                self._summary.scalar(name, value)

    def flush(self) -> None:
        self._writer.flush()

    def finish(self, files: Sequence[Path], is_complete: bool) -> None:
        self._writer.flush()


class Mlflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI or in the current folder."""

    def __init__(self, run: TrackedRun):
        # MLflow's own values wait for several minutes, and the training with it.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        import mlflow

        self._entities, self._client = mlflow.entities, mlflow.MlflowClient()
        self._id = self._known(run.read_id("mlflow"), mlflow.MlflowException) or self._create(run)
        self._client.update_run(self._id, status="RUNNING")

    def _known(self, run_id: str | None, unknown: type[Exception]) -> str | None:
        """The id, if this store has the run."""
        try:
            return self._client.get_run(run_id).info.run_id if run_id else None
        except unknown:
            return None

    def _create(self, run: TrackedRun) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
        tags = {"run_dir": str(run.path), "data_fingerprint": run.fingerprint}
        run_id = self._client.create_run(experiment_id, run_name=run.path.resolve().name, tags=tags).info.run_id
        parameters = [self._entities.Param(key, str(value)) for key, value in run.recipe.items()]
        for first in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(run_id, params=parameters[first : first + _MOST_PARAMETERS])
        run.write_id("mlflow", run_id)
        return run_id

    def write(self, step: int, values: dict[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._entities.Metric(re.sub(r"[^\w\-./ ]", "_", name), float(value), now, step)
            for name, value in values.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def flush(self) -> None:
        """Each point is stored when it is written."""

    def finish(self, files: Sequence[Path], is_complete: bool) -> None:
        for path in files:
            self._client.log_artifact(self._id, str(path), "plots" if path.parent.name == "plots" else None)
        self._client.set_terminated(self._id, "FINISHED" if is_complete else "KILLED")


class WeightsAndBiases:
    """A run of Weights & Biases; with WANDB_MODE=offline in RUN/wandb."""

    def __init__(self, run: TrackedRun):
        import wandb

        run_id = run.read_id("wandb") or secrets.token_hex(4)
        config = {**run.recipe, "run_dir": str(run.path), "data_fingerprint": run.fingerprint}
        name, project = run.path.resolve().name, os.environ.get("WANDB_PROJECT", PROJECT)
        self._wandb = wandb
        self._run = wandb.init(
            project=project, name=name, id=run_id, resume="allow", dir=str(run.path), config=config
        )  # fmt: skip
        self._run.define_metric("*", step_metric="step")  # a resumed training may write a step again
        run.write_id("wandb", run_id)

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log({"step": step, **values})

    def flush(self) -> None:
        """A process of its own sends the points."""

    def finish(self, files: Sequence[Path], is_complete: bool) -> None:
        plots = [path for path in files if path.parent.name == "plots"]
        self._run.log({path.stem: self._wandb.Image(str(path)) for path in plots})
        if files:
            artefact = self._wandb.Artifact(f"{self._run.name}-embedder", type="model")
            for path in files:
                artefact.add_file(str(path), name=str(path.name))
            self._run.log_artifact(artefact)
        self._run.finish(exit_code=0 if is_complete else 1)
