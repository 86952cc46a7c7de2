"""How much memory a training step takes, estimated before it runs."""

import math

from facelib.devices import free_gpu_bytes, gpu_names
from facelib.distributed.workers import ONE_WORKER
from facelib.machine import free_bytes
from facelib.training.head_memory import head_bytes
from facelib.training.recipe.schema import ROW_OPTIMIZERS, Recipe

# mobilefacenet, batches of 32, 64 and 128 on a CPU, 2026-11-28: the peak of the process grew by 1.055 bytes for each
# byte of the layers' outputs, and by 0.2 GB once. iresnet18 with 16 faces took 1.25 GB, its estimate is 1.56 GB.
_OF_OUTPUTS, _ONCE = 1.06, 200 << 20
SPARE = 1.1  # for what the estimate does not know


def step_bytes(recipe: Recipe, embedder, num_classes: int, itemsize: int = 4) -> int:
    """The bytes that the largest step of any stage adds to the memory of the process.

    Args:
        recipe: the stages.
        embedder: the Keras model.
        num_classes: identities of the training set.
        itemsize: bytes of one value in the net: 4, or 2 for 16-bit precision on a GPU.
    """
    head = head_bytes(recipe, num_classes, embedder.output_shape[-1], ONE_WORKER)
    slots = max(ROW_OPTIMIZERS.get(stage.optimizer_kind, 2) for stage in recipe.stage)
    weights = 4 * embedder.count_params() * (1 + slots)  # gradients and optimizer state
    return _ONCE + head + weights + round(_faces(recipe) * bytes_of_face(embedder, itemsize))


def bytes_of_face(embedder, itemsize: int = 4) -> float:
    """The bytes that one more face in a step takes."""
    outputs = [tensor for layer in embedder.layers for tensor in _tensors(layer.output)]
    return SPARE * _OF_OUTPUTS * itemsize * sum(math.prod(size or 1 for size in tensor.shape[1:]) for tensor in outputs)


def check_step(recipe: Recipe, embedder, num_classes: int) -> tuple[str, str]:
    """(a line about the memory of a step, what to do if that is not free or "").

    Args:
        recipe: the stages.
        embedder: the Keras model.
        num_classes: identities of the training set.
    """
    on_gpu = bool(gpu_names())
    itemsize = 2 if on_gpu and recipe.precision != "float32" else 4
    need, free = step_bytes(recipe, embedder, num_classes, itemsize), free_gpu_bytes() if on_gpu else free_bytes()
    batch = recipe.data.batch_size
    line = f"about {need / 1e9:.1f} GB with data.batch_size = {batch}"
    if free is None:
        return line, ""
    line += f"; {free / 1e9:.1f} GB are free"
    if need <= free:
        return line, ""
    faces = _faces(recipe) - (need - free) / bytes_of_face(embedder, itemsize)
    fits = int(faces * batch / _faces(recipe)) // 8 * 8
    smaller = f"--set data.batch_size={fits}" if fits > 0 else "a smaller net or fewer classes"
    return line, f"The step needs {line}. Use {smaller}, or more micro_batches in [[stage]]."


def _faces(recipe: Recipe) -> int:
    """The most faces that a step holds at once."""
    return max(recipe.data.batch_size // stage.micro_batches for stage in recipe.stage)


def _tensors(output) -> list:
    return list(output) if isinstance(output, list | tuple) else [output]
