"""How much memory the class centres of a training need on each worker, checked before it starts."""

import tensorflow as tf

from facelib.distributed.workers import Workers
from facelib.errors import FaceError
from facelib.losses.partial_fc import ClassSplit
from facelib.losses.protocols import has_class_centres
from facelib.losses.registry import LOSSES, make_head
from facelib.machine import free_bytes
from facelib.training.recipe.schema import ROW_OPTIMIZERS, Recipe

_WORTH_SAYING = 1 << 28  # bytes; a smaller head is not mentioned
_SLOTS = ROW_OPTIMIZERS | {"nadam": 2}
# Copies of a step's centres, and of its logits, in memory at the peak; fitted to measurements, docs/scaling.md.
_BY_BLOCKS, _BY_LOGITS = (4, 2.5), (5, 8.5)
_SPARE = 1 << 30  # for TensorFlow, the backbone and the images; an estimate


def head_bytes(recipe: Recipe, num_classes: int, embedding_size: int, workers: Workers) -> int:
    """The most bytes that the head takes on one worker, in any stage.

    They are the float32 centres, their optimizer state, the means of center loss and the values of a step.
    """
    return max(_of_stage(recipe, number, num_classes, embedding_size, workers) for number in range(len(recipe.stage)))


def _of_stage(recipe: Recipe, number: int, num_classes: int, embedding_size: int, workers: Workers) -> int:
    stage = recipe.stage[number]
    if stage.loss == "distill" or LOSSES[stage.loss].kind == "metric":
        return 0
    split = ClassSplit(workers, stage.sample_rate)
    first, last = split.bounds(num_classes)
    each = stage.options.get("sub_centres", 1)
    tables = (last - first) * each * embedding_size * (1 + _SLOTS[stage.optimizer_kind])
    tables += num_classes * embedding_size * bool(stage.center_loss)  # the means of all classes, on every worker
    seen = (split.num_sampled(num_classes) if split.is_sampled else last - first) * each
    num_faces = recipe.data.batch_size // stage.micro_batches
    head = make_head(stage.loss, num_classes, stage.options)  # not built: it has no centres yet
    by_blocks = has_class_centres(head) and head.runs_by_blocks(stage.label_smoothing)
    of_centres, of_logits = _BY_BLOCKS if by_blocks else _BY_LOGITS
    return 4 * (tables + round(seen * (of_centres * embedding_size + of_logits * num_faces)))


def check_memory(recipe: Recipe, num_classes: int, embedding_size: int, workers: Workers) -> str:
    """A line about the memory of a large head; '' for a small one.

    Raises:
        FaceError: there are more workers than classes, or the head does not fit into this machine's memory.
    """
    if workers.count > num_classes:
        raise FaceError(
            f"Every worker must hold at least one class. Received: {workers.count} workers, {num_classes} identities. "
            "Start fewer workers."
        )
    need = head_bytes(recipe, num_classes, embedding_size, workers)
    if need < _WORTH_SAYING:
        return ""
    line = f"class centres: {num_classes:,} x {embedding_size}, with optimizer state and a step's values"
    line += f" {need / 1e9:.1f} GB on each of {workers.count} worker{'s' * (workers.count > 1)}"
    free = free_bytes()
    if free is None or tf.config.list_physical_devices("GPU"):  # the free memory of a GPU is not known
        return line
    if workers.on_host * (need + _SPARE) > free:
        raise FaceError(
            f"The class centres must fit into memory. Needed: {line}. Free: {free / 1e9:.1f} GB. Lower "
            "stage.sample_rate or model.embedding_size, use sgd, or start more workers on more machines."
        )
    return f"{line}; {free / 1e9:.1f} GB are free"
