"""A training step with a small backbone, to measure the head: one dense layer over random faces, then the trainer's
parts."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import peak_memory, resident_memory
from facelib.models.registry import ModelConfig
from facelib.training.recipe.schema import DataConfig, Recipe, Stage

SPARE = 1 << 30  # bytes of a process without its head


def head_recipe(size: int, batch_size: int, rate: float) -> Recipe:
    """ArcFace and SGD with momentum, with the defaults of a stage: clipped gradients, weight decay."""
    stage = Stage(loss="arcface", optimizer="sgd", learning_rate=1e-3, sample_rate=rate)
    return Recipe(model=ModelConfig(embedding_size=size), data=DataConfig(batch_size=batch_size), stage=(stage,))


def image_side(num_parameters: int, size: int) -> int:
    """The side, in pixels, of an image whose dense layer to `size` values has about `num_parameters` parameters."""
    return max(1, round((num_parameters / (3 * size)) ** 0.5))


def memory_to_spare(recipe: Recipe, num_classes: int, workers) -> tuple[float, float | None]:
    """(bytes that all workers need on this machine, bytes that are free; None if the system does not tell)."""
    from facelib.training.head_memory import free_bytes, head_bytes

    need = head_bytes(recipe, num_classes, recipe.model.embedding_size, workers)
    return workers.count * (need + SPARE), free_bytes()


@dataclass(frozen=True)
class Memory:
    """Peak memory of this process, in bytes, minus its memory before the head was built.

    Attributes:
        build: the peak until the head was built.
        peak: the peak until now.
    """

    build: int
    peak: int


class HeadStep:
    """The step of `facelib.training.stage_setup.StageParts`, on one batch.

    Args:
        recipe: with one stage.
        num_classes: of all workers.
        num_parameters: of the dense layer that is used as the backbone.
        workers: the processes that train together; each has its part of the batch and of the classes.
    """

    def __init__(self, recipe: Recipe, num_classes: int, num_parameters: int, workers):
        import keras

        from face_loss_k import make_head
        from facelib.training.stage_setup import StageParts

        size, batch_size = recipe.model.embedding_size, recipe.data.batch_size
        side = image_side(num_parameters, size)
        faces = keras.Input((side, side, 3), name="input_1")
        x = keras.layers.Flatten(name="flat")(keras.layers.Rescaling(1 / 128, -1, name="scaled")(faces))
        backbone = keras.Model(faces, keras.layers.Dense(size, use_bias=False, name="embeddings")(x), name="dense")
        rng, part = np.random.default_rng(0), slice(*_part(workers, batch_size))
        self.images = rng.integers(0, 256, (batch_size, side, side, 3), np.uint8)[part]
        self.labels = rng.integers(0, num_classes, batch_size)[part]
        self.num_parameters = backbone.count_params()
        self.parts = StageParts(recipe, backbone, make_head, num_classes, 0, workers, batch_size)
        self._base = resident_memory()
        self.parts.begin(0)
        self._build = peak_memory() - self._base

    def __call__(self, number: int) -> float:
        """Takes step `number`; returns its loss."""
        targets, one = np.zeros((len(self.labels), 0), np.float32), np.float32(1)
        loss, _ = self.parts.step(self.images, self.labels, targets, one, one, np.int32(number))
        return float(loss)

    def timed(self, first: int, count: int) -> np.ndarray:
        """(seconds, core-seconds) of each of `count` steps from number `first`: [count, 2]."""
        rows = []
        for number in range(first, first + count):
            start = time.perf_counter(), time.process_time()
            self(number)
            rows.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        return np.array(rows)

    def memory(self) -> Memory:
        return Memory(self._build, peak_memory() - self._base)


def be_the_first_to_go() -> None:
    """When memory runs out, the system kills this process and no other."""
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")


def _part(workers, batch_size: int) -> tuple[int, int]:
    return batch_size * workers.rank // workers.count, batch_size * (workers.rank + 1) // workers.count
