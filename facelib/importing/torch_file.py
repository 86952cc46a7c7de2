"""Reads the tensors of a file of PyTorch (torch.save: .pt, .pth) without PyTorch and without running anything.

Since PyTorch 1.6 the file is a zip: `NAME/data.pkl` is a pickle whose tensors are names of storages, and
`NAME/data/KEY` is the memory of each. Before, it was five pickles in a row, then the storages. The pickle may hold
numbers, texts, lists, dicts and tensors; every other name is refused before anything is called.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from facelib.errors import FaceError
from facelib.restricted_pickle import RefusedPickleError, StandIn, check_opcodes

MAX_PICKLE_BYTES = 32 << 20  # of names and shapes; the state of an iresnet100 has 0.2 MB
MAX_AXES, MAX_VALUES = 8, 2**40  # of a tensor
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the older form
_NAMES = """
    PROTO FRAME STOP MARK POP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 BINFLOAT
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT SETITEM SETITEMS
    PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING
    GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID
"""
_OPCODES = frozenset(_NAMES.split())
_DTYPES = {"Float": "f4", "Half": "f2", "Double": "f8", "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1",
           "Byte": "u1", "Bool": "u1", "BFloat16": "u2"}  # fmt: skip


class _Checked:
    """An object of the file whose values were checked: BUILD, which would change them afterwards, is refused."""

    def __setstate__(self, state):
        raise RefusedPickleError("BUILD on a tensor")


@dataclass
class _Storage(_Checked):
    """The memory of tensors: `kind` is a key of `_DTYPES`."""

    kind: str
    key: str
    size: int


@dataclass
class Tensor(_Checked):
    """A tensor of the file; its values are read when they are asked for.

    Attributes:
        storage: its memory.
        offset: of the first value, in values.
        shape: tuple of int.
        strides: in values.
    """

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class TorchFile:
    """What a file of PyTorch holds.

    Attributes:
        content: numbers, texts, lists, dicts and `Tensor`s.
        read_storage: gives the bytes of a storage, little endian.
        path: of the file, for errors.
    """

    content: object
    read_storage: Callable[[_Storage], bytes]
    path: Path

    def values(self, tensor: Tensor) -> np.ndarray:
        """The values of a tensor as float32.

        Raises:
            FaceError: a storage that is missing or too short.
        """
        storage = tensor.storage
        dtype = np.dtype(_DTYPES[storage.kind]).newbyteorder("<")
        data = self.read_storage(storage)
        if len(data) < storage.size * dtype.itemsize:
            raise FaceError(f"'{self.path}' is damaged: the storage {storage.key!a} is too short. Copy the file again.")
        memory = np.frombuffer(data, dtype, storage.size)
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(memory[tensor.offset :], tensor.shape, strides, writeable=False)
        if storage.kind == "BFloat16":  # the upper half of a float32
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view.astype(np.float32)


def read_torch_file(path: Path) -> TorchFile:
    """Opens a file of torch.save.

    Raises:
        FaceError: it is damaged, or it holds anything but tensors, numbers and texts.
    """
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_older(path)
    except RefusedPickleError as error:
        raise FaceError(
            f"Only tensors can be read from a PyTorch file. '{path}' asks for {error}: no code of the file was run. "
            "On a machine where you trust the file, save only the weights: torch.save(net.state_dict(), 'net.pt')."
        ) from error
    except FaceError:
        raise
    except Exception as error:  # damaged pickles raise nearly anything
        reason = " ".join(str(error).split())[:100]
        raise FaceError(f"'{path}' is a damaged PyTorch file ({reason}). Copy the file again.") from error


def _read_zip(path: Path) -> TorchFile:
    archive = zipfile.ZipFile(path)
    entries = {info.filename: info for info in archive.infolist()}
    (pickled,) = (name for name in entries if name == "data.pkl" or name.endswith("/data.pkl"))
    root = pickled.removesuffix("data.pkl")
    if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
        raise FaceError(
            f"A file of torch.save must not be compressed. '{path}' is compressed: save it again with torch.save."
        )
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
    if order.strip() != b"little":
        raise FaceError(
            f"'{path}' was written on a big-endian machine. Save the file again on a little-endian machine."
        )
    if entries[pickled].file_size > MAX_PICKLE_BYTES:
        raise FaceError(
            f"'{path}' has {entries[pickled].file_size:,} bytes of names and shapes. Save only the weights."
        )
    content = _load(io.BytesIO(archive.read(pickled)))

    def read_storage(storage: _Storage) -> bytes:
        name = f"{root}data/{storage.key}"
        if name not in entries:
            raise FaceError(f"'{path}' is damaged: it has no storage {storage.key!a}. Copy the file again.")
        return archive.read(name)

    return TorchFile(content, read_storage, path)


def _read_older(path: Path) -> TorchFile:
    data = path.read_bytes()
    stream = io.BytesIO(data)
    if _load(stream) != _MAGIC:
        raise FaceError(f"'{path}' is a pickle that torch.save did not write. Save the weights with torch.save.")
    _load(stream), _load(stream)  # version and sizes of numbers
    storages: dict[str, _Storage] = {}
    content, keys = _load(stream, storages), _load(stream)
    places = {}
    for key in keys if isinstance(keys, list) else []:
        place = stream.tell() + 8  # a count of values comes first
        places[key] = place
        stream.seek(place + storages[key].size * np.dtype(_DTYPES[storages[key].kind]).itemsize)

    def read_storage(storage: _Storage) -> bytes:
        if storage.key not in places:
            raise FaceError(f"'{path}' is damaged: it has no storage {storage.key!a}. Copy the file again.")
        return data[places[storage.key] : places[storage.key] + storage.size * 8]

    return TorchFile(content, read_storage, path)


def _load(stream: io.BytesIO, storages: dict[str, _Storage] | None = None) -> object:
    start = stream.tell()
    check_opcodes(stream, _OPCODES)
    end = stream.tell()
    if end - start > MAX_PICKLE_BYTES:
        raise pickle.UnpicklingError("too many names")
    stream.seek(start)
    content = _Unpickler(stream, storages if storages is not None else {}).load()
    stream.seek(end)
    return content


class _Dict(dict):
    """Stands for collections.OrderedDict; the versions of modules that a state dict carries are dropped."""

    def __setstate__(self, state):
        pass


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined]  # the one in Python, whose dicts can be checked
    stack: list
    pop_mark: Callable[[], list]
    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, stream: io.BytesIO, storages: dict[str, _Storage]):
        super().__init__(stream, encoding="latin1")
        self.storages = storages

    def find_class(self, module: str, name: str):
        kind = name.removesuffix("Storage")
        if module in ("torch", "torch.cuda") and name.endswith("Storage") and kind in _DTYPES:
            return _Kind(kind)
        if (module, name) not in _STAND_INS:
            raise RefusedPickleError(f"{module[:40]}.{name[:40]}")
        return _STAND_INS[module, name]

    def persistent_load(self, pid: object) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage" or not isinstance(pid[1], _Kind):
            raise RefusedPickleError("a persistent id that is not a storage")
        _, kind, key, _, size = pid[:5]
        if not isinstance(key, str) or type(size) is not int or size < 0 or (len(pid) == 6 and pid[5] is not None):
            raise RefusedPickleError("a storage without a name or a size")
        return self.storages.setdefault(key, _Storage(kind.name, key, size))

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def load_setitems(self):
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _set(self, key, value):
        if not isinstance(key, str | int | float | None):  # the hash of nested tuples may take for ever
            raise RefusedPickleError("a dict whose keys are not names")
        if not isinstance(self.stack[-1], dict):
            raise RefusedPickleError("items of something that is not a dict")
        self.stack[-1][key] = value

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems


@dataclass(frozen=True)
class _Kind:
    """The class of a storage, as a word that cannot be called."""

    name: str

    def __setstate__(self, state):
        raise RefusedPickleError("BUILD on a name")


def _tensor(storage, offset, shape, strides, *_) -> Tensor:
    if not isinstance(storage, _Storage) or not len(shape) == len(strides) <= MAX_AXES:
        raise RefusedPickleError("a tensor without a storage, or of too many axes")
    numbers = (offset, *shape, *strides)
    if any(type(n) is not int or abs(n) > MAX_VALUES for n in numbers):
        raise RefusedPickleError("a tensor whose sizes are not numbers, or are too large")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    count = math.prod(shape)
    if min(numbers) < 0 or (count and last >= storage.size) or count > storage.size:
        raise RefusedPickleError("a tensor that is larger than its storage")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data, *_):
    if not isinstance(data, Tensor):
        raise RefusedPickleError("a parameter that is not a tensor")
    return data


def _ordered_dict(*args) -> _Dict:
    if args:
        raise RefusedPickleError("an OrderedDict of something")
    return _Dict()


def _size(*args) -> tuple:
    return tuple(*args)


_STAND_INS = {
    ("collections", "OrderedDict"): StandIn(_ordered_dict),
    ("torch", "Size"): StandIn(_size),
    ("torch._utils", "_rebuild_tensor"): StandIn(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): StandIn(_tensor),
    ("torch._utils", "_rebuild_parameter"): StandIn(_parameter),
}


def dicts_of(content: object, depth: int = 3) -> Iterator[dict]:
    """The dicts in a checkpoint, each once, the outer ones first, down to `depth` levels."""
    seen: set[int] = set()
    level = [content]
    for _ in range(depth):
        dicts = [value for value in level if isinstance(value, dict)]
        level = []
        for one in dicts:
            if id(one) not in seen:
                seen.add(id(one))
                yield one
                level += one.values()
