"""What is in a folder, without times: to compare the result of a run with that of another."""

import hashlib
import json
from pathlib import Path

from facelib.training.checkpoint import load_checkpoint
from tests.fuzz.seeds import read_tree

_TIMES = ("seconds", "images_per_s", "ms_per_image", "ms_single", "sessions", "started")
_UNCOMPARED = (".lock", ".md", ".png", ".html")  # only their names are compared


def contents_of(folder: Path) -> dict[str, str]:
    """{relative path: hash of the content}, without times, logs, and the event files of TensorBoard, named by time."""
    return {
        name: hash_of(folder / name, data)
        for name, data in read_tree(folder).items()
        if not name.endswith(".log") and not name.split("/")[-1].startswith("events.out.tfevents")
    }


def hash_of(path: Path, data: bytes) -> str:
    """Hash of a file's content.

    Raises:
        Exception: the content is damaged.
    """
    if path.suffix in _UNCOMPARED:
        return "not compared"
    if path.suffix == ".npz" and path.name.startswith("step-"):
        arrays, state = load_checkpoint(path)
        values = {name: _sha256(array.tobytes() + str(array.dtype).encode()) for name, array in arrays.items()}
        return _sha256(json.dumps([values, _without_times(state)], sort_keys=True).encode())
    if path.suffix == ".jsonl":
        return _sha256(json.dumps([_without_times(json.loads(line)) for line in data.splitlines()]).encode())
    if path.suffix == ".json":
        return _sha256(json.dumps(_without_times(json.loads(data))).encode())
    return _sha256(data)


def leftovers(folder: Path) -> list[str]:
    """Hidden files and folders, and parts of files, below a folder."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.name.startswith(".") or path.suffix in (".part", ".progress")
    )


def differences(found: dict[str, str], right: dict[str, str]) -> list[str]:
    """One line for each file that is missing, additional or different."""
    lines = [f"missing: {name}" for name in right if name not in found]
    lines += [f"additional: {name}" for name in found if name not in right]
    return lines + [f"different: {name}" for name in right if name in found and found[name] != right[name]]


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(one) for key, one in value.items() if key not in _TIMES}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
