"""Weights that lie apart from their net: read from a file, and put into a net by name, order and shape."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np

from facelib.errors import FaceError, short_name
from facelib.runtimes.h5_check import check_h5


@dataclass(frozen=True)
class Stored:
    """The weights of one layer in a file.

    Attributes:
        name: of the layer.
        values: float arrays, trained ones first, as Keras 2 stores them.
    """

    name: str
    values: list[np.ndarray]

    def describe(self) -> str:
        """'conv2d' with [3, 3, 3, 64]."""
        return f"{short_name(self.name)} with {_shapes(self.values)}"


def is_weights_only(path: Path) -> bool:
    """Whether an .h5 has weights of layers and no description of the net."""
    check_h5(path)
    with _opened(path) as file:
        return "model_config" not in file.attrs and ("layer_names" in file.attrs or "layers" in file)


def read_weights(path: Path) -> list[Stored]:
    """The layers with weights in an .h5 of `model.save_weights()`, in their order.

    Raises:
        FaceError: a file of Keras 3, which names no layers, or one that is damaged.
    """
    with _opened(path) as file:
        if "layer_names" not in file.attrs:
            raise FaceError(
                f"'{path}' is a weights file of Keras 3, which numbers its layers. Load the weights where the net was "
                "built, call net.save('net.keras'), and import net.keras."
            )
        names = [name.decode() if isinstance(name, bytes) else name for name in file.attrs["layer_names"]]
        found = [Stored(str(name), _values(file[name])) for name in names]
    return [stored for stored in found if stored.values]


def read_head(path: Path, heads: Iterable[str], size: int) -> np.ndarray | None:
    """The class centres of a margin head in an .h5, float32 [C, D], several for a class one after the other.

    Args:
        path: of the .h5; of another file the answer is None.
        heads: names of the layers that are margin heads.
        size: D, of the embedding.
    """
    if not path.is_file() or not h5py.is_hdf5(path):
        return None
    with _opened(path) as file:
        groups = file.get("model_weights", file)
        for value in (value for name in heads if name in groups for value in _values(groups[name])):
            if value.ndim == 2 and value.shape[0] == size:
                return value.T
    return None


def fill(model: keras.Model, stored: list[Stored], path: Path, what: str) -> list[Stored]:
    """Puts weights into a net: those of a layer of the same name, the others in their order.

    Args:
        model: the net; it is changed.
        stored: what a file has.
        path: of the file, for errors.
        what: the net, for errors.

    Returns: what follows the weights of the net in the file, such as a margin head.

    Raises:
        FaceError: they do not fit. It says which layer, and what belongs there.
    """
    targets = [layer for layer in model.layers if layer.weights]
    by_name = {one.name: one for one in stored}
    named = {layer.name: by_name[layer.name] for layer in targets if _fits(layer, by_name.get(layer.name))}
    taken = {one.name for one in named.values()}
    rest = [one for one in stored if one.name not in taken]
    places = [layer for layer in targets if layer.name not in named]
    for number, layer in enumerate(places):
        one = rest[number] if number < len(rest) else None
        if not _fits(layer, one):
            has = f"has {one.describe()}" if one else f"ends after {len(stored)} layers with weights"
            raise FaceError(
                f"'{path}' does not match {what}: it {has}, but {short_name(layer.name)} with "
                f"{_shapes(_ordered(layer))} is expected there. Use a different structure."
            )
        named[layer.name] = rest[number]
    for layer in targets:
        for variable, value in zip(_ordered(layer), named[layer.name].values, strict=True):
            variable.assign(value.reshape(variable.shape))
    return rest[len(places) :]


def _ordered(layer) -> list:
    return layer.trainable_weights + layer.non_trainable_weights


def _fits(layer, stored: Stored | None) -> bool:
    """Whether weights have the shapes of a layer. Axes of length 1 do not count: a slope is [1, 1, C] or [C]."""
    if stored is None or len(stored.values) != len(layer.weights):
        return False
    return all(
        _squeezed(value) == _squeezed(variable) for value, variable in zip(stored.values, _ordered(layer), strict=True)
    )


def _squeezed(array) -> list[int]:
    return [size for size in array.shape if size != 1]


def _shapes(arrays) -> str:
    return ", ".join(str(list(array.shape)) for array in arrays) or "no weights"


def _values(group) -> list[np.ndarray]:
    return [np.asarray(group[name], np.float32) for name in group.attrs.get("weight_names", ())]


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path) as file:
            yield file
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise FaceError(f"The weights in '{path}' cannot be read ({reason}). Copy the file again.") from error
