"""Recognises a Keras Lambda layer that divides by the L2 norm, from the bytes of its code alone. Nothing is run.

Keras stores the function of a Lambda as Python's marshal of a code object. `marshal.loads` trusts its input, so the
bytes are read here, as plain data: the names and constants of the code are enough to tell what it can do. A code
object that names nothing but `l2_normalize` and the modules on the way to it computes nothing else.
"""

import base64
import binascii
import struct
from dataclasses import dataclass
from typing import Any

MAX_BYTES, MAX_DEPTH = 20_000, 12  # a code object of one call has 300 bytes
_NAMES = {"K", "tf", "keras", "backend", "math", "nn", "linalg", "tensorflow"}  # on the way to l2_normalize
_KEYWORDS = {"axis", "dim", "epsilon", "x"}

# The fields of a code object by Python version: numbers of 4 bytes, objects, and, after a line number, objects.
_LAYOUTS = (
    ("argcount posonly kwonly stacksize flags", "code consts names localnames kinds filename name qualname",
     "linetable exceptions"),  # 3.11 and later
    ("argcount posonly kwonly nlocals stacksize flags",
     "code consts names varnames freevars cellvars filename name", "linetable"),  # 3.8 to 3.10
    ("argcount kwonly nlocals stacksize flags", "code consts names varnames freevars cellvars filename name",
     "linetable"),  # 3.0 to 3.7
    ("argcount nlocals stacksize flags", "code consts names varnames freevars cellvars filename name",
     "linetable"),  # 2.7
)  # fmt: skip


@dataclass
class Code:
    """A code object as data.

    Attributes:
        consts: its constants.
        names: global and attribute names that it uses.
        local: names of its variables, those of closures included.
    """

    consts: tuple
    names: tuple
    local: tuple


def norm_axis(config: dict) -> int | None:
    """The axis over which a Lambda layer divides by the L2 norm; None if it may do anything else.

    Args:
        config: of the layer, from a file. It is not trusted.
    """
    function, arguments = config.get("function"), config.get("arguments") or {}
    if isinstance(function, dict) and function.get("class_name") == "__lambda__":  # of Keras 3
        inner = function.get("config")
        function = [inner.get(key) for key in ("code", "defaults", "closure")] if isinstance(inner, dict) else None
    if not isinstance(arguments, dict) or set(arguments) - _KEYWORDS:
        return None
    axes = [value for key, value in arguments.items() if key in ("axis", "dim")]
    if function == "l2_normalize":  # named, not stored
        return _one_axis(axes)
    if not isinstance(function, list) or len(function) != 3 or function[1] or function[2]:
        return None
    code = read_code(function[0])
    if code is None or "l2_normalize" not in code.names or len(code.local) > 2:
        return None
    if set(code.names) - _NAMES - {"l2_normalize"}:
        return None
    if set(code.local[1:]) - _NAMES:  # the first is the argument
        return None
    return _one_axis(axes + _axes_in(code.consts))


def _one_axis(axes: list) -> int | None:
    """The axis of one call: -1 if none is given, or if Python 3.6 kept the 1 of a -1 too; None if they are no axes."""
    flat = [axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis for axis in axes]
    if any(type(axis) is not int or axis not in (-1, 1) for axis in flat):
        return None
    return 1 if set(flat) == {1} else -1


def _axes_in(consts: tuple) -> list:
    """The constants that are no names of arguments, no small epsilon and not None: they must be axes."""
    rest = []
    for value in consts:
        words = value if isinstance(value, tuple) and value else (value,)
        is_keyword = all(isinstance(word, str) and word in _KEYWORDS for word in words)
        is_epsilon = isinstance(value, float) and 0 <= value <= 1e-6
        if not (value is None or is_keyword or is_epsilon):
            rest.append(value)
    return rest


def read_code(text: Any) -> Code | None:
    """The code object in the base64 text of a Lambda; None if it is not one that can be read."""
    try:
        data = base64.b64decode(text.encode() if isinstance(text, str) else text, validate=False)
    except (binascii.Error, ValueError, TypeError, AttributeError):
        return None
    for layout in _LAYOUTS if len(data) <= MAX_BYTES else ():
        reader = _Reader(data, layout)
        try:
            code = reader.object()
        except (_NotThis, IndexError, struct.error, UnicodeDecodeError, TypeError):
            continue
        if isinstance(code, Code) and reader.at == len(data):
            return code
    return None


class _NotThis(Exception):
    """The bytes do not follow the layout."""


class _Reader:
    """Reads the objects of marshal that a code object of one expression consists of."""

    def __init__(self, data: bytes, layout: tuple):
        self.data, self.layout, self.at, self.depth = data, layout, 0, 0
        self.seen: list[Any] = []  # objects that later bytes refer to
        self.strings: list[str] = []  # interned ones of Python 2

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count < 0 or self.at + count > len(self.data):
            raise _NotThis
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        """The next 4 bytes."""
        return struct.unpack("<i", self.take(4))[0]

    def object(self) -> Any:
        """The next object."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _NotThis
        byte = self.take(1)[0]
        place = len(self.seen) if byte & 0x80 else None
        if place is not None:
            self.seen.append(None)  # numbered before what is in it
        value = self._of_kind(chr(byte & 0x7F))
        if place is not None:
            self.seen[place] = value
        self.depth -= 1
        return value

    def _of_kind(self, kind: str) -> Any:
        simple = {"N": None, "T": True, "F": False, ".": ...}
        if kind in simple:
            return simple[kind]
        if kind == "i":
            return self.number()
        if kind == "g":
            return struct.unpack("<d", self.take(8))[0]
        if kind == "r":
            return self.seen[self.number()]
        if kind == "R":
            return self.strings[self.number()]
        if kind in "zZ":
            return self.take(self.take(1)[0]).decode("ascii")
        if kind in "uaAt":
            text = self.take(self.number()).decode("utf-8")
            if kind == "t":  # Python 2 refers to these by their number
                self.strings.append(text)
            return text
        if kind == "s":
            return self.take(self.number())
        if kind in "()[":
            count = self.take(1)[0] if kind == ")" else self.number()
            if count > len(self.data):
                raise _NotThis
            return tuple(self.object() for _ in range(count))
        if kind == "c":
            return self._code()
        raise _NotThis

    def _code(self) -> Code:
        numbers, objects, last = self.layout
        for _ in numbers.split():
            self.number()
        found = {name: self.object() for name in objects.split()}
        self.number()
        for _ in last.split():
            self.object()
        local = sum((found.get(name, ()) for name in ("varnames", "localnames", "freevars", "cellvars")), ())
        if not isinstance(found["consts"], tuple) or not all(isinstance(n, str) for n in found["names"] + local):
            raise _NotThis
        return Code(found["consts"], found["names"], local)
