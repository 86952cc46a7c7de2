"""The kinds of files that can be imported: how each is recognised, by content, and the reader of each."""

from collections.abc import Callable
from pathlib import Path

from facelib.errors import FaceError
from facelib.files import require_file
from facelib.importing.from_keras import read_h5, read_zip
from facelib.importing.from_onnx import read as read_onnx
from facelib.importing.from_pb import read as read_pb
from facelib.importing.from_saved_model import read as read_saved_model
from facelib.importing.from_torch import read as read_torch
from facelib.importing.job import Imported, Job

# The roads of files that hold a model which cannot be read here.
_ROADS = {
    "tflite": "A .tflite cannot be imported, because its weights may be rounded. Test it with tflite_test.py, and "
    "import the file from which it was made",
    "mxnet": "This is an MXNet file: export it to ONNX with MXNet (mx2onnx.export_model), and import the .onnx",
}


def find_kind(path: Path) -> str:
    """The kind of a file or folder, by its content: a key of `READERS`.

    Raises:
        FaceError: nothing there, or no model that can be imported.
    """
    path = Path(path)
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return "saved_model"
    with require_file(path, "model").open("rb") as file:
        head = file.read(64)
    kind = _find_by_head(path, head)
    if kind is None or kind in _ROADS:
        road = _ROADS.get(kind or "", f"Received: a file that begins with {head[:8]!r}")
        raise FaceError(f"A model to import must be {NAMED}. '{path}' is none of these. {road}.")
    return kind


def _find_by_head(path: Path, head: bytes) -> str | None:
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras_h5"
    if head.startswith(b"PK\x03\x04"):
        return _find_in_zip(path)
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(b"\x12\x01\x00\x00\x00\x00\x00\x00"):
        return "mxnet"
    if head.startswith(b"\x0a"):  # GraphDef: field 1 is a node
        return "frozen_pb"
    if head.startswith(b"\x80\x02"):  # a pickle: torch.save before PyTorch 1.6
        return "torch"
    if head.startswith(b"\x08") or path.suffix.lower() == ".onnx":  # ModelProto: field 1 is a version
        return "onnx"
    return None


def _find_in_zip(path: Path) -> str | None:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).name for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise FaceError(f"'{path}' is damaged ({error}). Copy the file again.") from error
    if {"config.json", "model.weights.h5"} <= names:
        return "keras_zip"
    return "torch" if "data.pkl" in names else None


def read(job: Job) -> Imported:
    """Reads the file of a job with the reader of its kind.

    Raises:
        FaceError: no model that can be imported, or one that its reader cannot rebuild.
    """
    kind = find_kind(job.path)
    if kind not in READERS:
        raise FaceError(f"A model to import must be {NAMED}. '{job.path}' is a {kind}, which cannot be read here.")
    return READERS[kind](job)


# A module a kind. None of them imports a slow library before it reads.
READERS: dict[str, Callable[[Job], Imported]] = {
    "onnx": read_onnx,
    "keras_h5": read_h5,
    "keras_zip": read_zip,
    "torch": read_torch,
    "saved_model": read_saved_model,
    "frozen_pb": read_pb,
}
# What the readers read, for messages.
NAMED = "an .onnx, an .h5, .keras or SavedModel of Keras, a frozen .pb, or a .pt of InsightFace's nets"
