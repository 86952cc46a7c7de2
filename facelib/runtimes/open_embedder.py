"""An `Embedder` for each runtime, and the one for any artefact. Names TensorFlow, LiteRT and ONNX Runtime."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from facelib.embedder import RuntimeEmbedder
from facelib.errors import FaceError
from facelib.files import require_file
from facelib.model_input import Io
from facelib.runtimes.kmodel import KmodelEmbedder
from facelib.tensorflow_env import quiet_tensorflow

BATCH_SIZE = 64


def open_embedder(path: Path, io: Io, threads: int) -> RuntimeEmbedder:
    """The artefact at `path` as an `Embedder`, by its suffix: .h5, .pb, .tflite, .onnx or .kmodel.

    Args:
        io: how it is fed.   threads: of the runtime.

    Raises:
        FaceError: another suffix, no such file, or a file that its runtime refuses.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _OPENERS:
        raise FaceError(f"A model is a {', '.join(_OPENERS)} file. Received: '{path}'.")
    return _OPENERS[suffix](path, io, threads)


class KerasEmbedder(RuntimeEmbedder):
    """An `Embedder` over a Keras model: float32 pixels [N, 112, 112, 3] as `io` says -> float32 [N, D].

    Args:
        model: a Keras model, or the path of an .h5. A live model is used as it is at each call, so one embedder
            serves all epochs of a training without being compiled again.
        io: how it is fed; our own models take raw RGB pixels.
        threads: TensorFlow threads; only the first model of a process can set it.
    """

    def __init__(self, model, io: Io | None = None, *, batch_size: int = BATCH_SIZE, threads: int | None = None):
        import tensorflow as tf

        if threads is not None:
            _set_tensorflow_threads(threads)
        from facelib.runtimes.keras_h5 import load_model

        self.model = load_model(Path(model)) if isinstance(model, str | os.PathLike) else model
        inputs = self.model.inputs
        if len(inputs) != 1 or len(self.model.outputs) != 1:
            raise FaceError(
                f"An embedder has one input and one output. '{self.model.name}' has {len(inputs)} and "
                f"{len(self.model.outputs)}: name the embedder.h5 of the run, which has no training head."
            )
        super().__init__(self.model.name, io or Io(), batch_size)
        spec = tf.TensorSpec(inputs[0].shape, tf.float32)  # any number of faces: traced once
        self._call = tf.function(lambda pixels: self.model(pixels, training=False), input_signature=[spec])

    def run(self, pixels: np.ndarray) -> np.ndarray:
        try:
            return self._call(np.asarray(pixels, np.float32)).numpy()
        except (TypeError, ValueError) as error:
            shape = tuple(self.model.inputs[0].shape)
            if shape[1:] == pixels.shape[1:]:
                raise
            raise FaceError(
                f"The model takes {shape}, the faces come as {pixels.shape}: check --crop and --layout."
            ) from error


def open_keras(path: Path, io: Io, threads: int) -> KerasEmbedder:
    """The .h5 at `path`, without TensorFlow's chatter."""
    quiet_tensorflow()
    return KerasEmbedder(path, io, threads=threads)


class GraphEmbedder(RuntimeEmbedder):
    """An `Embedder` over a frozen TensorFlow graph."""

    def __init__(self, path: Path, io: Io, threads: int | None = None, batch_size: int = BATCH_SIZE):
        from facelib.runtimes.frozen_graph import open_frozen

        quiet_tensorflow()
        super().__init__(Path(path).name, io, batch_size)
        self.run = open_frozen(path, io.input, io.output, threads)


class TfliteEmbedder(RuntimeEmbedder):
    """An `Embedder` over LiteRT: one interpreter of one thread for each of `threads`.

    Faces come one by one in these models, and a net of 5 ms a face has too little work in it to share: two
    interpreters side by side do nearly twice the faces of one with two threads.
    """

    def __init__(self, path: Path, io: Io, threads: int = 1):
        from facelib.runtimes.tflite import Lite

        lites = [Lite(path, input=io.input, output=io.output) for _ in range(threads)]
        shape = lites[0].shape
        expected = (*io.size, 3) if io.layout == "nhwc" else (3, *io.size)
        if shape[1:] != expected:
            raise FaceError(
                f"'{path}' takes {list(shape)}, the faces come as {list(expected)}: check --crop and --layout."
            )
        io = replace(io, dtype="uint8" if lites[0].takes_pixels and io.pixels == "raw" else "float32")
        super().__init__(Path(path).name, io, threads * shape[0], unit=shape[0])
        self._batch, self._lites, self._pool = shape[0], SimpleQueue(), ThreadPoolExecutor(threads)
        for lite in lites:
            self._lites.put(lite)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        starts = range(0, len(pixels), self._batch)
        return np.concatenate(list(self._pool.map(self._run_one, (pixels[i : i + self._batch] for i in starts))))

    def _run_one(self, pixels: np.ndarray) -> np.ndarray:
        lite = self._lites.get()
        try:
            return lite(pixels)
        finally:
            self._lites.put(lite)


class OnnxEmbedder(RuntimeEmbedder):
    """An `Embedder` over ONNX Runtime. The only input and output of a model need no name."""

    def __init__(self, path: Path, io: Io, threads: int = 1, batch_size: int = BATCH_SIZE):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors; exporters' leftovers are no news to the user
        require_file(path, "ONNX model")
        try:
            session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # those of onnxruntime share no public base class
            if type(error).__module__.partition(".")[0] != "onnxruntime":
                raise
            raise FaceError(
                f"ONNX Runtime cannot load '{path}' ({_one_line(error)}). Make or copy it again."
            ) from error
        source = _pick(session.get_inputs(), io.input, path, "input")
        self._session, self._input = session, source.name
        self._output = _pick(session.get_outputs(), io.output, path, "output").name
        fixed = source.shape[0] if isinstance(source.shape[0], int) else None
        super().__init__(Path(path).name, replace(io, dtype="float32"), fixed or batch_size, unit=fixed or 1)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        try:
            return self._session.run([self._output], {self._input: pixels})[0]
        except Exception as error:
            if not _is_onnx_error(error):
                raise
            raise FaceError(
                f"'{self.name}' cannot take {list(pixels.shape)} ({_one_line(error)}). Check --crop and --layout."
            ) from error


def _pick(tensors: list, wanted: str, path: Path, what: str):
    """The tensor called `wanted`, or the only one there is."""
    for tensor in tensors:
        if tensor.name == wanted or len(tensors) == 1:
            return tensor
    names = ", ".join(tensor.name for tensor in tensors)
    raise FaceError(f"'{path}' has no {what} '{wanted}' but {names}. Use --{what} NAME.")


def _is_onnx_error(error: Exception) -> bool:
    return type(error).__module__.startswith("onnxruntime")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _set_tensorflow_threads(threads: int) -> None:
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # TensorFlow runs already, with the threads it was given first
        return


_OPENERS: dict[str, Callable[[Path, Io, int], RuntimeEmbedder]] = {
    ".h5": open_keras,
    ".pb": GraphEmbedder,
    ".tflite": TfliteEmbedder,
    ".onnx": OnnxEmbedder,
    ".kmodel": KmodelEmbedder,
}
