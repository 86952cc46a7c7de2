"""Writes files as torch.save does, without PyTorch: a pickle that names PyTorch's own functions, and the storages."""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from types import ModuleType
from unittest import mock

import numpy as np

KINDS = {"float32": "Float", "float16": "Half", "float64": "Double", "int64": "Long"}


class Tensor:
    """A view of a part of the memory `storage`, a NumPy array of one axis."""

    def __init__(self, storage, shape, strides=None, offset=0):
        self.storage, self.shape, self.offset = storage, tuple(shape), offset
        self.strides = strides or tuple(int(np.prod(shape[k + 1 :])) for k in range(len(shape)))

    def __reduce__(self):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (Memory(self.storage), self.offset, self.shape, self.strides, False, OrderedDict())


class Memory:
    """A storage in a pickle, which has its name only."""

    def __init__(self, values):
        self.values = values


class _Pickler(pickle.Pickler):
    def __init__(self, stream):
        super().__init__(stream, protocol=2)
        self.storages = {}

    def persistent_id(self, thing):
        if not isinstance(thing, Memory):
            return None
        key, _ = self.storages.setdefault(id(thing.values), (str(len(self.storages)), thing.values))
        kind = getattr(sys.modules["torch"], f"{KINDS[thing.values.dtype.name]}Storage")
        return "storage", kind, key, "cpu", thing.values.size


@contextmanager
def _named_as_torch():
    """PyTorch's names can be looked up, as the pickler asks; nothing of PyTorch is there."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    for kind in KINDS.values():
        setattr(torch, f"{kind}Storage", type(f"{kind}Storage", (), {"__module__": "torch"}))
    utils._rebuild_tensor_v2 = lambda *_: None
    utils._rebuild_tensor_v2.__module__, utils._rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    torch._utils = utils
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        yield


def tensors(state):
    """{name: array} -> an OrderedDict of `Tensor`s."""
    return OrderedDict((name, Tensor(np.ravel(value).copy(), np.shape(value))) for name, value in state.items())


def save_zip(path, content, change=lambda data, storages: (data, storages), compression=zipfile.ZIP_STORED):
    """The form since PyTorch 1.6; `change` may damage the pickle and the storages {key: bytes}. Returns the path."""
    stream = io.BytesIO()
    with _named_as_torch():
        pickler = _Pickler(stream)
        pickler.dump(content)
    storages = {key: values.tobytes() for key, values in pickler.storages.values()}
    data, storages = change(stream.getvalue(), storages)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("net/data.pkl", data)
        archive.writestr("net/byteorder", "little")
        for key, content in storages.items():
            archive.writestr(f"net/data/{key}", content)
        archive.writestr("net/version", "3\n")
    return path


def save_older(path, content):
    """The form before PyTorch 1.6. Returns the path."""
    with path.open("wb") as file, _named_as_torch():
        for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(head, file, protocol=2)
        pickler = _Pickler(file)
        pickler.dump(content)
        pickle.dump([key for key, _ in pickler.storages.values()], file, protocol=2)
        for _, values in pickler.storages.values():
            file.write(values.size.to_bytes(8, "little") + values.tobytes())
    return path
