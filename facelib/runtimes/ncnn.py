"""ncnn models (.param, with the weights in .bin): run as an `Embedder` by ncnn on this CPU, in .venv-ncnn."""

import json
import os
from pathlib import Path

from facelib.errors import FaceError
from facelib.files import require_file, scripts_folder
from facelib.model_input import Io
from facelib.runtimes import executors
from facelib.runtimes.array_worker import WorkerEmbedder, environment_python, serve_command
from facelib.sidecar import check_companion

WORKER = scripts_folder() / "ncnn" / "ncnn_worker.py"
MAGIC = b"7767517"  # the first line of a .param
INPUT, OUTPUT = "in0", "out0"  # as pnnx names the blobs


class NcnnEmbedder(WorkerEmbedder):
    """An `Embedder` over ncnn. `close` ends its processes.

    Args:
        path: the .param file; the weights are beside it.
        io: how the model is fed.
        threads: number of processes.

    Attributes:
        size_bytes: of both files.
    """

    executor = executors.NCNN

    def __init__(self, path: Path, io: Io, threads: int = 1):
        with open(require_file(path, "ncnn model"), "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise FaceError(
                    f"An ncnn .param must begin with {MAGIC.decode()}. '{path}' does not: use the file written by "
                    "ncnn/onnx_2_ncnn.py."
                )
        weights = check_companion(path, weights_path(path), "weights", "ncnn/onnx_2_ncnn.py")
        self.size_bytes = path.stat().st_size + weights.stat().st_size
        shape = [1, 3, *io.size] if io.layout == "nchw" else [1, *io.size, 3]
        command = serve_command(
            environment_python("ncnn", "ncnn"), WORKER, "load", os.path.abspath(path), os.path.abspath(weights),
            io.input, io.output, json.dumps(shape),
        )  # fmt: skip
        refused = (
            f"ncnn cannot load '{path}'. Convert the model again: ncnn/onnx_2_ncnn.py, or check --input and --output"
        )
        super().__init__(path, io, command, refused, threads)


def weights_path(param: Path) -> Path:
    """`X.param` -> `X.bin`."""
    return Path(param).with_suffix(".bin")
