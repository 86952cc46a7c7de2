"""TensorBoard's log of a run. Names TensorFlow."""

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
    """What a worker that does not write has in its place."""

    def write(self, step: int, values: dict[str, float]) -> None: ...

    def flush(self) -> None: ...


class TensorBoardLog:
    """Scalars by step, in `folder`.

    Raises (every method):
        OSError: the disk is full.   FaceError: it cannot be written otherwise.
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
        """Brings what was written to the disk."""
        with self._writing():
            self._writer.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.ResourceExhaustedError as error:  # TensorFlow's word for a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.folder) from error
        except tf.errors.OpError as error:
            raise FaceError(f"TensorBoard's log in '{self.folder}' cannot be written: {error.message}.") from error


class ProfileSteps(keras.callbacks.Callback):
    """Writes a profile of `count` steps into `folder`; TensorBoard's profile plugin, and Perfetto, show it."""

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
        if _SKIPPED < self._step < _SKIPPED + self.count:  # the training was shorter
            self._stop()
        elif self._step <= _SKIPPED:
            print(
                f"no profile: it begins after {_SKIPPED} steps, and the training ended after {self._step}", flush=True
            )

    def _stop(self) -> None:
        tf.profiler.experimental.stop()
        print(
            f"\nwrote a profile of {self._step - _SKIPPED} steps: {self.folder}\n"
            f"next: pip install tensorboard-plugin-profile; tensorboard --logdir {self.folder}",
            flush=True,
        )
