"""What a training shows and watches while it runs: printed lines, the progress bar, metrics.jsonl, TensorBoard, losses.

`LossMeter` reads the losses of the latest steps from the device now and then: reading a loss waits for its step, so
reading every step would keep a GPU waiting for Python. A loss or weight that is not finite is a `NonFiniteLoss`.
"""

import math
import os
import time
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from facelib.errors import FaceError
from facelib.training.position import Position
from facelib.training.protocols import TrainingBatches
from facelib.training.recipe.schema import Stage
from facelib.training.run_dir import FollowedRun, RunDir
from facelib.training.tensorboard import NoLog, TensorBoardLog


class Progress:
    """Prints, draws and logs the progress of a training. Only worker 0 prints and writes.

    Args:
        run: the run directory.
        is_chief: whether this is worker 0.
    """

    def __init__(self, run: RunDir | FollowedRun, is_chief: bool):
        self.run, self.is_chief = run, is_chief
        self.tensorboard = TensorBoardLog(run.path / "tensorboard") if is_chief else NoLog()
        self._bar: tqdm | None = None
        self._lap_began = time.perf_counter()

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
            self.say(f"stage {number}: {stage.loss}, {stage.optimizer_kind}, {stage.epochs} epochs")

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
        self._bar.update(num_images)

    def lap(self) -> float:
        """Seconds since the last lap, or since the epoch began."""
        now = time.perf_counter()
        seconds, self._lap_began = max(now - self._lap_began, 1e-9), now
        return seconds

    def show_step(self, at: Position, loss: float, accuracy: float, learning_rate: float, images_per_s: float) -> None:
        """Logs the values of the latest step, and shows them beside the progress bar."""
        values = {
            "loss": loss,
            "accuracy": accuracy,
            "learning_rate": learning_rate,
            "images_per_s": round(images_per_s, 2),
        }
        self.run.log(kind="step", step=at.global_step, epoch=at.epoch_number, **values)
        self.tensorboard.write(at.global_step, values)
        shown = {"loss": f"{loss:.3f}", "acc": f"{100 * accuracy:.1f}%", "lr": f"{learning_rate:.4f}"}
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
        """Logs an epoch and its verification results."""
        step, seconds = at.global_step, round(at.seconds, 1)
        self.run.log(kind="epoch", step=step, epoch=at.epoch_number, **means, seconds=seconds, sets=sets)
        self.tensorboard.write(step, {f"epoch_{name}": value for name, value in means.items()})
        self.tensorboard.write(step, {f"{name}_acc": result["acc"] for name, result in sets.items()})
        self.tensorboard.flush()


class NonFiniteLoss(FaceError):
    """A loss or a weight that is NaN or infinite. `Trainer` goes back to the last checkpoint."""


class LossMeter:
    """Losses and accuracies of the steps of one epoch.

    Args:
        records: the training records. They name the images of a step whose loss is not finite.

    Attributes:
        sums: float64 [3], over the images whose losses have been fetched: number, sum of losses, sum of accuracies.
    """

    def __init__(self, records):
        self.records, self.sums = records, np.zeros(3)
        self._pending: list[tuple] = []
        self._last = (0, np.zeros(0, np.uint32))  # step and records of the last loss that was fetched

    def add(self, step: int, record_idx: np.ndarray, num_images: int, loss, accuracy) -> None:
        """Notes the results of a step, which the device may still be computing.

        Args:
            step: step of the training, counted from 1.
            record_idx: int [B], records of this worker's images.
            num_images: images of all workers.
            loss: float32 scalar, tensor or number.
            accuracy: float32 scalar, in [0, 1].
        """
        self._pending.append((step, record_idx, num_images, loss, accuracy))

    def fetch(self, epoch: int) -> tuple[float, float, int] | None:
        """Waits for the steps that were noted since the last call.

        Args:
            epoch: from 0, for the error message.

        Returns:
            (loss of the last step, its accuracy, images of all these steps), or None if no step was noted.

        Raises:
            NonFiniteLoss: a loss that is not finite.
        """
        pending, self._pending = self._pending, []
        num_fetched, loss, accuracy = 0, math.nan, math.nan
        for step, record_idx, num_images, loss, accuracy in pending:
            loss, accuracy = float(loss), float(accuracy)
            self._last = (step, record_idx)
            if not math.isfinite(loss):
                raise self.non_finite("loss", loss, epoch)
            self.sums += np.array([1.0, loss, accuracy]) * num_images
            num_fetched += num_images
        return (loss, accuracy, num_fetched) if pending else None

    def means(self) -> tuple[float, dict[str, float]]:
        """(number of images, {'loss': mean, 'accuracy': mean}) of the epoch, as far as fetched."""
        images, loss, accuracy = self.sums
        return images, {"loss": loss / images, "accuracy": accuracy / images}

    def begin_epoch(self) -> None:
        """Sets the sums to zero."""
        self.sums = np.zeros(3)

    def forget(self) -> None:
        """Drops the steps that were noted and not fetched."""
        self._pending.clear()

    def non_finite(self, what: str, received: object, epoch: int) -> NonFiniteLoss:
        """The error about the last step that was fetched.

        Args:
            what: 'loss' or 'weights'.
            received: the loss, or the name of a weight.
            epoch: from 0.
        """
        step, record_idx = self._last
        records = ", ".join(self.records.describe(int(i)) for i in record_idx[:4])
        return NonFiniteLoss(
            f"The {what} must stay finite. Received: {received} at step {step} (epoch {epoch + 1}), "
            f"with records {', '.join(map(str, record_idx.tolist()))} (the first: {records})."
        )
