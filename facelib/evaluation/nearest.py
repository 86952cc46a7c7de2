"""Nearest-neighbour search by cosine, exact, with faiss: one query in a gallery, or many probes at once."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from facelib.errors import FaceError
from facelib.unit_vectors import normalize

LARGE_GALLERY = 50_000  # rows; a smaller one is searched by NumPy before faiss has been imported
BLOCK_ROWS = 32_768  # of the gallery, normalised and searched at a time: 50 MB at D = 128


class Neighbours(NamedTuple):
    """What a search found.

    Attributes:
        rows: int64 [..., K], row numbers, nearest first.
        cosines: float32 [..., K], dot products with the query.
    """

    rows: np.ndarray
    cosines: np.ndarray


class Nearest:
    """Answers one query at a time about the rows of a gallery.

    Args:
        vectors: float16 [N, D], rows of unit length; a memory map will do.
        large: number of rows from which faiss is used instead of NumPy.
    """

    def __init__(self, vectors: np.ndarray, large: int = LARGE_GALLERY):
        self._vectors = vectors
        self._index = _half_float_index(vectors) if len(vectors) >= large else None

    def __call__(self, query: np.ndarray, top: int) -> Neighbours:
        """The rows with the largest dot product with the query; equal ones in the order of the rows.

        Args:
            query: float32 [D], of unit length.
            top: how many rows.

        Raises:
            FaceError: a query of another dimension, or one that is not finite.
        """
        num_rows, size = self._vectors.shape
        query = np.asarray(query, np.float32)
        if query.shape != (size,) or not np.isfinite(query).all():
            raise FaceError(
                f"A query must have {size} finite numbers, like every row of the gallery. Received: "
                f"{list(query.shape)}{'' if np.isfinite(query).all() else ', some not finite'}. Search with the model "
                "that made the gallery."
            )
        top = min(top, num_rows)
        if self._index is not None:
            cosines, rows = self._index.search(query[None], top)
            return Neighbours(rows[0], cosines[0])
        cosines = self._vectors.astype(np.float32) @ query
        rows = np.argpartition(-cosines, top - 1)[:top]
        rows = rows[np.lexsort((rows, -cosines[rows]))]
        return Neighbours(rows, cosines[rows])


def search_rows(gallery: np.ndarray, probes: np.ndarray, top: int) -> Neighbours:
    """The nearest gallery rows of every probe, in blocks: a gallery of 1 M x 128 takes 0.1 GB more than it is.

    Args:
        gallery: float32 [G, D], of any length above 0.
        probes: float32 [P, D], of any length above 0.
        top: how many rows for each probe; at most G are given.

    Returns: rows and cosines, each [P, min(top, G)].

    Raises:
        FaceError: a zero or non-finite row. Names it.
    """
    import faiss

    probes = normalize(probes, "row {} of the probes".format).astype(np.float32)
    rows, cosines = np.empty((len(probes), 0), np.int64), np.empty((len(probes), 0), np.float32)
    for start in range(0, len(gallery), BLOCK_ROWS):
        block = normalize(gallery[start : start + BLOCK_ROWS], _describe_from(start)).astype(np.float32)
        found, places = faiss.knn(probes, block, min(top, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        rows, cosines = np.hstack([rows, places + start]), np.hstack([cosines, found])
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :top]
        rows, cosines = np.take_along_axis(rows, order, axis=1), np.take_along_axis(cosines, order, axis=1)
    return Neighbours(rows, cosines)


def _describe_from(start: int) -> Callable[[int], str]:
    return lambda i: f"row {start + i} of the gallery"


def _half_float_index(vectors: np.ndarray):
    import faiss

    index = faiss.IndexScalarQuantizer(
        vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )  # its codes are IEEE half floats: the rows as they are stored
    index.add_sa_codes(np.ascontiguousarray(vectors).view(np.uint8))
    return index
