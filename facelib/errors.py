"""The errors of the project: `FaceError` for what the user can mend, `BadRecord` for one unreadable record."""

import reprlib

MAX_MESSAGE = 2000  # characters


class FaceError(Exception):
    """Something the user can mend. One line: the rule, what was received, what to do next.

    Args:
        message: the line. The middle of a very long one is left out: a name in a file may have any length.
    """

    def __init__(self, message: str):
        super().__init__(_bounded(message))


class BadRecord(ValueError):
    """Why one record cannot be read. A caller that knows the file and the record number makes it a `FaceError`.

    Args:
        message: the reason, bounded as that of a `FaceError`.
    """

    def __init__(self, message: str):
        super().__init__(_bounded(message))


def _bounded(message: str) -> str:
    half = MAX_MESSAGE // 2
    return message if len(message) <= MAX_MESSAGE else f"{message[: half - 5]} ... {message[-half:]}"


class _Short(reprlib.Repr):
    """Cuts a value before its text is made: a file of 300 bytes can name one list a million million times."""

    def __init__(self, maxstring: int):
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict, self.maxstring = 3, 4, 4, 4, maxstring

    def repr_int(self, x: int, level: int) -> str:
        """A number of more than 4,300 digits has no text in Python."""
        return repr(x) if x.bit_length() <= 128 else f"a whole number of {x.bit_length()} bits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        """Of long bytes the beginning."""
        return repr(x[: self.maxstring])


def short_name(name: object) -> str:
    """The name of a node, tensor or layer in a file, quoted for an error message: whole up to 200 characters."""
    return short_repr(str(name), 200)


def short_repr(value: object, most: int = 80) -> str:
    """`repr(value)` for an error message, of at most `most` characters, whatever the value is."""
    text = _Short(most - 2).repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
