"""Training batches that a GPU has in its memory before the step that needs them."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from facelib.tensorflow_env import has_gpu
from facelib.training.protocols import Batch

AHEAD = 2  # batches: one for the next step, and one that is being copied
_DEVICE = "GPU:0"  # one process trains on one GPU


@dataclass(frozen=True)
class BatchOnDevice:
    """A batch whose images and labels are in the memory of the GPU. `dataset.Batch` describes each attribute."""

    images: Any
    labels: Any
    record_idx: np.ndarray
    is_flipped: np.ndarray
    step: int


def copied_ahead(batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
    """The same batches in the same order; on a GPU, the next `AHEAD` of them are copied to it in a thread.

    TensorFlow starts a copy only after what the GPU has to do at that moment. A copy that began with its own step would
    keep the GPU waiting, and so does not begin then. Images stay uint8, a quarter of the bytes of float32.

    Args:
        batches: as `dataset.TrainingData.stream` yields them. They end with the generator that is returned.

    Returns:
        On a CPU, `batches` themselves.
    """
    return _copied_ahead(batches) if has_gpu() else batches


def _copied_ahead(batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
    def fetch() -> Batch | None:
        batch = next(batches, None)
        return None if batch is None else _on_device(batch)

    with closing(batches):
        copier = ThreadPoolExecutor(1, thread_name_prefix="copy")
        try:
            pending: deque[Future] = deque(copier.submit(fetch) for _ in range(AHEAD))
            while (batch := pending.popleft().result()) is not None:
                pending.append(copier.submit(fetch))
                yield batch
        finally:
            copier.shutdown(wait=True, cancel_futures=True)


def _on_device(batch: Batch) -> BatchOnDevice:
    with tf.device(_DEVICE):
        images, labels = tf.constant(batch.images), tf.constant(batch.labels)
    return BatchOnDevice(images, labels, batch.record_idx, batch.is_flipped, batch.step)
