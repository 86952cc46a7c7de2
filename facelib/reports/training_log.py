"""The training log of a run: what metrics.jsonl says of its steps, epochs and stages."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facelib.errors import FaceError

Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class TrainingLog:
    """The lines of a metrics.jsonl by kind, each kind in the order of its number.

    Attributes:
        steps: {"step", "epoch", "loss", "accuracy", "learning_rate", ...}, one each logged step.
        epochs: {"epoch", "step", "loss", "seconds", "sets": {name: result}, ...}, one each finished epoch.
        stages: {"stage", "step", "loss", ...}, one each stage of the schedule that has begun; `loss` is its name.
    """

    steps: Lines = field(default_factory=list)
    epochs: Lines = field(default_factory=list)
    stages: Lines = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was logged yet."""
        return not (self.steps or self.epochs)

    @property
    def set_names(self) -> list[str]:
        """The verification sets, in order of their first appearance."""
        return list(dict.fromkeys(name for line in self.epochs for name in line.get("sets") or {}))

    @property
    def seconds(self) -> float:
        """Duration of all finished epochs; 0 where the log does not say."""
        return sum(line["seconds"] for line in self.epochs if isinstance(line.get("seconds"), int | float))

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values of `key`) of the step lines where the value is finite, float64 [N] each."""
        points = [(line["step"], line[key]) for line in self.steps if isinstance(line.get(key), int | float)]
        points = [point for point in points if math.isfinite(point[1])]
        return np.array([step for step, _ in points], float), np.array([value for _, value in points], float)

    def results(self, set_name: str) -> Lines:
        """The epoch lines that have a result of this set, each with that result under "result"."""
        found = [line for line in self.epochs if set_name in (line.get("sets") or {})]
        return [{**line, "result": line["sets"][set_name]} for line in found]

    def places(self, steps: Sequence[int], by: str) -> np.ndarray:
        """Where steps lie on the horizontal axis of a plot.

        Args:
            steps: step numbers [N].
            by: "epochs", "steps" or "hours".

        Returns:
            float64 [N]. Within an epoch they are spread evenly; the unfinished epoch has the pace of the one before.
        """
        steps = np.asarray(steps, float)
        if by == "steps" or not self.epochs:
            return steps
        ends = np.array([0, *(line["step"] for line in self.epochs)], float)
        values = np.array([0, *(line["epoch"] for line in self.epochs)], float)
        if by == "hours":
            values = np.concatenate([[0], np.cumsum([line.get("seconds", 0) for line in self.epochs])]) / 3600
        pace = (values[-1] - values[-2]) / max(ends[-1] - ends[-2], 1)
        return np.where(steps <= ends[-1], np.interp(steps, ends, values), values[-1] + pace * (steps - ends[-1]))


def read_training_log(path: Path) -> TrainingLog:
    """Reads a metrics.jsonl; the log is empty when there is no such file.

    A resumed run repeats the steps after its checkpoint: the last line of a step counts. An incomplete last line does
    not count, since the process may have been killed while it wrote.

    Raises:
        FaceError: a line before the last one is not a JSON object with its number.
    """
    if not path.is_file():
        return TrainingLog()
    found: dict[str, dict[int, dict]] = {"step": {}, "epoch": {}, "stage": {}}
    lines = path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line) if line.strip() else {}
            if entry.get("kind") in found:
                found[entry["kind"]][int(entry[entry["kind"]])] = entry
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                break
            raise FaceError(
                f"Each line of metrics.jsonl is a JSON object with its step. '{path}' line {number} is not. Remove it."
            ) from error
    return TrainingLog(*([entries[key] for key in sorted(entries)] for entries in found.values()))


def require_training_log(run: Path) -> TrainingLog:
    """Reads RUN/metrics.jsonl, which must have something in it.

    Raises:
        FaceError: no such file, nothing logged in it, or a damaged line.
    """
    path = Path(run) / "metrics.jsonl"
    log = read_training_log(path)
    if log.is_empty:
        raise FaceError(
            f"A run directory has a metrics.jsonl with steps. '{path}' has none: name the --out of train.py."
        )
    return log
