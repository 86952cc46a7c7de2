"""The TensorBoard log of a run, and the profile of some steps."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import tensorflow as tf

from facelib.errors import FaceError

_SKIPPED = 10  # steps of this process: the first ones compile


class NoLog:
    """The log of a worker other than 0, which writes nothing."""

    def write(self, step: int, values: dict[str, float]) -> None: ...

    def flush(self) -> None: ...


class TensorBoardLog:
    """Scalars by step.

    Args:
        folder: of the log.

    Raises:
        OSError: the disk is full; every method may raise it.
        FaceError: the folder cannot be written for another reason; every method may raise it.
    """

    def __init__(self, folder: Path):
        self.folder = str(folder)
        with self._writing():
            self._writer = tf.summary.create_file_writer(self.folder)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One point of each curve in `values`."""
        with self._writing(), self._writer.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def flush(self) -> None:
        """Writes the points so far to the disk."""
        with self._writing():
            self._writer.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.ResourceExhaustedError as error:  # a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.folder) from error
        except tf.errors.OpError as error:
            raise FaceError(
                f"The TensorBoard log in '{self.folder}' cannot be written: {error.message}. Check the folder."
            ) from error


class ProfileSteps(keras.callbacks.Callback):
    """Writes a profile of some steps, for TensorBoard's profile plugin or Perfetto.

    Args:
        folder: of the profile.
        count: how many steps are profiled.
    """

    def __init__(self, folder: Path, count: int):
        super().__init__()
        self.folder, self.count, self._step = folder, count, 0

    def on_train_batch_begin(self, batch, logs=None):
        if self._step == _SKIPPED:
            tf.profiler.experimental.start(str(self.folder))
        self._step += 1

    def on_train_batch_end(self, batch, logs=None):
        if self._step == _SKIPPED + self.count:
            self._stop()

    def on_train_end(self, logs=None):
        if _SKIPPED < self._step < _SKIPPED + self.count:  # the training ended during the profile
            self._stop()
        elif self._step <= _SKIPPED:
            print(
                f"no profile: it starts after {_SKIPPED} steps, and the training ended after {self._step}", flush=True
            )

    def _stop(self) -> None:
        tf.profiler.experimental.stop()
        print(
            f"\nwrote a profile of {self._step - _SKIPPED} steps: {self.folder}\n"
            f"next: pip install tensorboard-plugin-profile; tensorboard --logdir {self.folder}",
            flush=True,
        )
