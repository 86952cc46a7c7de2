"""Nearest-neighbour search by cosine, exact, with faiss: one query in a gallery, or many probes at once.

A large gallery is searched in two steps. faiss scans 8-bit copies of the rows, a byte a value, and gives candidates;
the stored rows of these are compared exactly. No copy is further from its row than a known distance, so the cosine of a
row that is no candidate has a bound. If that bound could change the answer, more candidates are taken.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from facelib.errors import FaceError
from facelib.unit_vectors import normalize

LARGE_GALLERY = 50_000  # rows; a smaller one is searched by NumPy before faiss has been imported
BLOCK_ROWS = 32_768  # of the gallery, worked on at a time: 50 MB at D = 128
CODED_ROWS = 8192  # that become 8-bit at a time: 4 MB at D = 128
CANDIDATES = 64  # rows that are compared exactly; more where these do not prove the answer
ROUNDING = 1e-5  # of a float32 cosine, with room to spare


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
        large: number of rows from which 8-bit copies are scanned, a byte a value in memory.
    """

    def __init__(self, vectors: np.ndarray, large: int = LARGE_GALLERY):
        self._vectors = vectors
        self._copies = _EightBit(vectors) if len(vectors) >= large else None

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
        count = max(CANDIDATES, 4 * top)
        while self._copies and count < num_rows:
            candidates, others = self._copies(query, count)
            found = _best(candidates, self._vectors[candidates].astype(np.float32) @ query, top)
            if found.cosines[-1] > others:
                return found
            count *= 8
        blocks = (self._vectors[i : i + BLOCK_ROWS].astype(np.float32) @ query for i in range(0, num_rows, BLOCK_ROWS))
        return _best(np.arange(num_rows), np.concatenate(list(blocks)), top)


class _EightBit:
    """8-bit copies of rows: value x `scale`, rounded; a shard for each thread, as faiss gives a query one thread."""

    def __init__(self, vectors: np.ndarray):
        import faiss

        size = vectors.shape[1]
        self._halves = faiss.IndexScalarQuantizer(size, faiss.ScalarQuantizer.QT_fp16)  # decodes faster than NumPy
        bits = np.ascontiguousarray(vectors).view(np.uint16)
        largest = max(int((bits[i : i + BLOCK_ROWS] & 0x7FFF).max()) for i in range(0, len(bits), BLOCK_ROWS))
        self._scale = np.float32(127) / np.uint16(largest).view(np.float16).astype(np.float32)
        self._error = 0.0
        # In threads; the rows count on from shard to shard.
        self._index = faiss.IndexShards(size, True, True)  # type: ignore[call-arg]
        self._shards = []  # IndexShards does not own them
        count = -(-len(vectors) // faiss.omp_get_max_threads())
        for start in range(0, len(vectors), count):
            shard = faiss.IndexScalarQuantizer(
                size, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
            )
            shard.add_sa_codes(self._codes(bits[start : start + count]))
            self._shards.append(shard)
            self._index.add_shard(shard)

    def _codes(self, bits: np.ndarray) -> np.ndarray:
        """uint8 [n, D] of rows given as the bits of float16: faiss keeps a signed value as itself + 128."""
        codes = np.empty(bits.shape, np.uint8)
        for i in range(0, len(bits), CODED_ROWS):
            scaled = self._halves.sa_decode(bits[i : i + CODED_ROWS].view(np.uint8))
            scaled *= self._scale
            rounded = np.rint(scaled)
            scaled -= rounded
            self._error = max(self._error, float(np.sqrt(np.einsum("nd,nd->n", scaled, scaled).max()) / self._scale))
            rounded += 128
            codes[i : i + CODED_ROWS] = rounded
        return codes

    def __call__(self, query: np.ndarray, count: int) -> tuple[np.ndarray, float]:
        """(`count` rows that seem nearest to a query, what no other row's cosine exceeds).

        q.v - q'.v' = q.(v - v') + (q - q').v' for the copies q' and v', so it is at most |v - v'| + |q - q'| |v'|.
        """
        scale = np.float32(127) / max(float(np.abs(query).max()), 1e-30)
        copy = np.rint(query * scale)  # faiss multiplies whole numbers
        scores, rows = self._index.search(copy[None], count)
        error = self._error * np.linalg.norm(query) + np.linalg.norm(query - copy / scale) * (1.001 + self._error)
        return np.sort(rows[0]), float(scores[0, -1] / (self._scale * scale) + error + ROUNDING)


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


def _best(rows: np.ndarray, cosines: np.ndarray, top: int) -> Neighbours:
    """The `top` rows of the largest cosines; equal ones in the order of the rows.

    Args:
        rows: int64 [n], ascending.
        cosines: float32 [n].
        top: 1 to n.
    """
    places = np.argpartition(-cosines, top - 1)[:top]
    places = places[np.lexsort((places, -cosines[places]))]
    return Neighbours(rows[places], cosines[places])
