"""Keras models (.h5): run as an `Embedder`, written, and read for inference."""

import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from facelib.embedder import BATCH_SIZE, RuntimeEmbedder
from facelib.errors import FaceError, short_name
from facelib.files import require_file, write_bytes
from facelib.model_input import Io
from facelib.runtimes import executors
from facelib.runtimes.declared_size import check_declared
from facelib.runtimes.h5_check import check_h5, is_vouched
from facelib.tensorflow_env import num_lanes, quiet_tensorflow, set_threads

# What h5py and Keras raise for a file that is no model.
UNREADABLE = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, AssertionError,
               NotImplementedError)  # fmt: skip


class KerasEmbedder(RuntimeEmbedder):
    """An `Embedder` over a Keras model: float32 pixels [N, 112, 112, 3] as `io` says -> float32 [N, D].

    Args:
        model: a Keras model, or the path of an .h5. A model object is called with its current weights, so one
            embedder serves all epochs of a training and is traced once.
        io: how the model is fed; None = raw RGB pixels, as the models of this project take them.
        batch_size: most images in one call.
        threads: TensorFlow threads; only the first model of a process can set them.
    """

    executor = executors.KERAS

    def __init__(self, model, io: Io | None = None, *, batch_size: int = BATCH_SIZE, threads: int | None = None):
        import tensorflow as tf

        self._threads = threads
        if threads is not None:
            set_threads(threads)
        self.model = load_model(Path(model)) if isinstance(model, str | os.PathLike) else model
        _check_one_in_one_out(self.model, self.model.name)
        super().__init__(self.model.name, io or Io(), batch_size)
        spec = tf.TensorSpec(self.model.inputs[0].shape, tf.float32)  # any number of faces: traced once
        self._lanes = num_lanes()
        self._whole, self._in_lanes = (
            tf.function(call, input_signature=[spec], autograph=False) for call in (self._embed, self._embed_in_lanes)
        )

    def on_one_thread(self) -> "KerasEmbedder | None":
        return self if self._threads == 1 else None  # TensorFlow's threads are those of the process

    def _embed(self, pixels):
        return self.model(pixels, training=False)

    def _embed_in_lanes(self, pixels):
        """A share of the faces in each lane of this process, because there an operation has one core and not all."""
        import tensorflow as tf

        num_faces = tf.shape(pixels)[0]
        bounds = [tf.math.floordiv(k * num_faces, self._lanes) for k in range(self._lanes + 1)]
        return tf.concat([self._embed(pixels[first:last]) for first, last in itertools.pairwise(bounds)], 0)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        # A share without a face would end in an error: oneDNN's convolutions of no image have the wrong shape.
        call = self._in_lanes if 1 < self._lanes <= len(pixels) else self._whole
        try:
            return call(np.asarray(pixels, np.float32)).numpy()
        except (TypeError, ValueError) as error:
            shape = tuple(self.model.inputs[0].shape)
            if shape[1:] == pixels.shape[1:]:
                raise
            raise FaceError(
                f"The model needs {shape}, but the faces have {pixels.shape}: check --crop and --layout."
            ) from error


def open_keras(path: Path, io: Io, threads: int) -> KerasEmbedder:
    """The .h5 at `path`, with TensorFlow's start-up messages suppressed."""
    quiet_tensorflow()
    return KerasEmbedder(path, io, threads=threads)


def load_model(path: Path):
    """Reads a Keras model for inference. Our layers are found by their registered names; no code in the file is run.

    An epoch-NNN.h5 also holds the training head with the class centres. The embedder in it is returned.

    Raises:
        FaceError: no such file, or one that Keras cannot read.
    """
    import keras

    model, _ = load_with_heads(path)
    names = [layer.name for layer in model.layers]
    if len(model.inputs) == 2 and "embeddings" in names:
        return keras.Model(model.inputs[0], model.get_layer("embeddings").output, name=path.stem)
    return model


def load_with_heads(path: Path) -> tuple[Any, dict[str, str]]:
    """Reads a Keras model for inference, with the margin head of another system's training model replaced.

    Returns:
        (the model, {name of a `CutHead` in it: class of the margin head that it was}).

    Raises:
        FaceError: no such file, or one that Keras cannot read.
    """
    import keras
    import tensorflow as tf

    import facelib.losses.adaptive_margins
    import facelib.models.attention
    import facelib.models.fake_quant
    import facelib.models.layers  # noqa: F401 - these register our layers with Keras

    path = require_file(path, "model")
    check_h5(path)
    try:
        with _for_keras3(path) as (copy, heads):
            model = keras.models.load_model(copy, compile=False)
    except (*UNREADABLE, MemoryError, tf.errors.OpError) as error:
        raise _not_a_model(path, error) from error
    check_weights(model, path)
    return model, heads


def check_weights(model, path: Path) -> None:
    """Refuses a model with a weight that is NaN or infinite: its training failed."""
    for variable in model.variables:
        values = np.asarray(variable.numpy())
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise FaceError(
                f"The weights of a model must be finite numbers. '{path}' has {int((~np.isfinite(values)).sum())} "
                f"weights that are not finite, in {short_name(variable.path)}: use an earlier epoch of its training."
            )


@contextmanager
def _for_keras3(path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yields a file that Keras 3 reads: `path`, or a temporary copy with the description of an older Keras renewed."""
    import h5py

    from facelib.runtimes.keras_config import parse_config, readable

    with h5py.File(path) as file:
        text = file.attrs.get("model_config")
        if text is None and ("layer_names" in file.attrs or "layers" in file):  # of Keras 2, of Keras 3
            raise FaceError(
                f"'{path}' has only weights, not the net. Import the weights together with the net: python "
                f"import_model.py {path.name} embedder.h5 --structure model.json (net.to_json() writes model.json), "
                "or use --as and the name of the net instead of --structure."
            )
        config, version = parse_config(text, path), file.attrs.get("keras_version")
    renewed, heads = readable(config, version, path)
    if not is_vouched(path):
        check_declared(lambda: from_description(renewed), path.stat().st_size, path)
    if renewed == config:
        yield path, heads
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.with_suffix(".h5").name
        copy.write_bytes(path.read_bytes())
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(renewed)
            for name in heads:
                file["model_weights"][name].attrs["weight_names"] = []  # a CutHead has none
        yield copy, heads


def from_description(config: dict):
    """A Keras model with random weights, from a description without code, as the reader of .h5 files makes it."""
    from keras.src.legacy.saving import saving_utils
    from keras.src.legacy.saving.saving_options import keras_option_scope

    with keras_option_scope(use_legacy_config=True):
        return saving_utils.model_from_config(deepcopy(config))  # Keras changes what it reads


def load_head_centres(path: Path):
    """The class centres of an epoch-NNN.h5, float32 [C * K, D]; None if the file has no head."""
    import h5py

    path, found = require_file(path, "model"), []
    check_h5(path)
    try:
        with h5py.File(path) as file:
            head = file["model_weights"].get("head")
            if head is not None:
                head.visititems(lambda name, item: found.append(np.array(item)) if name.endswith("centres") else None)
    except UNREADABLE as error:
        raise _not_a_model(path, error) from error
    return found[0] if found else None


def save_h5(model, path: Path, centres: np.ndarray | None = None) -> None:
    """Writes a Keras model as .h5, atomically. It is made in memory: on a full disk HDF5 ends the process.

    Args:
        model: the model.
        path: of the .h5.
        centres: class centres to keep beside an embedder, float32 [C * K, D]; `load_head_centres` reads them.
    """
    import h5py
    from keras.src.legacy.saving.legacy_h5_format import save_model_to_hdf5

    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        save_model_to_hdf5(model, file)
        if centres is not None:
            file["model_weights/head/centres"] = centres
        file.flush()
        image = file.id.get_file_image()
    write_bytes(path, image)


def check_model(model, path: Path) -> tuple[int, int]:
    """(height, width) in pixels of the model's RGB input.

    Raises:
        FaceError: the model is not an embedder, [N, H, W, 3] -> [N, D]. `path` names it.
    """
    _check_one_in_one_out(model, path)
    takes, gives = tuple(model.inputs[0].shape), tuple(model.outputs[0].shape)
    if len(takes) != 4 or takes[3] != 3 or None in takes[1:] or len(gives) != 2 or gives[1] is None:
        raise FaceError(f"An embedder must map [N, H, W, 3] to [N, D]. '{path}' maps {list(takes)} to {list(gives)}.")
    return takes[1:3]


def in_float32(model):
    """The model, changed so that every layer computes in float32. Mixed precision is for training on GPUs."""
    import keras

    for layer in model.layers:
        if layer.compute_dtype != "float32":
            layer.dtype_policy = keras.DTypePolicy("float32")
    return model


def _check_one_in_one_out(model, name: str | Path) -> None:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise FaceError(
            f"An embedder must have one input and one output. {short_name(name)} has {len(model.inputs)} inputs and "
            f"{len(model.outputs)} outputs: use the embedder.h5 of the run, which has no training head."
        )


def _not_a_model(path: Path, error: Exception) -> FaceError:
    reason = " ".join(str(error).split())[:200]
    return FaceError(f"'{path}' is not a Keras model that this project can read ({reason}). Train it again.")
