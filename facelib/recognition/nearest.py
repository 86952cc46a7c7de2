"""The nearest rows of a gallery, by brute force: exact up to float32 rounding, for every size of gallery.

Rows are kept in float16: half the memory to read, and reading is what a search costs. A million rows of 128 took 15 ms
in faiss, which multiplies the float16 codes as they lie, and 35 ms as a float32 product in NumPy, which reads 512 MB a
query (two busy x86 cores, benchmarks/bench_search.py). A graph index would be faster still, but neither exact nor quick
to build.
"""

from typing import NamedTuple

import numpy as np

from facelib.errors import FaceError

LARGE_GALLERY = 50_000  # rows; below, NumPy answers before faiss is imported and loaded


class Neighbours(NamedTuple):
    """rows: int64 [K], nearest first.   cosines: float32 [K], their dot products with the query."""

    rows: np.ndarray
    cosines: np.ndarray


class Nearest:
    """Answers queries about `vectors`, float16 [N, D], rows of unit length; a memory map will do."""

    def __init__(self, vectors: np.ndarray, large: int = LARGE_GALLERY):
        self._vectors = vectors
        self._index = _faiss_index(vectors) if len(vectors) >= large else None

    def __call__(self, query: np.ndarray, top: int) -> Neighbours:
        """The `top` rows with the largest dot product with `query`, float32 [D], of unit length.

        Raises:
            FaceError: a query of another dimension, or one that is not finite.
        """
        num_rows, size = self._vectors.shape
        query = np.asarray(query, np.float32)
        if query.shape != (size,) or not np.isfinite(query).all():
            raise FaceError(
                f"A query is {size} finite numbers, as the gallery's rows. Received: {list(query.shape)}"
                f"{'' if np.isfinite(query).all() else ', some not finite'}. Search with the model that enrolled."
            )
        top = min(top, num_rows)
        if self._index is not None:
            cosines, rows = self._index.search(query[None], top)
            return Neighbours(rows[0], cosines[0])
        cosines = self._vectors.astype(np.float32) @ query
        rows = np.argpartition(-cosines, top - 1)[:top]
        rows = rows[np.lexsort((rows, -cosines[rows]))]
        return Neighbours(rows, cosines[rows])


def _faiss_index(vectors: np.ndarray):
    import faiss

    index = faiss.IndexScalarQuantizer(
        vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )  # its codes are IEEE half floats: the rows as they are stored
    index.add_sa_codes(np.ascontiguousarray(vectors).view(np.uint8))
    return index
