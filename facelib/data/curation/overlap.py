"""Finds identities that are in two sets of faces, and estimates how many hits are chance.

The mean vector of every training identity is compared with every verification image. These are millions of comparisons,
so the threshold of a verification set (FAR 1e-3 or so) would give thousands of chance hits. Nearly all comparisons are
of strangers, and in many dimensions the cosines of strangers are nearly normal. So the median and an upper percentile
of the cosines give the threshold at which one chance hit is expected. Real faces have a heavier tail, because of
lookalikes: 2,818 identities against LFW with a MobileFaceNet had 5 hits where 1 was expected, one of them the same
person by sight. A fit to the tail itself would fit the overlap that is looked for. In small sets a shared person is a
large part of all comparisons, also of the upper percent: there the lower half of the cosines gives the width.
"""

from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from facelib.data.readers.sources import open_source
from facelib.data.verification.bins import load_bin
from facelib.errors import FaceError
from facelib.image_decoding import Photos

MANY_COMPARISONS = 10_000  # from here on a shared person hardly moves the upper percentile
MIN_COMPARISONS = 20  # fewer say nothing about chance
MAX_HITS = 1_000_000
_SAMPLE = 2_000  # images and centres from which the cosines of strangers are learnt
_LOWER = 0.16  # of a normal distribution, one standard deviation below the median
_UPPER = 0.99  # an identity that does appear is 1 / identities of its comparisons: far less than what lies above
_BLOCK_CELLS = 16_000_000  # cosines held at a time: 64 MB


class BinPhotos:
    """The distinct images of a verification set, in the order in which they first appear."""

    def __init__(self, path: Path):
        first_record: dict[bytes, int] = {}
        for record, image in enumerate(load_bin(path).images):
            first_record.setdefault(image, record)
        self.name, self._images, self._records = path.name, list(first_record), list(first_record.values())

    def __len__(self) -> int:
        return len(self._images)

    def read(self, i: int) -> bytes:
        return self._images[i]

    def describe(self, i: int) -> str:
        return f"{self.name} record {self._records[i]}"


def open_verification(path: Path) -> Photos:
    """Opens a `.bin`, or anything that `open_source` opens."""
    return BinPhotos(path) if path.suffix == ".bin" else open_source(path)


class Hits(NamedTuple):
    """Pairs of a training identity and a verification image that lie close together, closest first.

    Attributes:
        centres: int64 [K], rows of the training identities.
        images: int64 [K], rows of the verification images.
        distances: float32 [K], squared L2, ascending.
    """

    centres: np.ndarray
    images: np.ndarray
    distances: np.ndarray


def find_hits(centres: np.ndarray, images: np.ndarray, distance: float) -> Hits:
    """All pairs of rows at squared L2 <= `distance`, closest first.

    Args:
        centres: float32 [T, D], unit rows.
        images: float32 [V, D], unit rows.
        distance: squared L2, 0 to 4. Takes 64 MB besides the arrays and the hits.

    Raises:
        FaceError: more than `MAX_HITS`.
    """
    found, num_found = [], 0
    rows = max(1, _BLOCK_CELLS // len(centres))
    for start in range(0, len(images), rows):
        distances = 2.0 - 2.0 * (images[start : start + rows] @ centres.T)
        at_image, at_centre = np.nonzero(distances <= distance)
        found.append((at_centre, at_image + start, distances[at_image, at_centre]))
        num_found += len(at_centre)
        if num_found > MAX_HITS:
            raise FaceError(
                f"More than {MAX_HITS:,} pairs lie within distance {distance:g}: the threshold is too large to find "
                "the same people. Use a smaller threshold."
            )
    at_centre, at_image, distances = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((at_image, at_centre, distances))
    return Hits(at_centre[order], at_image[order], np.maximum(distances[order], 0.0))


def sample_records(labels: np.ndarray, max_images: int, seed: int) -> np.ndarray:
    """int64, ascending: a seeded choice of at most `max_images` records of each identity."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # by identity, shuffled within
    sorted_labels = labels[order]
    first = np.flatnonzero(np.r_[True, sorted_labels[1:] != sorted_labels[:-1]])
    rank = np.arange(len(order)) - np.repeat(first, np.diff(np.r_[first, len(order)]))
    return np.sort(order[rank < max_images])


class Chance:
    """How close strangers come by chance: a normal law through the median and the 99th percentile of the cosines.

    Of fewer than 10,000 comparisons the 16th percentile is taken.

    Args:
        centres: float32 [T, D], unit rows; at most 2,000 are used.
        images: float32 [V, D], unit rows; at most 2,000 are used.
        seed: of the choice of rows.
    """

    def __init__(self, centres: np.ndarray, images: np.ndarray, seed: int = 0):
        self.comparisons = len(centres) * len(images)
        if self.comparisons < MIN_COMPARISONS:
            raise FaceError(
                f"The threshold must be estimated from at least {MIN_COMPARISONS:,} comparisons of faces. Received: "
                f"{len(centres)} identities x {len(images)} images. Use --threshold DISTANCE or --far RATE."
            )
        rng = np.random.default_rng(seed)
        some = [rows[rng.permutation(len(rows))[:_SAMPLE]] for rows in (images, centres)]
        share = _UPPER if self.comparisons >= MANY_COMPARISONS else _LOWER
        middle, outer = np.quantile(some[0] @ some[1].T, [0.5, share])
        self._law = NormalDist(float(middle), max(1e-6, float((outer - middle) / NormalDist().inv_cdf(share))))

    def distance_for(self, num_hits: float) -> float:
        """The squared L2 distance within which `num_hits` chance hits are expected."""
        share = min(num_hits / self.comparisons, 0.5)
        # The upper tail by symmetry: 1 - share would lose the digits of a share of 1e-9.
        cosine = 2 * self._law.mean - self._law.inv_cdf(share)
        return max(0.0, 2.0 - 2.0 * cosine)

    def hits_within(self, distance: float) -> float:
        """Chance hits expected within a squared L2 distance."""
        cosine = 1.0 - distance / 2.0
        return self.comparisons * self._law.cdf(2 * self._law.mean - cosine)
