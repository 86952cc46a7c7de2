"""Embeddings as directions: lengths that can be divided by, and rows of length 1."""

from collections.abc import Callable

import numpy as np

from facelib.errors import FaceError


def check_norms(norms: np.ndarray, describe: Callable[[int], str]) -> None:
    """Refuses embeddings without a direction.

    Args:
        norms: float [N], their lengths.   describe: names embedding i, e.g. "record 7 of 'lfw.bin'".

    Raises:
        FaceError: a length that is 0 or not finite.
    """
    is_bad = ~(np.isfinite(norms) & (norms > 0))
    if is_bad.any():
        i = int(np.argmax(is_bad))
        raise FaceError(
            f"An embedding has a finite length above 0. The model gave {'a zero' if norms[i] == 0 else 'a non-finite'} "
            f"embedding for {describe(i)} ({int(is_bad.sum())} of {len(norms)} are so). "
            f"Check how the model is fed, or train it again."
        )


def normalize(embeddings: np.ndarray) -> np.ndarray:
    """Rows of unit L2 norm, float64 [N, D]; see `check_norms`."""
    embeddings = np.asarray(embeddings, np.float64)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    check_norms(norms[:, 0], lambda row: f"row {row}")
    return embeddings / norms


def row_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` with the same row of `b`: float [N, D] twice -> float64 [N]. Zero rows give 0."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.einsum("nd,nd->n", a, b) / np.where(norms > 0, norms, 1.0)
