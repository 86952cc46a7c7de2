"""Embeddings as directions: the norms of rows, rows of unit length, and the cosines of rows."""

from collections.abc import Callable

import numpy as np

from facelib.errors import FaceError

SAME_DISTANCE = 1e-6  # embeddings or distances within this much are the same: float32 rounds unit vectors by 1e-7


def row_norms(rows: np.ndarray) -> np.ndarray:
    """L2 norm of each row, summed in float64: float [N, D] -> float64 [N]."""
    return np.linalg.norm(np.asarray(rows, np.float64), axis=1)


def check_norms(norms: np.ndarray, describe: Callable[[int], str]) -> None:
    """Refuses embeddings without a direction.

    Args:
        norms: float [N], the L2 norms of the embeddings.
        describe: names embedding i in the error, e.g. "record 7 of 'lfw.bin'".

    Raises:
        FaceError: a norm is 0 or not finite.
    """
    is_bad = ~(np.isfinite(norms) & (norms > 0))
    if is_bad.any():
        i = int(np.argmax(is_bad))
        raise FaceError(
            "An embedding must have a finite norm above 0. The model returned "
            f"{'a zero' if norms[i] == 0 else 'a non-finite'} embedding for {describe(i)} ({int(is_bad.sum())} of "
            f"{len(norms)} embeddings are bad). Check the pixels that the model gets, or train the model again."
        )


def normalize(embeddings: np.ndarray, describe: Callable[[int], str] = "row {}".format) -> np.ndarray:
    """Rows of unit L2 norm.

    Args:
        embeddings: float [N, D].
        describe: names row i in the error; see `check_norms`.

    Returns: float64 [N, D].

    Raises:
        FaceError: a row is zero or not finite.
    """
    embeddings = np.asarray(embeddings, np.float64)
    norms = row_norms(embeddings)
    check_norms(norms, describe)
    return embeddings / norms[:, None]


def check_differ(vectors: np.ndarray, what: str) -> None:
    """Refuses embeddings that are all the same: the model tells nobody apart.

    Args:
        vectors: float [N, D], unit rows. One row alone passes.
        what: gave them; begins a sentence.

    Raises:
        FaceError: no two rows differ by more than `SAME_DISTANCE`.
    """
    if len(vectors) > 1 and np.abs(vectors - vectors[:1]).max() <= SAME_DISTANCE:
        raise FaceError(
            f"Different faces must have different embeddings. {what} returns the same embedding for all "
            f"{len(vectors)} faces. Check the pixels that the model gets, or train the model again."
        )


def row_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` with the same row of `b`.

    Args:
        a: float [N, D].
        b: float [N, D].

    Returns: float64 [N]; 0 where a row is zero.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = row_norms(a) * row_norms(b)
    return np.einsum("nd,nd->n", a, b) / np.where(norms > 0, norms, 1.0)
