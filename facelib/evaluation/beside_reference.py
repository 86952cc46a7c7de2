"""An `Embedder` beside a reference model: wrong feeding shows on the first faces, and all embeddings are compared."""

import time
from collections.abc import Callable
from functools import cached_property

import numpy as np

from facelib.embedder import RuntimeEmbedder
from facelib.errors import FaceError
from facelib.model_input import fit_faces
from facelib.unit_vectors import normalize, row_cosines
from facelib.wrong_input import as_function_of_values, compare_with

NUM_FACES = 32  # at most, for the search of a mistake
MIN_FACES = 8


class FirstFacesChecked:
    """A model whose first faces are compared with those of a reference: fed wrongly, it is refused.

    Args:
        embedder: the model that is tested.
        open_reference: gives the model that it is compared with, usually the one that it was made from.

    Attributes:
        embedder: the same.
        seconds_aside: time in the reference and in the comparison, which is not the model's.
    """

    def __init__(self, embedder: RuntimeEmbedder, open_reference: Callable[[], RuntimeEmbedder]):
        self.embedder, self._open_reference = embedder, open_reference
        self.name, self.embedding_size = embedder.name, embedder.embedding_size
        self._is_checked, self.seconds_aside = False, 0.0

    def __getattr__(self, name: str):
        return getattr(self.embedder, name)

    @cached_property
    def reference(self) -> RuntimeEmbedder:
        """The model that the tested one is compared with, opened at its first use."""
        return self._open_reference()

    def raw(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, 112, 112, 3], RGB -> float32 [N, D], not normalised.

        Raises:
            FaceError: the first faces show that the model is fed wrongly.
        """
        embeddings = self.embedder.raw(images)
        self.embedding_size = self.embedder.embedding_size
        started = time.perf_counter()
        self._look_at(embeddings, images)
        self.seconds_aside += time.perf_counter() - started
        return embeddings

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The same, rows of unit L2 norm."""
        return normalize(self.raw(images), "face {}".format).astype(np.float32)

    def _look_at(self, embeddings: np.ndarray, images: np.ndarray) -> None:
        if not self._is_checked and len(images) >= MIN_FACES:
            self._is_checked = True
            refuse_mistake(self.name, embeddings, images, self.reference)


class BesideReference(FirstFacesChecked):
    """The same, with the cosines of all faces to the reference. A model that tells nobody apart is refused too."""

    def __init__(self, embedder: RuntimeEmbedder, open_reference: Callable[[], RuntimeEmbedder]):
        super().__init__(embedder, open_reference)
        self._cosines: dict[int, float] = {}
        self._same_bits: dict[int, bool] = {}

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

    @property
    def num_same_bits(self) -> int:
        """Number of these faces whose embeddings are the reference's, bit for bit."""
        return sum(self._same_bits.values())

    @property
    def same_bits(self) -> float | None:
        """Share of these faces; None before the first."""
        return self.num_same_bits / self.num_faces if self.num_faces else None

    def _look_at(self, embeddings: np.ndarray, images: np.ndarray) -> None:
        right = self.reference.raw(images)
        if embeddings.shape != right.shape:
            raise FaceError(
                f"A model and its reference must give embeddings of the same size. '{self.name}' gives "
                f"{embeddings.shape[1]} values, '{self.reference.name}' gives {right.shape[1]}: use --reference with "
                "the right model."
            )
        if not self._is_checked and len(images) >= MIN_FACES:
            self._is_checked = True
            refuse_mistake(self.name, embeddings, images, self.reference, named_alone=False)
        faces = [hash(image.tobytes()) for image in images]
        self._cosines.update(zip(faces, row_cosines(embeddings, right).tolist(), strict=True))
        self._same_bits.update(zip(faces, (embeddings == right).all(axis=1).tolist(), strict=True))


def refuse_mistake(
    name: str, embeddings: np.ndarray, images: np.ndarray, reference: RuntimeEmbedder, *, named_alone: bool = True
) -> None:
    """Compares the first embeddings of a model with those of its reference.

    Embeddings that are not finite, which what embeds the set names, or of another size show nothing.

    Args:
        name: of the model.
        embeddings: float [N, D], of the model.
        images: uint8 [N, 112, 112, 3], RGB, their faces.
        reference: the model that should give the same.
        named_alone: refuse only what a known mistake explains, and not every model that tells nobody apart.

    Raises:
        FaceError: the model is fed wrongly; names the likely cause.
    """
    first, images = embeddings[:NUM_FACES], images[:NUM_FACES]
    if not np.isfinite(first).all() or reference.raw(images[:1]).shape[1] != first.shape[1]:
        return
    io = reference.io
    findings = compare_with(first, fit_faces(images, io.size, io.fit), as_function_of_values(reference))
    if findings.mistake is not None or (str(findings) and not named_alone):
        raise FaceError(
            f"'{name}' must give the same embeddings as '{reference.name}'. Received: mean cosine "
            f"{findings.cosine:.2f} on {len(images)} faces. {findings}"
        )
