"""The errors of the project: `FaceError` for what the user can mend, `BadRecord` for one unreadable record."""

import reprlib


class FaceError(Exception):
    """Something the user can mend. One line: the rule, what was received, what to do next."""


class BadRecord(ValueError):
    """Why one record cannot be read. A caller that knows the file and the record number makes it a `FaceError`."""


class _Short(reprlib.Repr):
    """Cuts a value before its text is made: a file of 300 bytes can name one list a million million times."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict, self.maxstring = 3, 4, 4, 4, 60

    def repr_int(self, x: int, level: int) -> str:
        """A number of more than 4,300 digits has no text in Python."""
        return repr(x) if x.bit_length() <= 128 else f"a whole number of {x.bit_length()} bits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        """Of long bytes the beginning."""
        return repr(x[: self.maxstring])


def short_repr(value: object, most: int = 80) -> str:
    """`repr(value)` for an error message, of at most `most` characters, whatever the value is."""
    text = _Short().repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
