"""Images that are in two sets byte for byte, such as a training set and a verification set.

Only a hash of each verification image is in memory. Two different images have one hash of 64 bits by chance in one of
10**11 comparisons of 10 million with 10 thousand images at most.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from facelib.data.readers.sources import Source
from facelib.data.record_reader import Records
from facelib.errors import BadRecord
from facelib.wording import counted

LOOKED_AT = 1 << 14  # records of a training set that `same_images_notes` reads at most, the first ones: a random sample
_BLOCK = 512  # records read at once


class KnownImages:
    """The images of some sets.

    Args:
        sets: (name of a set, its encoded images) each.
    """

    def __init__(self, sets: Iterable[tuple[str, Iterable[bytes]]]):
        self._set_of = {hash(image): name for name, images in sets for image in images}

    def set_of(self, image: bytes) -> str | None:
        """The name of a set that has this image; None if there is none."""
        return self._set_of.get(hash(image))


def find_same(source: Source, known: KnownImages, progress: bool = True) -> np.ndarray:
    """int64, ascending: the records of `source` whose image is one of `known`. Records that cannot be read are none."""
    bar = tqdm(range(len(source)), unit=" images", desc="compare", disable=None if progress else True, leave=False)
    return np.array([i for i in bar if _has(source, i, known)], np.int64)


def _has(source: Source, i: int, known: KnownImages) -> bool:
    try:
        return known.set_of(source.read(i)) is not None
    except BadRecord:
        return False


def same_images_notes(records: Records, sets: Iterable[tuple[str, Iterable[bytes]]]) -> list[str]:
    """A line for each verification set with training images in it.

    Of a large training set the first 16,384 records are read. A data directory has them in random order. Nothing is
    read from object storage.

    Args:
        records: the training set.
        sets: (name of a verification set, its encoded images) each.
    """
    if not isinstance(records.path, Path):
        return []
    known, looked_at = KnownImages(sets), min(len(records), LOOKED_AT)
    found = Counter(name for image in _first(records, looked_at) if (name := known.set_of(image)))
    of = "" if looked_at == len(records) else f" of the first {looked_at:,}"
    return [
        f"{counted(count, 'training image')}{of} {'is' if count == 1 else 'are'} in {name} byte for byte, so the "
        "accuracy on this set would be too high: leave these people out with prepare_data.py --leave-out"
        for name, count in found.items()
    ]


def _first(records: Records, count: int) -> Iterator[bytes]:
    """Yields the encoded images of the first records; those of raw pixels are left out."""
    for start in range(0, count, _BLOCK):
        for image, _ in records.read_sorted(np.arange(start, min(count, start + _BLOCK))):
            if isinstance(image, bytes):
                yield image
