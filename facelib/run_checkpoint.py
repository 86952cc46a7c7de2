"""A run's checkpoints: the trained parts' variables, written by all workers together and read by any number of them.

Worker 0 writes what all have alike, every worker its own rows of the class centres and of their optimizer's state.
"""

from pathlib import Path

import numpy as np

from facelib.checkpoint import load_checkpoint, read_rows, row_file, save_checkpoint, save_rows
from facelib.cli import FaceError
from facelib.stage_parts import StageParts


def save_parts(folder: Path, step: int, parts: StageParts, state: dict) -> Path:
    """Writes a checkpoint; all workers call it, and it is whole when it returns.

    Raises:
        NotFiniteError: on every worker, when a variable of any is not finite; nothing is written then.
    """
    workers, variables = parts.workers, parts.variables()
    mine = {name: v for name, v in variables.items() if workers.count > 1 and parts.is_by_class(name, v)}
    arrays = {name: v.numpy() for name, v in variables.items() if name in mine or workers.is_chief}
    odd = next((n for n, a in arrays.items() if a.dtype.kind == "f" and not np.isfinite(a).all()), None)
    if workers.any(odd is not None):  # a last good checkpoint must be good
        raise NotFiniteError(odd or "weights of another worker")
    if mine:
        bounds = [parts.rows_of_classes(rank)[:2] for rank in range(workers.count)]
        names = [row_file(step, first, last) for first, last in bounds]
        save_rows(folder, names[workers.rank], {name: arrays.pop(name) for name in mine})
        state = state | {"row_files": names}
        workers.wait()
    path = Path(folder) / f"step-{step:09d}.npz"
    if workers.is_chief:
        save_checkpoint(folder, step, arrays, state)
    workers.wait()  # nobody goes back to a checkpoint that is being written
    return path


def restore_parts(path: Path, arrays: dict, state: dict, parts: StageParts) -> None:
    """Assigns a checkpoint that `load_checkpoint` has read, and this worker's rows of what is split.

    Raises:
        FaceError: it is of another network.
    """
    variables, row_files = parts.variables(), state.get("row_files", [])
    by_class = {name for name, v in variables.items() if parts.is_by_class(name, v)}
    if by_class:
        first, last, total = parts.rows_of_classes()
        if row_files:
            arrays = arrays | read_rows(path, row_files, by_class, first, last)
        else:
            arrays = arrays | {n: arrays[n][first:last] for n in by_class & arrays.keys() if len(arrays[n]) == total}
    if variables.keys() != arrays.keys():
        odd = sorted(variables.keys() ^ arrays.keys())[0]
        raise FaceError(f"The checkpoint '{path}' is of another network (at '{odd}'). Start anew with another --out.")
    for name, variable in variables.items():
        variable.assign(arrays[name])


def read_centres(path: Path, parts: StageParts) -> np.ndarray:
    """All workers' class centres of a checkpoint: float32 [C * K, D]."""
    arrays, state = load_checkpoint(path)
    name = next(name for name, v in parts.variables().items() if v is parts.centres_head.centres)
    if name in arrays:
        return arrays[name]
    return read_rows(path, state["row_files"], {name}, 0, parts.rows_of_classes()[2])[name]


class NotFiniteError(Exception):
    """Its text is the name of a variable."""
