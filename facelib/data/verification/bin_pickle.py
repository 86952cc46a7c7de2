"""Opens the pickle inside a verification .bin without trusting it.

A pickle is a program, so two checks come first. Every opcode must be one that a list of images needs. Every name that
the pickle looks up becomes a stand-in of this file, which checks its arguments. NumPy itself is never called: only
lists, tuples, bytes, bools, ints and flat arrays (uint8 as their bytes, others as lists of numbers) can come out, and
no memory is allocated for a length that the file only claims.
"""

import io
import math
import pickle
from typing import Literal

from facelib.errors import short_repr
from facelib.restricted_pickle import RefusedPickleError, StandIn, check_opcodes

# Numbers, containers and the memo; image bytes as Python 2 (STRING), Python 3 and NumPy write them; names and their
# calls, each of which is a stand-in.
OPCODE_NAMES = """
    PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    GLOBAL STACK_GLOBAL REDUCE BUILD
"""
OPCODES = frozenset(OPCODE_NAMES.split())
ITEM_BYTES = {"b1": 1, "u1": 1, "i1": 1, "i2": 2, "u2": 2, "i4": 4, "u4": 4, "i8": 8, "u8": 8}


def load_pickle(data: bytes) -> object:
    """Opens a whole pickle of any protocol. uint8 arrays come out as `bytes`.

    Raises:
        RefusedPickleError: it asks for anything but the types above.
        Exception: of nearly any kind, on damaged data; the caller turns them into one message.
    """
    check_opcodes(io.BytesIO(data), OPCODES)
    return _materialise(_Unpickler(data).load())


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="bytes")
        self.encodable = len(data)

    def encode(self, text, encoding="latin1") -> bytes:
        """`_codecs.encode`: how Python 3 writes bytes for protocols below 3."""
        if not isinstance(text, str) or _text(encoding) not in ("latin1", "latin-1"):
            raise RefusedPickleError("_codecs.encode of something that is not bytes")
        self.encodable -= len(text)
        if self.encodable < 0:  # one long text, remembered and encoded a million times
            raise RefusedPickleError("more bytes than the file has")
        return text.encode("latin1")

    def find_class(self, module: str, name: str) -> "StandIn":
        if (module, name) == ("_codecs", "encode"):
            return StandIn(self.encode)
        stand_in = STAND_INS.get((module, name))
        if stand_in is None:
            raise RefusedPickleError(f"{module[:40]}.{name[:40]}")
        return stand_in

    def persistent_load(self, pid: object) -> None:
        raise RefusedPickleError("a persistent id")


class _Dtype:
    """A one-word dtype: kind and width, e.g. 'u1'. Byte order comes with BUILD."""

    __slots__ = ("code", "order")

    def __init__(self, code: str):
        self.code = code
        self.order: Literal["little", "big"] = "little"

    def __setstate__(self, state):
        if not isinstance(state, tuple) or len(state) < 2 or _text(state[1]) not in ("|", "<", ">", "="):
            raise RefusedPickleError("a dtype that is not a plain number")
        self.order = "big" if _text(state[1]) == ">" else "little"


class _Array:
    """An array under construction: NumPy pickles first name the type, then BUILD it."""

    __slots__ = ("dtype", "raw")

    def __init__(self):
        self.dtype: _Dtype | None = None
        self.raw: bytes | bytearray = b""

    def __setstate__(self, state):
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise RefusedPickleError("an array with a strange state")
        shape, dtype, _, raw = state[-4:]
        self.fill(raw, dtype, shape)

    def fill(self, raw, dtype, shape):
        if not isinstance(dtype, _Dtype):
            raise RefusedPickleError("an array without a type")
        if not isinstance(raw, bytes | bytearray) or not isinstance(shape, tuple) or not 1 <= len(shape) <= 2:
            raise RefusedPickleError("an array that is not one row of numbers")
        if any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) * ITEM_BYTES[dtype.code] != len(raw):
            raise RefusedPickleError("an array whose shape disagrees with its bytes")
        if len(shape) == 2 and 1 not in shape:  # older cv2.imencode gives [n, 1]
            raise RefusedPickleError("an array that is not one row of numbers")
        self.dtype, self.raw = dtype, raw


_UINT8 = _Dtype("u1")


def _text(value: object) -> object:
    return value.decode("ascii") if isinstance(value, bytes) else value  # Python 2 writes its words as byte strings


def _make_dtype(code, *flags) -> _Dtype:
    code = _text(code)
    if not isinstance(code, str) or code.lstrip("<>|=") not in ITEM_BYTES:
        raise RefusedPickleError(f"dtype {short_repr(code, 30)}")
    return _Dtype(code.lstrip("<>|="))


def _reconstruct(kind, shape, code) -> _Array:
    if kind is not NDARRAY:
        raise RefusedPickleError("an array of a foreign type")
    return _Array()


def _from_buffer(raw, dtype, shape, order, *axes) -> _Array:
    array = _Array()
    array.fill(raw, dtype, shape)
    return array


def _scalar(dtype, raw) -> bool | int:
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes) or len(raw) != ITEM_BYTES[dtype.code]:
        raise RefusedPickleError("a NumPy scalar that is not a bool or an int")
    return _numbers(dtype, raw)[0]


def _numbers(dtype: _Dtype, raw: bytes | bytearray) -> list[bool] | list[int]:
    if dtype.code == "b1":
        return [byte != 0 for byte in raw]
    width, signed = ITEM_BYTES[dtype.code], dtype.code[0] == "i"
    parts = (raw[k : k + width] for k in range(0, len(raw), width))
    return [int.from_bytes(part, dtype.order, signed=signed) for part in parts]


def _empty_bytes(*args) -> bytes:
    if args:
        raise RefusedPickleError("a call of bytes")
    return b""  # how Python 3 writes b"" for protocols below 3


def _refuse_call(*args):
    raise RefusedPickleError("a call of numpy.ndarray")


NDARRAY = StandIn(_refuse_call)
STAND_INS = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): StandIn(_make_dtype),
    ("builtins", "bytes"): StandIn(_empty_bytes),
    ("__builtin__", "bytes"): StandIn(_empty_bytes),
}
for _package in ("numpy.core", "numpy._core"):  # NumPy 1 and NumPy 2
    STAND_INS[_package + ".multiarray", "_reconstruct"] = StandIn(_reconstruct)
    STAND_INS[_package + ".multiarray", "scalar"] = StandIn(_scalar)
    STAND_INS[_package + ".numeric", "_frombuffer"] = StandIn(_from_buffer)


def _materialise(value: object) -> object:
    """Turns arrays into their content in the two levels a .bin has: a pair of lists."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return value
    made: dict[tuple, object] = {}  # by identity: content that the pickle names many times is made once
    return [_list(part, made) if isinstance(part, list | tuple) else _leaf(part, made) for part in value]


def _list(value: list | tuple, made: dict) -> list:
    return [_leaf(part, made) for part in value]


def _leaf(value: object, made: dict) -> object:
    dtype, raw = (value.dtype, value.raw) if isinstance(value, _Array) else (_UINT8, value)
    if not isinstance(raw, bytes | bytearray) or dtype is None:
        return value
    key = (id(raw), dtype.code, dtype.order)
    if key not in made:
        made[key] = bytes(raw) if dtype.code == "u1" else _numbers(dtype, raw)
    return made[key]
