"""Core ML models (.mlpackage, zipped): the operations of the file as an `Embedder` in NumPy, in .venv-coreml.

Core ML runs on Apple's systems only. The file is read back with its weights, and each operation is computed in float32
and rounded to float16, as the program says.
"""

import os
from dataclasses import replace
from pathlib import Path

from facelib.errors import FaceError
from facelib.files import require_file, scripts_folder
from facelib.model_input import Io
from facelib.runtimes import executors
from facelib.runtimes.array_worker import WorkerEmbedder, environment_python, serve_command

WORKER = scripts_folder() / "coreml" / "coreml_worker.py"
SUFFIX = ".mlpackage.zip"
MAGIC = b"PK"  # the first bytes of a .zip
INPUT, OUTPUT = "image", "embedding"  # as an app names them


class CoremlEmbedder(WorkerEmbedder):
    """An `Embedder` over the operations of a Core ML model. `close` ends its processes.

    Args:
        path: the .mlpackage.zip.
        io: how the model is fed.
        threads: number of processes.
    """

    executor = executors.MIL_IN_NUMPY

    def __init__(self, path: Path, io: Io, threads: int = 1):
        with open(require_file(path, "Core ML model"), "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise FaceError(
                    f"A {SUFFIX} must be a zip file. '{path}' is not: use the file written by coreml/onnx_2_coreml.py."
                )
        python = environment_python("coreml", "coremltools")
        served = serve_command(python, WORKER, "load", os.path.abspath(path))
        refused = f"'{path}' cannot be read. Convert the model again: coreml/onnx_2_coreml.py"
        command = ["env", "OPENBLAS_NUM_THREADS=1", *served]  # the processes are the threads
        super().__init__(path, replace(io, dtype="uint8", layout="nhwc"), command, refused, threads)
