"""An `Embedder` that runs a reference model on the same faces and compares the embeddings."""

import time
from collections.abc import Callable

import numpy as np

from facelib.embedder import RuntimeEmbedder
from facelib.errors import FaceError
from facelib.evaluation.wrong_input import compare_with
from facelib.model_input import fit_faces
from facelib.unit_vectors import normalize, row_cosines

NUM_FACES = 32  # at most, for the search of a mistake
MIN_FACES = 8


class BesideReference:
    """A model and its reference. The first faces show whether the model is fed as the reference is.

    Args:
        embedder: the model that is tested.
        reference: the model that it is compared with, usually the one that it was made from.

    Attributes:
        embedder: the same.
        reference: the same.
        seconds_aside: time in the reference and in the comparison, which is not the model's.
    """

    def __init__(self, embedder: RuntimeEmbedder, reference: RuntimeEmbedder):
        self.embedder, self.reference = embedder, reference
        self.name, self.embedding_size = embedder.name, embedder.embedding_size
        self._cosines: dict[int, float] = {}
        self._is_checked, self.seconds_aside = False, 0.0

    def __getattr__(self, name: str):
        return getattr(self.embedder, name)

    @property
    def mean_cosine(self) -> float | None:
        """Mean cosine to the reference over all distinct faces so far; None before the first."""
        return float(np.mean(list(self._cosines.values()))) if self._cosines else None

    @property
    def min_cosine(self) -> float | None:
        """Cosine of the worst of these faces; None before the first."""
        return min(self._cosines.values()) if self._cosines else None

    @property
    def num_faces(self) -> int:
        """Number of distinct faces so far."""
        return len(self._cosines)

    def raw(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, 112, 112, 3], RGB -> float32 [N, D], not normalised.

        Raises:
            FaceError: the first faces show that the model is fed wrongly.
        """
        embeddings = self.embedder.raw(images)
        started = time.perf_counter()
        self._compare(embeddings, images)
        self.seconds_aside += time.perf_counter() - started
        return embeddings

    def _compare(self, embeddings: np.ndarray, images: np.ndarray) -> None:
        right = self.reference.raw(images)
        if embeddings.shape != right.shape:
            raise FaceError(
                f"A model and its reference give embeddings of one size. '{self.embedder.name}' gives "
                f"{embeddings.shape[1]} values, '{self.reference.name}' {right.shape[1]}: name its own --reference."
            )
        if not self._is_checked and len(images) >= MIN_FACES:
            self._check(embeddings[:NUM_FACES], images[:NUM_FACES])
            self._is_checked = True
        cosines = row_cosines(embeddings, right)
        self.embedding_size = self.embedder.embedding_size
        self._cosines.update(zip((hash(image.tobytes()) for image in images), cosines.tolist(), strict=True))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The same, rows of unit L2 norm."""
        return normalize(self.raw(images), "face {}".format).astype(np.float32)

    def _check(self, embeddings: np.ndarray, images: np.ndarray) -> None:
        if not np.isfinite(embeddings).all():
            return  # what embeds the set names the record
        io = self.reference.io
        findings = compare_with(embeddings, fit_faces(images, io.size, io.fit), as_function_of_values(self.reference))
        if reason := str(findings):
            raise FaceError(
                f"'{self.embedder.name}' must give the embeddings of '{self.reference.name}'. Received: mean cosine "
                f"{findings.cosine:.2f} on {len(images)} faces. {reason}"
            )


def as_function_of_values(reference: RuntimeEmbedder) -> Callable[[np.ndarray], np.ndarray]:
    """A model as a function of float32 [N, H, W, 3], raw RGB values; an integer input rounds them to 0..255."""

    def embed(values: np.ndarray) -> np.ndarray:
        if reference.io.dtype == "uint8":
            values = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return reference.raw(values)

    return embed
