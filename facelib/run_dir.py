"""The run directory of a training: full recipe, provenance, metrics, and what makes a second start a resume."""

import json
import os
import platform
import sys
import time
from pathlib import Path

from facelib.checkpoint import list_checkpoints
from facelib.cli import FaceError
from facelib.files import read_json, write_bytes, write_json
from facelib.recipe import Recipe, differences, load_recipe, to_toml
from facelib.sidecar import git_commit, package_versions


class RunDir:
    """Opens `path` for a training of `recipe` on data with `fingerprint`, or continues the one that is there.

    Attributes:
        checkpoints: folder of the checkpoints.   is_resumed: whether one was there.

    Raises:
        FaceError: another recipe or other data began this run; or the folder holds something else.
    """

    def __init__(self, path: Path, recipe: Recipe, data: Path, fingerprint: str):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoint"
        config = self.path / "config.toml"
        self.is_resumed = config.is_file() and bool(list_checkpoints(self.checkpoints))
        if self.path.exists() and not self.path.is_dir():
            raise FaceError(f"--out is a folder for the run. '{self.path}' is a file: choose another name.")
        if config.is_file():
            self._check_same(config, recipe, fingerprint)
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise FaceError(
                f"--out is a new folder or a run to continue. '{self.path}' holds other files: choose another."
            )
        session = {"argv": sys.argv, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "git_commit": git_commit()}
        sessions = [*self._sessions(), {**session, "machine": _machine(), "versions": package_versions()}]
        data_name = os.path.relpath(data, self.path.resolve()) if Path(data).exists() else str(data)
        provenance = {"data": {"path": data_name, "fingerprint": fingerprint}, "sessions": sessions}
        write_json(self.path / "provenance.json", provenance)
        if not config.is_file():
            write_bytes(config, to_toml(recipe).encode())

    def log(self, **line) -> None:
        """Appends one object to metrics.jsonl."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, step: int) -> None:
        """Drops the metrics of steps after `step`: a resumed run takes and logs them again."""
        path = self.path / "metrics.jsonl"
        if path.is_file():
            lines = path.read_bytes().splitlines(keepends=True)
            write_bytes(path, b"".join(line for line in lines if _step_of(line) <= step))

    def _sessions(self) -> list[dict]:
        path = self.path / "provenance.json"
        return read_json(path, "provenance").get("sessions", []) if path.is_file() else []

    def _check_same(self, config: Path, recipe: Recipe, fingerprint: str) -> None:
        changed = differences(load_recipe(config), recipe)
        if changed:
            some = "; ".join(changed[:3]) + (" ..." if changed[3:] else "")
            raise FaceError(
                f"'{self.path}' was begun with another recipe ({some}). "
                f"Give the same recipe to resume it, or another --out to start anew."
            )
        begun_with = read_json(self.path / "provenance.json", "provenance").get("data", {}).get("fingerprint")
        if begun_with != fingerprint:
            raise FaceError(
                f"'{self.path}' was begun on other data (fingerprint {str(begun_with)[:12]}, now {fingerprint[:12]}). "
                f"Give the same --data to resume it, or another --out to start anew."
            )


def _step_of(line: bytes) -> float:
    """The step of a metrics line; infinite for a line that a killed process left half-written."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _machine() -> dict:
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
