"""Checkpoints: one .npz file with everything that a resume needs, written whole or not at all; `Position` is its place.

Arrays are stored under the names of their variables, so the file does not depend on the machine or its devices. If
several workers hold the class centres, each writes its rows of them to a file beside the checkpoint,
`step-NNNNNNNNN.rows-FIRST-LAST.npz`. Any number of workers can read these files.
"""

import io
import json
import math
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facelib.errors import FaceError
from facelib.files import atomic_path, parse_json
from facelib.training.recipe.schema import Stage
from facelib.training.schedules import Plateau

if TYPE_CHECKING:
    from facelib.training.stage_setup import StageParts

MOST_BYTES_OF_CENTRES = 1 << 30  # in an epoch-NNN.h5

KEPT = 2  # the last one, and the one before in case the last one is damaged
# Exceptions of zipfile and NumPy for damaged bytes in different places.
_UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile
)  # fmt: skip
_NAME = re.compile(r"step-(\d{9})\.npz")
_ROWS = re.compile(r"\.rows-(\d{10})-(\d{10})\.npz$")


def save_checkpoint(folder: Path, step: int, arrays: dict[str, np.ndarray], state: dict) -> Path:
    """Writes `step-<step>.npz` atomically, and removes all checkpoints but the newest two.

    Args:
        folder: of the checkpoints.
        step: steps of the training so far.
        arrays: by name.
        state: anything that JSON can hold. 'row_files' lists the files of rows, which must have been written before.

    Returns:
        The path of the checkpoint.
    """
    path = Path(folder) / f"step-{step:09d}.npz"
    _write(path, arrays | {"state.json": np.frombuffer(json.dumps(state).encode(), np.uint8)})
    for old in list_checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    others = {other.stem for other in list_checkpoints(folder)} - {path.stem}
    for rows in Path(folder).glob("step-*.rows-*.npz"):
        if rows.name not in state.get("row_files", ()) and rows.name.split(".")[0] not in others:
            rows.unlink(missing_ok=True)
    return path


def row_file(step: int, first: int, last: int) -> str:
    """The name of the file with rows `first` to `last` - 1 of the arrays that are split by class."""
    return f"step-{step:09d}.rows-{first:010d}-{last:010d}.npz"


def save_rows(folder: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes the rows of one worker. `name`: from `row_file`."""
    _write(Path(folder) / name, arrays)


def read_rows(path: Path, row_files: list[str], wanted: set[str], first: int, last: int) -> dict[str, np.ndarray]:
    """Reads rows of split arrays from the row files of a checkpoint.

    Args:
        path: of the checkpoint.
        row_files: names of its row files.
        wanted: names of the arrays.
        first: first row.
        last: last row + 1.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for file in sorted(row_files):
        begin, end = (int(number) for number in _ROWS.findall(file)[0])
        if begin < last and first < end:
            arrays = _read(Path(path).parent / file)
            for name in wanted & arrays.keys():
                found[name].append(arrays[name][max(first - begin, 0) : last - begin])
    return {name: np.concatenate(parts) for name, parts in found.items() if parts}


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    by_name: dict[str, Any] = {**arrays}  # savez has an option too, which is a bool
    with atomic_path(path) as part, open(part, "wb") as file:
        np.savez(file, **by_name)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folder = Path(folder)
    return sorted(p for p in folder.glob("step-*.npz") if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def step_of(path: Path) -> int:
    """The number of steps before a checkpoint was written."""
    match = _NAME.fullmatch(Path(path).name)
    if match is None:
        raise ValueError(f"a checkpoint is named step-NNNNNNNNN.npz. Received: {path}")
    return int(match[1])


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Reads (arrays, state) of a checkpoint, without its row files."""
    arrays = _read(path)
    return arrays, _state(path, arrays)


def read_position(path: Path) -> "Position":
    """Reads the position of a checkpoint alone, without its arrays."""
    return Position.from_json(_state(path, _read(path, only="state.json.npy"))["position"])


def _state(path: Path, arrays: dict[str, np.ndarray]) -> dict:
    """Takes the state out of the arrays of a checkpoint."""
    try:
        state = parse_json(arrays.pop("state.json").tobytes())
        if not isinstance(state, dict):
            raise ValueError("its state is not a JSON object")
        return state
    except (KeyError, ValueError) as error:
        raise _damaged(path, error) from error


def _read(path: Path, only: str = "") -> dict[str, np.ndarray]:
    """Reads all arrays of a file, or one of its members, each to its end.

    np.load reads only as far as the header of an array asks. With a damaged header it does not reach the checksum.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in [only] if only else archive.namelist():
                member = io.BytesIO(archive.read(name))
                _check_header(member)
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
        return arrays
    except _UNREADABLE as error:
        raise _damaged(path, error) from error


def _check_header(member: io.BytesIO) -> None:
    """Raises ValueError unless an .npy is as long as its header says, before memory is taken for it.

    A header is Python text: NumPy hands on whatever Python's parser says of it.
    """
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(member)
    if version not in readers:
        raise ValueError(f"an array has version {version}")
    try:
        shape, _, dtype = readers[version](member)
    except (SyntaxError, tokenize.TokenError, MemoryError, TypeError) as error:
        raise ValueError("the header of an array is not one") from error
    if member.tell() + math.prod(shape) * dtype.itemsize != len(member.getbuffer()):
        raise ValueError(f"an array has not the {list(shape)} values that its header says")
    member.seek(0)


def _damaged(path: Path, error: Exception) -> FaceError:
    main = Path(path).name.split(".")[0] + ".npz"
    return FaceError(
        f"The checkpoint '{path}' is damaged ({error}). Delete '{main}': the run then resumes from the previous "
        "checkpoint."
    )


def save_parts(folder: Path, step: int, parts: "StageParts", state: dict) -> Path:
    """Writes a checkpoint. All workers call it; the checkpoint is complete when it returns.

    Args:
        folder: of the checkpoints.
        step: steps of the training so far.
        parts: what is saved.
        state: anything that JSON can hold.

    Returns:
        The path of the checkpoint.

    Raises:
        NonFiniteVariable: on every worker, if a variable on any worker is not finite. Nothing is written then.
    """
    workers, variables = parts.workers, parts.variables()
    mine = {name: v for name, v in variables.items() if workers.count > 1 and parts.is_by_class(name, v)}
    arrays = {name: v.numpy() for name, v in variables.items() if name in mine or workers.is_chief}
    odd = next((n for n, a in arrays.items() if a.dtype.kind == "f" and not np.isfinite(a).all()), None)
    if workers.any(odd is not None):  # a roll-back needs a good checkpoint
        raise NonFiniteVariable(odd or "weights of a different worker")
    if mine:
        bounds = [parts.rows_of_classes(rank)[:2] for rank in range(workers.count)]
        names = [row_file(step, first, last) for first, last in bounds]
        save_rows(folder, names[workers.rank], {name: arrays.pop(name) for name in mine})
        state = state | {"row_files": names}
        workers.wait()
    path = Path(folder) / f"step-{step:09d}.npz"
    if workers.is_chief:
        save_checkpoint(folder, step, arrays, state)
    workers.wait()  # so that no worker reads a checkpoint that is being written
    return path


def restore_parts(path: Path, arrays: dict, state: dict, parts: "StageParts") -> None:
    """Assigns the values of a checkpoint to all variables; of split arrays the rows of this worker.

    Args:
        path: of the checkpoint.
        arrays: from `load_checkpoint`.
        state: from `load_checkpoint`.
        parts: whose variables are set.

    Raises:
        FaceError: the checkpoint is of another network.
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
        raise FaceError(
            f"A checkpoint can be loaded only by the network that wrote it. '{path}' was written by a different "
            f"network (the networks differ at '{odd}'). Use a different --out for a new run."
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])


def head_to_save(folder: Path, parts: "StageParts"):
    """The margin head with the classes of all workers, for an epoch-NNN.h5, from the last checkpoint.

    Args:
        folder: of the checkpoints.
        parts: of the current stage.

    Returns:
        The head; None if the stage has no class centres, or they are too large for an .h5.
    """
    head = parts.centres_head
    if head is None or not parts.has_centres():
        return None
    num_rows, width = parts.rows_of_classes()[2], head.centres.shape[-1]
    if 4 * num_rows * width > MOST_BYTES_OF_CENTRES:
        print(
            "epoch-NNN.h5 has only the embedder: the class centres are larger than 1 GiB and are kept only in the "
            "checkpoint"
        )
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


class NonFiniteVariable(Exception):
    """A variable that is NaN or infinite. The text is its name."""


@dataclass
class Position:
    """How far a training has come. (epoch, step) names the next batch.

    Attributes:
        stage: number of the stage that is trained, from 0.
        epoch: complete epochs, of all stages together.
        step: steps taken in the current epoch.
        stage_step: steps taken in the current stage.
        global_step: steps taken in the whole training.
        seconds: training time of the current epoch, without evaluation.
        best: scores of embedder.h5: [mean ACC, mean AUC], or [epoch number] where nothing was measured; [] before
            the first epoch ends.
        best_on: names of the verification sets of these scores, sorted.
        rollbacks: how often the training went back to a checkpoint because a loss or a weight was not finite, at this
            learning rate of the recipe.
        plateau: learning rate factor of a 'plateau' schedule.
        steps_per_epoch: of the current stage; 0 before its first step, and in checkpoints of older versions.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    stage_step: int = 0
    global_step: int = 0
    seconds: float = 0.0
    best: list[float] = field(default_factory=list)
    best_on: list[str] = field(default_factory=list)
    rollbacks: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    steps_per_epoch: int = 0

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Position":
        """Reads what `to_json` wrote. A key that an older checkpoint lacks has its default."""
        return cls(**{**values, "plateau": Plateau(**(values.get("plateau") or {}))})

    def to_json(self) -> dict[str, Any]:
        """The form in a checkpoint: a dict of numbers, lists and dicts."""
        values = asdict(self)
        del values["steps_per_epoch"]  # beside the position, so that older versions read it
        return values

    @property
    def epoch_number(self) -> int:
        """The current epoch as users see it, counted from 1."""
        return self.epoch + 1

    def begin_stage(self, number: int) -> None:
        """Moves to the first step of stage `number`."""
        self.stage, self.stage_step, self.plateau, self.steps_per_epoch = number, 0, Plateau(), 0

    def fit_epoch(self, steps_per_epoch: int, epochs_before: int, warmup_steps: int) -> None:
        """Keeps the place in epoch and stage when an epoch has another number of steps than before.

        At most one batch of the epoch is seen twice. After the warm-ups the schedule continues at the same share of the
        stage. During them the steps of the stage count on, so that no warm-up jumps.

        Args:
            steps_per_epoch: from now on.
            epochs_before: epochs of the earlier stages.
            warmup_steps: of the stage, the longest.
        """
        epochs = self.epoch - epochs_before
        old = self.steps_per_epoch or ((self.stage_step - self.step) // epochs if epochs > 0 else 0)
        self.steps_per_epoch = steps_per_epoch
        if old and old != steps_per_epoch:
            self.step = self.step * steps_per_epoch // old
            if self.stage_step >= warmup_steps:
                self.stage_step = max(warmup_steps, epochs * steps_per_epoch + self.step)

    def take_step(self) -> None:
        """Counts one step."""
        self.step += 1
        self.stage_step += 1
        self.global_step += 1

    def end_epoch(self) -> None:
        """Moves to the first step of the next epoch."""
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0

    def forget_rollbacks(self, old_rates: Sequence[float], stages: Sequence[Stage]) -> bool:
        """Counts roll-backs anew if the stage to be trained now has got another learning rate; returns whether.

        Args:
            old_rates: `learning_rate` of each stage when the checkpoint was written; empty in those of older versions.
            stages: of the recipe now.
        """
        ends = np.cumsum([stage.epochs for stage in stages])
        number = int(np.searchsorted(ends, self.epoch, side="right"))
        if not self.rollbacks or number >= min(len(old_rates), len(stages)):
            return False
        if old_rates[number] == stages[number].learning_rate:
            return False
        self.rollbacks = 0
        return True

    def note_score(self, score: list[float], sets: list[str]) -> bool:
        """Keeps the scores of an epoch if they are the best so far; returns whether they are.

        Scores on other sets cannot be compared; then the latest ones count as the best.

        Args:
            score: more is better; the first number counts, the next ones decide between equals.
            sets: names of the verification sets, sorted.
        """
        if self.best_on == sets and not score >= self.best:
            return False
        self.best, self.best_on = score, sets
        return True
