"""ONNX models (.onnx): run as an `Embedder` by ONNX Runtime."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from facelib.cli import print_notes
from facelib.embedder import BATCH_SIZE, RuntimeEmbedder
from facelib.errors import FaceError, short_name
from facelib.files import require_file
from facelib.model_input import Io
from facelib.runtimes import executors

MAX_LISTED = 5

# Types of an input that pixels can take, as ONNX Runtime names them -> the NumPy dtype.
_DTYPES = {"float": "float32", "float16": "float16", "double": "float64", "uint8": "uint8"}


class OnnxEmbedder(RuntimeEmbedder):
    """An `Embedder` over ONNX Runtime on the CPU.

    Args:
        path: the .onnx file.
        io: how the model is fed. The names of its only input and only output are not needed, its dtype is the model's.
        threads: of ONNX Runtime.
        batch_size: most images in one call; a fixed batch in the model takes precedence.
        model: the content of a model that was made from the file at `path`.
    """

    executor = executors.ONNX_RUNTIME

    def __init__(
        self, path: Path, io: Io, threads: int = 1, batch_size: int = BATCH_SIZE, *, model: bytes | None = None
    ):
        import onnxruntime

        self._reopen = None if threads == 1 else lambda: OnnxEmbedder(path, io, 1, batch_size, model=model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # what is wrong is in the exception
        require_file(path, "ONNX model")
        try:
            session = onnxruntime.InferenceSession(
                model or os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            if not _is_onnx_error(error) and not isinstance(error, UnicodeDecodeError):  # of a damaged name
                raise
            raise FaceError(
                f"ONNX Runtime cannot load '{path}' ({_one_line(error)}). Make the file again, or copy it again."
            ) from error
        source = _find_tensor(session.get_inputs(), io.input, path, "input")
        self._session, self._input, self._is_single = session, source.name, False
        self._output = _find_tensor(session.get_outputs(), io.output, path, "output").name
        kind = source.type.removeprefix("tensor(").removesuffix(")")
        if kind not in _DTYPES:
            raise FaceError(
                f"The input of an embedder must be {', '.join(_DTYPES)}. {short_name(source.name)} of '{path}' is "
                f"{kind}."
            )
        if not source.shape:
            raise FaceError(
                f"The input of an embedder must have 4 axes. {short_name(source.name)} of '{path}' is one number."
            )
        fixed = source.shape[0] if isinstance(source.shape[0], int) else None
        super().__init__(Path(path).name, replace(io, dtype=_DTYPES[kind]), fixed or batch_size, unit=fixed or 1)

    def on_one_thread(self) -> "OnnxEmbedder":
        return self._reopen() if self._reopen else self

    def run(self, pixels: np.ndarray) -> np.ndarray:
        if self.unit > 1 or len(pixels) == 1:
            return self._run(pixels)
        if not self._is_single:
            try:
                output = self._run(pixels)
                if len(output) == len(pixels):
                    return output
            except FaceError:
                self._run(pixels[:1])  # if that fails too, its error is said
        rows = np.concatenate([self._run(face[None]) for face in pixels])
        if not self._is_single:
            print_notes(
                [f"'{self.name}' declares a free batch size but can run only one face, so the faces are run one by one"]
            )
        self._is_single = True
        return rows

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        try:
            return self._session.run([self._output], {self._input: pixels})[0]
        except Exception as error:
            if not _is_onnx_error(error):
                raise
            raise FaceError(
                f"'{self.name}' cannot process {list(pixels.shape)} ({_one_line(error)}). Check --crop and --layout."
            ) from error


def _find_tensor(tensors: list, name: str, path: Path, what: str):
    """The input or output called `name`, or the only one."""
    for tensor in tensors:
        if tensor.name == name or len(tensors) == 1:
            return tensor
    names = ", ".join(short_name(tensor.name)[1:-1] for tensor in tensors[:MAX_LISTED])
    raise FaceError(f"'{path}' has no {what} {short_name(name)}. It has {names}. Use --{what} NAME.")


def _is_onnx_error(error: Exception) -> bool:
    """Whether ONNX Runtime raised it: its exceptions have no public base class."""
    return type(error).__module__.partition(".")[0] == "onnxruntime"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
