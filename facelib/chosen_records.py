"""Records of a data directory, chosen, and if wanted with other labels or pixels: a Source to write anew."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from facelib.cli import FaceError
from facelib.data_dir import is_data_dir, open_records
from facelib.sources import RecordsSource
from facelib.tfrecord import BadRecord

_READ_AGAIN = "Run prepare_data.py again, or copy the files again."


def open_data_dir(path: Path) -> RecordsSource:
    """The data directory at `path` as a source; any thread may read it.

    Raises:
        FaceError: it is something else, or damaged.
    """
    if not is_data_dir(path):
        received = "other data" if Path(path).exists() else "nothing there"
        raise FaceError(f"DATA is a data directory. '{path}': {received}. Run: python prepare_data.py SOURCE DATA")
    return RecordsSource(open_records(path))


class ChosenRecords:
    """A `facelib.sources.Source` over records of another. Fingerprint, path and kind are those of the other.

    Args:
        records: int64 [N], of `source`; one may come several times.
        labels: int64 [N], the new ones.
        class_names: of the new labels.
        make: `(position, image) -> image`, encoded bytes both; by default the bytes stay as they are. May raise
            BadRecord. Several threads call it.
    """

    def __init__(
        self,
        source: RecordsSource,
        records: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        make: Callable[[int, bytes], bytes] | None = None,
    ):
        self.kind, self.path, self.fingerprint = source.kind, source.path, source.fingerprint
        self.notes, self.bad, self.image_size = [], [], source.image_size
        self.labels, self.class_names = np.asarray(labels, np.int64), list(class_names)
        self._source, self._records, self._make = source, records, make

    def __len__(self) -> int:
        return len(self._records)

    def read(self, i: int) -> bytes:
        try:
            image = self._source.read(int(self._records[i]))
            return self._make(i, image) if self._make else image
        except BadRecord as error:
            raise FaceError(f"'{self.path}', {self.describe(i)}: {error}. {_READ_AGAIN}") from error

    def describe(self, i: int) -> str:
        return self._source.describe(int(self._records[i]))
