"""What `Trainer` is given from outside its room, as protocols: data, evaluation and teacher.

dataset.py, evaluate_data.py and facelib/training/teacher.py implement them; tests have small ones. The protocols of the
head are in facelib/losses/protocols.py.
"""

from collections.abc import Generator, Sequence
from typing import Any, Protocol

import numpy as np


class Batch(Protocol):
    """One batch of training images, or one worker's part of it. `dataset.Batch` describes each attribute."""

    @property
    def images(self) -> np.ndarray: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def record_idx(self) -> np.ndarray: ...
    @property
    def is_flipped(self) -> np.ndarray: ...
    @property
    def step(self) -> int: ...


class TrainingBatches(Protocol):
    """Batches of a data set in the order of each epoch. `dataset.TrainingData` describes each method."""

    records: Any
    batch_size: int
    steps_per_epoch: int

    def __len__(self) -> int: ...

    def bounds(self, step: int) -> tuple[int, int]: ...

    def stream(self, epoch: int, step: int, *, last_epoch: int) -> Generator[Batch, None, None]: ...

    def shard(self, rank: int, count: int) -> "TrainingBatches": ...

    def balanced(self, images_per_identity: int) -> "TrainingBatches": ...


class Evaluation(Protocol):
    """The verification results of an embedder. `evaluate_data.Evaluation` implements it."""

    @property
    def results(self) -> Sequence[Any]: ...

    def table(self) -> str: ...


class Evaluate(Protocol):
    """Measures an embedder after each epoch."""

    def __call__(self, embedder: Any, /) -> Evaluation: ...


class TeacherEmbeddings(Protocol):
    """The embeddings that a student learns. `facelib.training.teacher.Teacher` implements it.

    Attributes:
        size: T, their length.
    """

    size: int

    def targets(self, record_idx: np.ndarray, is_flipped: np.ndarray) -> np.ndarray: ...


class Initialise(Protocol):
    """Gives a new training its first weights, and returns a line to print. See `facelib.training.init_from`."""

    def __call__(self, embedder: Any, head: Any) -> str: ...
