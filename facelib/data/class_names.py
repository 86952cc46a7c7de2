"""Names of millions of identities or files, in a few bytes each."""

from array import array
from collections.abc import Iterable, Sequence

_MOST = 2**32 - 1  # of array's "I"


class Names(Sequence):
    """Strings: 4 bytes and its UTF-8 bytes for each (8 above 4 GiB in all), where Python's own take about 60.

    Bytes that are no UTF-8, of file names, come out as Python has them: lone surrogates.
    """

    def __init__(self, names: Iterable[str | bytes] = ()):
        self._text, self._ends = bytearray(), array("I")
        for name in names:
            self.append(name)

    def append(self, name: str | bytes) -> None:
        """Adds one at the end."""
        self._text += name if isinstance(name, bytes) else name.encode(errors="surrogateescape")
        if len(self._text) > _MOST and self._ends.typecode == "I":
            self._ends = array("q", self._ends)
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        start = self._ends[i - 1] if i else 0
        return self._text[start : self._ends[i]].decode(errors="surrogateescape")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None

    def __repr__(self) -> str:
        return f"<{len(self):,} names, from {self[:3]}>"
