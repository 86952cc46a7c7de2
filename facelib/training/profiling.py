"""A TensorFlow profile of some steps of a training. Names TensorFlow."""

from pathlib import Path

import keras
import tensorflow as tf

_SKIPPED = 10  # steps of this process: the first ones compile


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
