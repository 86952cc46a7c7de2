"""A run's checkpoints: the trained parts' variables, written by all workers together and read by any number of them.

Worker 0 writes what all have alike, every worker its own rows of the class centres and of their optimizer's state.
"""

from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    read_rows,
    row_file,
    save_checkpoint,
    save_rows,
)
from facelib.training.stage_setup import StageParts

MOST_BYTES_OF_CENTRES = 1 << 30  # that an epoch-NNN.h5 holds


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


def head_to_save(folder: Path, parts: StageParts):
    """The margin head with the classes of all workers, for an epoch-NNN.h5; of the last checkpoint in `folder`.

    None when the stage trains without one, or it is too large for an .h5.
    """
    head = parts.centres_head
    if not parts.has_centres():
        return None
    num_rows, width = parts.rows_of_classes()[2], head.centres.shape[-1]
    if 4 * num_rows * width > MOST_BYTES_OF_CENTRES:
        print("epoch-NNN.h5 is the embedder alone: the class centres, above 1 GiB, are in the checkpoint")
        return None
    if parts.workers.count == 1:
        return head
    path = list_checkpoints(folder)[-1]
    arrays, state = load_checkpoint(path)
    name = next(name for name, v in parts.variables().items() if v is head.centres)
    arrays = arrays if name in arrays else read_rows(path, state["row_files"], {name}, 0, num_rows)
    whole = type(head).from_config(head.get_config())
    whole.build((None, width))
    for mine, theirs in zip(whole.variables, head.variables, strict=True):
        mine.assign(arrays[name] if theirs is head.centres else theirs)
    return whole


class NotFiniteError(Exception):
    """Its text is the name of a variable."""
