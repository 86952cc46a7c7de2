"""Time and memory of a few steps of a stage, with the batches that the training would have; nothing is written."""

import sys
import time
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from facelib.training.device_batches import copied_ahead
from facelib.training.protocols import TrainingBatches
from facelib.training.schedules import learning_rate_at, margin_share_at, mixup_share_at
from facelib.training.stage_setup import StageParts

WARM_UP = 3  # steps: the first one compiles


@dataclass(frozen=True)
class Measured:
    """What the steps took.

    Attributes:
        seconds: of a step, the mean.
        images_per_s: of the whole training, input included; with several workers, of this one.
        first_seconds: of the first step, which compiles.
        loss: of the last step.
        host_bytes: most memory of this process so far.
        device_bytes: most memory on the GPU so far; None on a CPU, where it is that of the process.
        count: number of steps.
    """

    seconds: float
    images_per_s: float
    first_seconds: float
    loss: float
    host_bytes: int
    device_bytes: int | None
    count: int


def measure_steps(parts: StageParts, data: TrainingBatches, count: int = 20) -> Measured:
    """Takes steps from the beginning of a stage and measures them. As in a training, no step waits for the one before.

    Args:
        parts: whose stage has begun; afterwards its weights are those after the steps. A teacher's vectors are
            constant.
        data: the batches of this stage.
        count: steps that are measured, after a few others.
    """
    stage, warm_up = parts.recipe.stage[parts.number], WARM_UP + getattr(parts.step, "turns", 0)
    images, loss, first_seconds = 0, tf.constant(0.0), 0.0
    with closing(copied_ahead(data.stream(0, 0, last_epoch=warm_up + count))) as batches:
        start = time.perf_counter()
        for step, batch in zip(range(warm_up + count), batches, strict=False):
            if step in (1, warm_up):
                float(loss)  # waits for the steps so far
                now = time.perf_counter()
                first_seconds = first_seconds or now - start
                start, images = now, 0
            parts.optimizer.learning_rate = learning_rate_at(stage, step, data.steps_per_epoch)
            targets = np.ones((len(batch.labels), parts.teacher_size), np.float32)
            margin_share, mix = margin_share_at(stage, step), mixup_share_at(stage, parts.recipe.seed, step)
            loss, _ = parts.step(
                batch.images, batch.labels, targets, np.float32(margin_share), np.float32(mix), np.int32(step)
            )
            images += len(batch.labels)
        last_loss = float(loss)
        seconds = time.perf_counter() - start
    gpus = tf.config.list_logical_devices("GPU")
    device = tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpus else None
    return Measured(seconds / count, images / seconds, first_seconds, last_loss, _peak_of_process(), device, count)


def _peak_of_process() -> int:
    """Bytes of memory that this process had at most; 0 on a system that does not tell."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
