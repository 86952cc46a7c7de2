"""What a training shows while it runs: printed lines, the progress bar, metrics.jsonl, a tracker, and a profile."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf
from tqdm import tqdm

from facelib.training.checkpoint import Position
from facelib.training.protocols import TrainingBatches
from facelib.training.recipe.schema import Stage
from facelib.training.run_dir import FollowedRun, RunDir
from facelib.training.trackers import TrackedRun, Tracking
from facelib.wording import counted

_UNIT = {"accuracy_unit": "%"}  # of accuracy, acc and acc_std; lines of older runs, without it, have shares of 1
_SKIPPED = 10  # steps of this process: the first ones compile


class Progress:
    """Prints, draws and logs the progress of a training. Only worker 0 prints and writes.

    Args:
        run: the run directory.
        is_chief: whether this is worker 0.
    """

    def __init__(self, run: RunDir | FollowedRun, is_chief: bool):
        self.run, self.is_chief = run, is_chief
        self._tracking: Tracking | None = None  # before the training begins, and on the other workers
        self._bar: tqdm | None = None
        self._lap_began = time.perf_counter()

    def track(self, tracker: str, run: TrackedRun) -> None:
        """Opens the tracker of a training that begins or goes on."""
        if self.is_chief:
            self._tracking = Tracking(tracker, run, self.say)

    def say(self, text: str) -> None:
        """Prints a line; nothing for ''."""
        if self.is_chief and text:
            print(text, flush=True)

    def begin_stage(self, at: Position, stages: Sequence[Stage]) -> None:
        """Logs the stage, and prints it where there are several."""
        stage = stages[at.stage]
        what = {"stage": at.stage, "loss": stage.loss, "optimizer": stage.optimizer_kind}
        self.run.log(kind="stage", step=at.global_step, epoch=at.epoch_number, **what)
        if len(stages) > 1:
            number = f"{at.stage + 1}/{len(stages)}"
            self.say(f"stage {number}: {stage.loss}, {stage.optimizer_kind}, {counted(stage.epochs, 'epoch')}")

    # ------------------------------------------------------------------ steps

    @property
    def is_in_epoch(self) -> bool:
        """Whether the progress bar of an epoch is open."""
        return self._bar is not None

    def begin_epoch(self, at: Position, data: TrainingBatches, last_epoch: int) -> None:
        """Opens the progress bar and starts the clock."""
        self._lap_began = time.perf_counter()
        done, _ = data.bounds(at.step)
        interval = 0.2 if os.isatty(2) else 30  # seconds; a log file should have few lines
        self._bar = tqdm(
            total=len(data), initial=done, unit="img", mininterval=interval, maxinterval=2 * interval,
            disable=not self.is_chief,
        )  # fmt: skip
        self._bar.set_description(f"epoch {at.epoch_number}/{last_epoch + 1}")

    def advance(self, num_images: int) -> None:
        """Moves the progress bar by the images of one step."""
        if self._bar is not None:
            self._bar.update(num_images)

    def lap(self) -> float:
        """Seconds since the last lap, or since the epoch began."""
        now = time.perf_counter()
        seconds, self._lap_began = max(now - self._lap_began, 1e-9), now
        return seconds

    def show_step(
        self, at: Position, loss: float, accuracy: float, learning_rate: float, margin: float | None,
        images_per_s: float,
    ) -> None:  # fmt: skip
        """Logs the values of the latest step, and shows them beside the progress bar.

        Args:
            at: the position after the step.
            loss: of the step.
            accuracy: of the step, in [0, 1].
            learning_rate: of the step.
            margin: of the step; None for a loss without one.
            images_per_s: since the last lap.
        """
        values = {"loss": loss, "accuracy": _percent(accuracy), "learning_rate": learning_rate}
        values |= {"images_per_s": round(images_per_s, 2)} | ({} if margin is None else {"margin": margin})
        self.run.log(kind="step", step=at.global_step, epoch=at.epoch_number, **values, **_UNIT)
        if self._tracking:
            self._tracking.write(at.global_step, _tags(values))
        shown = {"loss": f"{loss:.3f}", "acc": f"{100 * accuracy:.1f}%", "lr": f"{learning_rate:.4f}"}
        shown |= {} if margin is None else {"margin": f"{margin:.3f}"}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        """Closes the progress bar, so that what is printed next starts on a new line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    # ------------------------------------------------------------------ epochs

    def end_epoch(self, at: Position, num_images: float, means: dict[str, float]) -> None:
        """Prints loss, accuracy, time and speed of an epoch."""
        self.say(
            f"epoch {at.epoch_number}: loss {means['loss']:.4f}, accuracy without margin "
            f"{100 * means['accuracy']:.2f} %, {at.seconds / 60:.1f} min, {num_images / at.seconds:.1f} images/s"
        )

    def log_epoch(self, at: Position, means: dict[str, float], sets: dict[str, dict]) -> None:
        """Logs an epoch and its verification results.

        Args:
            at: the position, within the epoch.
            means: 'loss', and 'accuracy' in [0, 1].
            sets: results by set, as in a report file; rates in [0, 1].
        """
        step, seconds = at.global_step, round(at.seconds, 1)
        means = means | {"accuracy": _percent(means["accuracy"])}
        sets = {name: _with_percent(result) for name, result in sets.items()}
        self.run.log(kind="epoch", step=step, epoch=at.epoch_number, **means, seconds=seconds, sets=sets, **_UNIT)
        if self._tracking:
            self._tracking.write(step, {f"epoch_{name}": value for name, value in _tags(means).items()})
            self._tracking.write(step, {f"{name}_acc_percent": result["acc"] for name, result in sets.items()})
            self._tracking.flush()

    def finish(self, is_complete: bool) -> None:
        """Ends what `track` began.

        Args:
            is_complete: False for a training that was stopped.
        """
        if self._tracking:
            self._tracking.finish(is_complete)


def _percent(share: float) -> float:
    return round(100 * share, 6)


def _with_percent(result: dict) -> dict:
    """The results of a set with its ACC in percent."""
    return result | {key: _percent(result[key]) for key in ("acc", "acc_std") if result.get(key) is not None}


def _tags(values: dict[str, float]) -> dict[str, float]:
    """Values by the name of their curve: older logs have the accuracy as a share, under 'accuracy'."""
    return {"accuracy_percent" if name == "accuracy" else name: value for name, value in values.items()}


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
                f"no profile was written: it starts after {_SKIPPED} steps, but the training ended after {self._step}",
                flush=True,
            )

    def _stop(self) -> None:
        tf.profiler.experimental.stop()
        print(
            f"\nwrote a profile of {self._step - _SKIPPED} steps: {self.folder}\n"
            f"next: pip install tensorboard-plugin-profile; tensorboard --logdir {self.folder}",
            flush=True,
        )
