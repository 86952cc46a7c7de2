"""Models for Rockchip's NPUs (.rknn): run as an `Embedder` by the simulator of RKNN-Toolkit2, in .venv-rknn.

The simulator cannot read a .rknn. It gets what the .rknn was compiled from: `X.rknn.simulator.zip`, beside `X.rknn`.
"""

import os
from dataclasses import replace
from pathlib import Path

from facelib.errors import FaceError
from facelib.files import require_file, scripts_folder
from facelib.model_input import Io
from facelib.runtimes import executors
from facelib.runtimes.array_worker import WorkerEmbedder, environment_python, serve_command
from facelib.sidecar import check_companion

WORKER = scripts_folder() / "rknn" / "rknn_worker.py"
MAGIC = b"RKNN"  # the first bytes of a .rknn


class RknnEmbedder(WorkerEmbedder):
    """An `Embedder` over the simulator. `close` ends its processes, which take a few seconds to start.

    Args:
        path: the .rknn file; what the simulator needs is beside it.
        io: how the model is fed.
        threads: number of processes.
    """

    executor = executors.RKNN

    def __init__(self, path: Path, io: Io, threads: int = 1):
        with open(require_file(path, "RKNN model"), "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise FaceError(
                    f"A .rknn must begin with '{MAGIC.decode()}'. '{path}' does not: use the file written by "
                    "rknn/onnx_2_rknn.py."
                )
        again = "rknn/onnx_2_rknn.py"
        simulator = check_companion(path, simulator_path(path), "simulator", again)
        python = environment_python("rknn", "RKNN-Toolkit2")
        command = serve_command(python, WORKER, "load", os.path.abspath(simulator))
        refused = f"RKNN-Toolkit2 cannot simulate '{path}'. Convert the model again: {again}"
        super().__init__(path, replace(io, dtype="uint8"), command, refused, threads)


def simulator_path(rknn: Path) -> Path:
    """`X.rknn` -> `X.rknn.simulator.zip`."""
    return Path(rknn).with_name(Path(rknn).name + ".simulator.zip")
