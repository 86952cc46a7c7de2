"""Checkpoints: everything a resume needs in one .npz file, written whole or not at all.

Arrays are stored under their variables' own names and in no layout of any device, so the file does not depend on the
machine that wrote it.
"""

import io
import json
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from facelib.cli import FaceError
from facelib.files import atomic_path

KEPT = 2  # the last good one, and the one before in case the disk lies
# What zipfile and NumPy raise over damaged bytes, by where the damage lies.
_UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile
)  # fmt: skip
_NAME = re.compile(r"step-(\d{9})\.npz")


def save_checkpoint(folder: Path, step: int, arrays: dict[str, np.ndarray], state: dict) -> Path:
    """Writes `step-<step>.npz` atomically and removes all but the newest two. `state` is anything JSON can hold."""
    path = Path(folder) / f"step-{step:09d}.npz"
    with atomic_path(path) as part, open(part, "wb") as file:
        np.savez(file, **arrays, **{"state.json": np.frombuffer(json.dumps(state).encode(), np.uint8)})
    for old in list_checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folder = Path(folder)
    return sorted(p for p in folder.glob("step-*.npz") if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def step_of(path: Path) -> int:
    """The step that a checkpoint was written after."""
    return int(_NAME.fullmatch(Path(path).name)[1])


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Reads (arrays, state).

    Member by member and not by np.load, which reads no further than an array's header asks and so never gets to the
    checksum when the header is what was damaged.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                member = io.BytesIO(archive.read(name))
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
        return arrays, json.loads(arrays.pop("state.json").tobytes())
    except _UNREADABLE as error:
        raise FaceError(
            f"The checkpoint '{path}' is damaged ({error}). Delete this file: the run resumes from the one before it."
        ) from error
