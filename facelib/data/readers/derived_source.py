"""Chosen records of a source under new labels, some of them changed: what balancing and cleaning write."""

import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np

from facelib.data.readers.sources import Source


class DerivedSource:
    """A `Source` whose record i is record `picks[i]` of another, labelled `labels[i]`.

    Args:
        picks: int64 [N], records of `source`.   labels: int64 [N], each an index of `class_names`.
        change: (encoded image, i) -> encoded image; None for the bytes as they are.
        what: JSON value that says how all this came about; with the source's own it is the fingerprint.
    """

    def __init__(
        self,
        source: Source,
        picks: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        what: dict,
        change: Callable[[bytes, int], bytes] | None = None,
    ):
        self.source, self.picks, self.labels, self.class_names = source, picks, labels, list(class_names)
        self.kind, self.path, self.image_size = source.kind, source.path, source.image_size
        self.notes, self.bad, self.change = list(source.notes), list(source.bad), change
        text = json.dumps(what, sort_keys=True)
        self.fingerprint = hashlib.sha256(f"{source.fingerprint} {text}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.picks)

    def read(self, i: int) -> bytes:
        """The encoded image of record i."""
        image = self.source.read(int(self.picks[i]))
        return self.change(image, i) if self.change else image

    def describe(self, i: int) -> str:
        """Where record i lies in the source."""
        return self.source.describe(int(self.picks[i]))
