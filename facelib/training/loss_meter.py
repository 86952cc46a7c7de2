"""The losses of the latest steps, read from the device now and then; a loss that is not finite is a `NonFiniteLoss`.

Reading a loss waits for its step, so reading every step would keep a GPU waiting for Python.
"""

import math

import numpy as np

from facelib.errors import FaceError


class NonFiniteLoss(FaceError):
    """A loss or a weight that is NaN or infinite. `Trainer` goes back to the last checkpoint."""


class LossMeter:
    """Losses and accuracies of the steps of one epoch.

    Args:
        records: the training records. They name the images of a step whose loss is not finite.

    Attributes:
        sums: float64 [3], over the images whose losses have been fetched: number, sum of losses, sum of accuracies.
    """

    def __init__(self, records) -> None:
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
