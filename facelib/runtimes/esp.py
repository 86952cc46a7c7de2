"""ESP-DL models (.espdl) for the ESP32-S3 and ESP32-P4: run as an `Embedder` by esp-ppq's simulator, in .venv-esp.

esp-ppq simulates a graph, not a file. So esp/ppq_worker.py reads the scales and the bits of each layer in the .espdl,
and computes the ONNX model of the same name with them and with the rounding of the chip. It refuses a file whose
integer weights are not those that it computes with. A face takes about a tenth of a second.
"""

import os
from pathlib import Path

from facelib.errors import FaceError
from facelib.files import require_file, scripts_folder
from facelib.model_input import Io
from facelib.runtimes.array_worker import WorkerEmbedder, environment_python, serve_command
from facelib.runtimes.executors import ESP_PPQ
from facelib.sidecar import check_companion

WORKER = scripts_folder() / "esp" / "ppq_worker.py"
MAGIC = b"EDL2"  # the first bytes of an .espdl


class EspdlEmbedder(WorkerEmbedder):
    """An `Embedder` over esp-ppq's simulator. `close` ends its processes.

    Args:
        path: the .espdl file; the float model is beside it.
        io: how the model is fed.
        threads: number of processes.
    """

    executor = ESP_PPQ

    def __init__(self, path: Path, io: Io, threads: int = 1):
        with open(require_file(path, "ESP-DL model"), "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise FaceError(
                    f"An .espdl must begin with '{MAGIC.decode()}'. '{path}' does not: use the file written by "
                    "esp/onnx_2_espdl.py."
                )
        onnx = check_companion(path, float_path(path), "simulated", "esp/onnx_2_espdl.py")
        command = serve_command(
            environment_python("esp", "esp-ppq"), WORKER, "load", os.path.abspath(path), os.path.abspath(onnx)
        )  # fmt: skip
        refused = f"esp-ppq cannot simulate '{path}'. Convert the model again: esp/onnx_2_espdl.py"
        super().__init__(path, io, command, refused, threads)


def float_path(espdl: Path) -> Path:
    """`X.espdl` -> `X.onnx`, the float model that the simulator computes."""
    return Path(espdl).with_suffix(".onnx")
