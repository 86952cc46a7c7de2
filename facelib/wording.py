"""How counts, file names and commands are put into text that people read."""

import difflib
import re
import shlex
from collections.abc import Iterable

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def counted(number: int, noun: str, nouns: str = "") -> str:
    """'1 image', '1,200 images'. `nouns` is the plural where it does not just end with an s."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """' Did you mean 'arcface'?', with the known name that is most like the given one; '' where none is like it."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(given[:100].lower(), by_lower, 1, 0.5)
    return f" Did you mean '{by_lower[near[0]]}'?" if near else ""


def printable(text: str) -> str:
    """The text in one line that no terminal obeys: control characters and bytes that are not UTF-8 as escapes."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def spreadsheet_cell(text: str) -> str:
    """The text of a CSV cell that no spreadsheet takes for a formula: one that begins like one gets a ' before it."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "'")) else text


def command(*words: object) -> str:
    """A command line to copy: each word quoted where a shell needs it."""
    return shlex.join(str(word) for word in words)
