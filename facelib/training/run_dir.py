"""The run directory of a training: recipe, provenance.json, metrics.jsonl, lock, and when a run may resume."""

import json
import os
import platform
import sys
import time
from pathlib import Path

from facelib.errors import FaceError
from facelib.files import make_folder, parse_json, read_json, write_bytes, write_json
from facelib.locks import is_held, open_folder
from facelib.sidecar import git_commit, package_versions
from facelib.training.checkpoint import list_checkpoints, read_position, step_of
from facelib.training.recipe.changes import check_epochs, forbidden_changes
from facelib.training.recipe.schema import Recipe
from facelib.training.recipe.toml import differences, load_recipe, to_toml

# Files of a run that has saved no model yet. Such a run starts again, with any recipe.
_BEGINNINGS = {
    "provenance.json", "config.toml", "classes.json", "metrics.jsonl", "tensorboard", "checkpoint", "plots",
    "report.html", "tracker.json", "wandb",
}  # fmt: skip


class RunDir:
    """A new run directory, or one whose training continues.

    One process at a time uses it: the folder is locked until `close` or the end of the process.

    Args:
        path: of the folder.
        recipe: of the training.
        data: path of the training data, for provenance.json.
        fingerprint: of the training data.

    Attributes:
        path: of the folder.
        checkpoints: folder of the checkpoints.
        changes: what this recipe changes in a run that resumes, each as 'stage.0.epochs: 12 -> 20'.

    Raises:
        FaceError: the recipe changes a key that may not change (recipe/changes.py); other data; the folder holds other
            files; or another process trains into it.
    """

    def __init__(self, path: Path, recipe: Recipe, data: Path, fingerprint: str):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoint"
        self.changes: list[str] = []
        self._handle: int | None = self._lock()
        try:
            self._open(recipe, data, fingerprint)
        except BaseException:
            self.close()
            raise

    def _open(self, recipe: Recipe, data: Path, fingerprint: str) -> None:
        config = self.path / "config.toml"
        names = {path.name for path in self.path.iterdir() if not path.name.startswith(".")}
        is_started = any(step_of(path) for path in list_checkpoints(self.checkpoints)) or any(self.path.glob("*.h5"))
        if is_started and config.is_file():
            self.changes = self._check_same(config, recipe, fingerprint)
        elif names and ("provenance.json" not in names or names - _BEGINNINGS):
            raise FaceError(
                f"--out must be a new folder or the folder of a run to continue. '{self.path}' holds other files: "
                "choose a different folder."
            )
        self._remove_leftovers()
        session: dict = {"argv": sys.argv, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "git_commit": git_commit()}
        session |= {"changes": self.changes} if self.changes else {}
        sessions = [*self._sessions(), {**session, "machine": _machine(), "versions": package_versions()}]
        data_name = str(data)
        if Path(data).exists():
            data_name = Path(os.path.relpath(data, self.path.resolve())).as_posix()
        provenance = {"data": {"path": data_name, "fingerprint": fingerprint}, "sessions": sessions}
        write_json(self.path / "provenance.json", provenance)
        if not is_started:
            for untrained in list_checkpoints(self.checkpoints):
                untrained.unlink()
        if not is_started or self.changes:
            write_bytes(config, to_toml(recipe).encode())

    def close(self) -> None:
        """Unlocks the folder, so that another process can continue the run."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def log(self, **line) -> None:
        """Appends one object to metrics.jsonl."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, step: int, num_epochs: int, stage: int) -> None:
        """Removes the metrics that a resumed run logs again.

        Args:
            step: the last step that is kept.
            num_epochs: number of epochs that are kept.
            stage: the last stage whose line is kept; -1 for none.
        """
        path = self.path / "metrics.jsonl"
        if path.is_file():
            lines = path.read_bytes().splitlines(keepends=True)
            write_bytes(path, b"".join(line for line in lines if _is_before(line, step, num_epochs, stage)))

    def _lock(self) -> int | None:
        make_folder(self.path)
        handle = open_folder(self.path)
        if handle is not None and is_held(handle):
            os.close(handle)
            raise FaceError(
                f"A different process is training into '{self.path}' now. Wait until it ends, or use a different --out."
            )
        return handle

    def _remove_leftovers(self) -> None:
        """Removes files that a killed process was writing. The lock makes sure that no process writes them now."""
        for folder in (self.path, self.checkpoints, self.path / "plots"):
            for pattern in (".*.part", ".*.h5"):
                for leftover in folder.glob(pattern):
                    leftover.unlink(missing_ok=True)

    def _sessions(self) -> list[dict]:
        path = self.path / "provenance.json"
        return read_json(path, "provenance").get("sessions", []) if path.is_file() else []

    def _check_same(self, config: Path, recipe: Recipe, fingerprint: str) -> list[str]:
        """Checks that the run can resume; returns what the recipe changes in it."""
        old, checkpoints = load_recipe(config), list_checkpoints(self.checkpoints)
        changed = differences(old, recipe)
        at = read_position(checkpoints[-1]) if changed and checkpoints else None
        forbidden = forbidden_changes(old, recipe, at.stage) if at else changed
        new_run = "--out OTHER"
        if (self.path / "embedder.h5").is_file():
            new_run = f"--init-from {self.path / 'embedder.h5'} {new_run}"
        if forbidden:
            some = "; ".join(forbidden[:3]) + (" ..." if forbidden[3:] else "")
            raise FaceError(
                "A run must resume with its own recipe; only the keys listed in docs/train.md may change. "
                f"'{self.path}' was started with a different recipe ({some}). Use the old values to resume the run, "
                f"or begin a new run: {new_run}."
            )
        if at:
            check_epochs(recipe, at.stage, (at.epoch, at.step))
        started_with = read_json(self.path / "provenance.json", "provenance").get("data", {}).get("fingerprint")
        if started_with != fingerprint:
            raise FaceError(
                f"A run must resume with its own data. '{self.path}' was started with different data (fingerprint "
                f"{str(started_with)[:12]}, now {fingerprint[:12]}). Use the same --data to resume the run, or begin "
                f"a new run: {new_run}."
            )
        return changed


class FollowedRun:
    """The run directory on a worker other than 0, which reads the checkpoints and writes nothing."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoint"
        self.changes: list[str] = []  # worker 0 says and logs them

    def log(self, **line) -> None: ...

    def forget_after(self, step: int, num_epochs: int, stage: int) -> None: ...

    def close(self) -> None: ...


def open_run(path: Path, recipe: Recipe, data: Path, fingerprint: str, is_chief: bool) -> RunDir | FollowedRun:
    """Opens the run directory: to write on worker 0 (`is_chief`), to read on the others. Arguments as for `RunDir`."""
    return RunDir(path, recipe, data, fingerprint) if is_chief else FollowedRun(path)


def _is_before(line: bytes, step: int, num_epochs: int, stage: int) -> bool:
    """Whether a line of metrics.jsonl is kept: complete, and of a step, epoch or stage up to these."""
    try:
        entry = parse_json(line)
        is_done = entry["kind"] != "epoch" or entry["epoch"] <= num_epochs
        is_done &= entry["kind"] != "stage" or entry["stage"] <= stage
        return is_done and entry["step"] <= step and line.endswith(b"\n")
    except (ValueError, KeyError, TypeError):
        return False


def _machine() -> dict:
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
