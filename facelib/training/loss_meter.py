"""The losses of steps, fetched now and then, so that a GPU need not wait for Python at every step."""

import math

import numpy as np

from facelib.errors import FaceError


class DivergedError(FaceError):
    """A loss or a weight that is not finite."""


class StepLosses:
    """Losses and accuracies of the steps of an epoch.

    Args:
        records: of the training data, to name those of a bad step.

    Attributes:
        sums: float64 [3] over the images of the epoch so far, as far as fetched: 1, loss, accuracy.
    """

    def __init__(self, records):
        self.records, self.sums = records, np.zeros(3)
        self._pending: list[tuple] = []
        self._last = (0, np.zeros(0, np.uint32))  # step and records of the last loss that was fetched

    def add(self, step: int, record_idx: np.ndarray, num_images: int, loss, accuracy) -> None:
        """Notes a step's scalars, which may still be computed; `num_images` are those of all workers."""
        self._pending.append((step, record_idx, num_images, loss, accuracy))

    def fetch(self, epoch: int) -> tuple[float, float, int] | None:
        """(loss and accuracy of the last step, images of all noted steps), or None when none is noted.

        Raises:
            DivergedError: a loss that is not finite.
        """
        pending, self._pending = self._pending, []
        num_fetched, loss, accuracy = 0, math.nan, math.nan
        for step, record_idx, num_images, loss, accuracy in pending:
            loss, accuracy = float(loss), float(accuracy)
            self._last = (step, record_idx)
            if not math.isfinite(loss):
                raise self.not_finite("loss", loss, epoch)
            self.sums += np.array([1.0, loss, accuracy]) * num_images
            num_fetched += num_images
        return (loss, accuracy, num_fetched) if pending else None

    def forget(self) -> None:
        """Drops what is noted and not fetched."""
        self._pending.clear()

    def not_finite(self, what: str, received: object, epoch: int) -> DivergedError:
        """The error of a loss or of weights after the last step that was fetched, in `epoch`, from 0."""
        step, record_idx = self._last
        records = ", ".join(self.records.describe(int(i)) for i in record_idx[:4])
        return DivergedError(
            f"The {what} must stay finite. Received: {received} at step {step} (epoch {epoch + 1}), "
            f"with records {', '.join(map(str, record_idx.tolist()))} (the first: {records})."
        )
