"""The Embedder protocol behind every test script, predict and the benchmarks, and the base class of its runtimes."""

from typing import Protocol

import numpy as np

from facelib.errors import FaceError
from facelib.model_input import Io, to_model_input
from facelib.unit_vectors import normalize

BATCH_SIZE = 64


class Embedder(Protocol):
    """Turns aligned faces into vectors, whatever runs underneath.

    A call takes `images`, uint8 `[N, 112, 112, 3]`, RGB, N >= 1, and returns float32 `[N, embedding_size]` whose rows
    have unit L2 norm (tolerance 1e-3 for quantised models). It must not keep or change `images`.

    An embedder may also offer `raw(images)`: the same before normalisation. The norm is a quality signal, and the
    embedding of the mirrored face is added to raw vectors.

    Attributes:
        name: for tables.
        embedding_size: D; 0 before the first call where it is not known.
    """

    name: str
    embedding_size: int

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


class RuntimeEmbedder:
    """An `Embedder` over a runtime. A subclass overrides only `run`.

    Args:
        name: for tables.
        io: how the artefact is fed.
        batch_size: largest number of images in one call of `run`; a multiple of `unit`.
        unit: the runtime takes multiples of this number; smaller batches are padded. 1 where it takes any number, so
            that a single face is not padded.

    Attributes:
        executor: runtime and kernels, for reports; None where nobody says it.
        has_times: whether the time of a call says something; False in an emulator.
    """

    executor: str | None = None
    has_times = True

    def __init__(self, name: str, io: Io, batch_size: int, unit: int = 1):
        self.name, self.io, self.batch_size, self.unit = name, io, batch_size, unit
        self.embedding_size = io.embedding_size

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels of n faces in the form of `io` -> embeddings, any float dtype, [n, D]; n is a multiple of `unit`."""
        raise NotImplementedError

    def on_one_thread(self) -> "RuntimeEmbedder | None":
        """The same model where a call with one face runs on one thread; None where that cannot be had."""
        return self

    def raw(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, 112, 112, 3], RGB -> float32 [N, D], not normalised."""
        rows = []
        for start in range(0, len(images), self.batch_size):
            pixels = to_model_input(images[start : start + self.batch_size], self.io)
            num_images = len(pixels)
            if num_missing := -num_images % self.unit:
                pixels = np.concatenate([pixels, np.repeat(pixels[-1:], num_missing, axis=0)])
            rows.append(self._checked(self.run(pixels), len(pixels))[:num_images])
        return np.concatenate(rows)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return normalize(self.raw(images), "face {}".format).astype(np.float32)

    def _checked(self, output: np.ndarray, num_images: int) -> np.ndarray:
        output = np.asarray(output, np.float32)
        output = output.reshape(len(output), -1) if output.ndim > 2 and output.shape[0] else output  # [N, 1, 1, D]
        if output.ndim != 2 or len(output) != num_images:
            raise FaceError(
                f"An embedder must return one row per face. '{self.name}' returned {list(output.shape)} for "
                f"{num_images} faces: check --output."
            )
        if self.embedding_size not in (0, output.shape[1]):
            raise FaceError(
                f"The sidecar of '{self.name}' says embedding_size={self.io.embedding_size}, but the model returns "
                f"{output.shape[1]} values. Make the artefact again."
            )
        self.embedding_size = output.shape[1]
        return output
