"""Opens any artefact as an `Embedder`: picks the runtime by the file's suffix."""

from collections.abc import Callable
from pathlib import Path

from facelib.embedder import RuntimeEmbedder
from facelib.errors import FaceError
from facelib.extras import is_installed
from facelib.model_input import Io
from facelib.runtimes.esp import EspdlEmbedder
from facelib.runtimes.frozen_graph import GraphEmbedder
from facelib.runtimes.keras_h5 import open_keras
from facelib.runtimes.kmodel import KmodelEmbedder
from facelib.runtimes.ncnn import NcnnEmbedder
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.runtimes.rknn import RknnEmbedder
from facelib.runtimes.tflite import TfliteEmbedder


def open_embedder(path: Path, io: Io, threads: int) -> RuntimeEmbedder:
    """The artefact at `path` as an `Embedder`. Its suffix chooses the runtime: .h5, .pb, .tflite, .onnx, .kmodel,
    .param (ncnn), .rknn or .espdl.

    Args:
        path: the artefact.
        io: how it is fed.
        threads: of the runtime.

    Raises:
        FaceError: another suffix, no such file, or a file that its runtime refuses.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _OPENERS:
        raise FaceError(f"A model must be a {', '.join(_OPENERS)} file. Received: '{path}'.")
    return _OPENERS[suffix](path, io, threads)


# What a runtime imports at the first model. A worker of another environment brings its own.
_PACKAGES = {".h5": "keras", ".pb": "tensorflow", ".tflite": "ai_edge_litert", ".onnx": "onnxruntime"}


def can_open(path: Path) -> bool:
    """Whether the package that runs a file of this suffix is installed."""
    package = _PACKAGES.get(Path(path).suffix.lower())
    return package is None or is_installed(package)


_OPENERS: dict[str, Callable[[Path, Io, int], RuntimeEmbedder]] = {
    ".h5": open_keras,
    ".pb": GraphEmbedder,
    ".tflite": TfliteEmbedder,
    ".onnx": OnnxEmbedder,
    ".kmodel": KmodelEmbedder,
    ".param": NcnnEmbedder,
    ".rknn": RknnEmbedder,
    ".espdl": EspdlEmbedder,
}
