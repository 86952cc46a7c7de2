"""The one protocol behind every test script, predict and the benchmarks, and what all its runtimes share."""

from typing import Protocol

import numpy as np

from facelib.cli import FaceError
from facelib.pixels import to_model_input
from facelib.sidecar import Io


class Embedder(Protocol):
    """Turns aligned faces into vectors, whatever runs underneath.

    `images`: uint8 `[N, 112, 112, 3]`, RGB, N >= 1. Returns float32 `[N, embedding_size]` whose rows
    have unit L2 norm (tolerance 1e-3 for quantised models). Must not keep or change `images`.

    An embedder may also offer `raw(images)`: the same before normalisation. The norm is a quality signal, and adding
    the embedding of the mirrored face is defined on raw vectors.
    """

    name: str
    embedding_size: int

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


class RuntimeEmbedder:
    """An `Embedder` over a runtime that takes batches of one fixed size. A runtime overrides `run` alone.

    Args:
        name: for tables.
        io: how the artefact is fed.
        batch_size: images in every call of `run`; the last batch is padded, so that nothing is compiled twice.
    """

    def __init__(self, name: str, io: Io, batch_size: int):
        self.name, self.io, self.batch_size = name, io, batch_size
        self.embedding_size = io.embedding_size

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels of `batch_size` faces as `io` says -> embeddings, any float dtype, `[batch_size, D]`."""
        raise NotImplementedError

    def raw(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, 112, 112, 3], RGB -> float32 [N, D], not normalised."""
        rows = []
        for start in range(0, len(images), self.batch_size):
            pixels = to_model_input(images[start : start + self.batch_size], self.io)
            num_images = len(pixels)
            if num_images < self.batch_size:
                pad = np.repeat(pixels[-1:], self.batch_size - num_images, axis=0)
                pixels = np.concatenate([pixels, pad])
            rows.append(self._checked(self.run(pixels))[:num_images])
        return np.concatenate(rows)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        raw = self.raw(images)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)

    def _checked(self, output: np.ndarray) -> np.ndarray:
        output = np.asarray(output, np.float32)
        output = output.reshape(len(output), -1) if output.ndim > 2 and output.shape[0] else output  # [N, 1, 1, D]
        if output.ndim != 2 or len(output) != self.batch_size:
            raise FaceError(
                f"An embedding is one row a face. '{self.name}' gave {list(output.shape)} for {self.batch_size} faces: "
                f"check --output."
            )
        if self.embedding_size not in (0, output.shape[1]):
            raise FaceError(
                f"The sidecar of '{self.name}' says embedding_size={self.io.embedding_size}, the model gives "
                f"{output.shape[1]}. Make the artefact again."
            )
        self.embedding_size = output.shape[1]
        return output
