"""Names of millions of identities, in a few bytes each."""

from collections.abc import Iterable, Sequence

import numpy as np


class Names(Sequence):
    """A list of strings that never changes: 4 bytes and its UTF-8 bytes for each, where Python's own take about 60."""

    def __init__(self, names: Iterable[str]):
        encoded = [name.encode(errors="surrogatepass") for name in names]
        self._text = b"".join(encoded)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        self._ends = lengths.cumsum().astype(np.uint32 if len(self._text) < 2**32 else np.uint64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        start = int(self._ends[i - 1]) if i else 0
        return self._text[start : int(self._ends[i])].decode(errors="surrogatepass")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))  # noqa: B905

    __hash__ = None

    def __repr__(self) -> str:
        return f"<{len(self):,} names, from {list(self[:3])}>"
