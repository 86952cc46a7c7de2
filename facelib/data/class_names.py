"""Names of millions of identities or files, in a few bytes each.

Not np.dtypes.StringDType: it refuses the lone surrogates that file names may hold, and a name of 25 letters takes 48
bytes there, here 29.
"""

from array import array
from collections.abc import Iterable, Sequence

_MOST = 2**32 - 1  # of array's "I"


class Names(Sequence):
    """A sequence of strings that takes the UTF-8 bytes of each and 4 bytes more, where a Python string takes about 60.

    Above 4 GiB of text it takes 8 bytes more for each. Bytes of a file name that are not UTF-8 come back as lone
    surrogates, as Python has them.
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
