"""K210 models (.kmodel): run as an `Embedder` by nncase's simulator.

nncase 1.9 is the last version for the K210 and needs Python 3.10, so it runs in k210/.venv. k210/nncase_worker.py runs
there (`facelib.runtimes.array_worker`). A face takes half a second, a process about 50 MB.
"""

import os
from dataclasses import replace
from pathlib import Path

from facelib.errors import FaceError
from facelib.files import require_file, scripts_folder
from facelib.model_input import Io
from facelib.runtimes import executors
from facelib.runtimes.array_worker import WorkerEmbedder, serve_command

K210_DIR = scripts_folder() / "k210"
VERSION = "1.9.0.20230322"
MAGIC = b"LDMK"  # the first bytes of a kmodel of version 5


class KmodelEmbedder(WorkerEmbedder):
    """An `Embedder` over nncase's simulator of the K210. `close` ends its processes.

    Args:
        path: the .kmodel file.
        io: how the model is fed.
        threads: number of processes.
    """

    executor = executors.NNCASE

    def __init__(self, path: Path, io: Io, threads: int = 1):
        path = require_file(path, "kmodel")
        with open(path, "rb") as file:
            if file.read(4) != MAGIC:
                raise FaceError(
                    f"A kmodel must begin with 'LDMK'. '{path}' does not: use the file written by "
                    "k210/tflite_2_kmodel.py."
                )
        python, script = nncase_command()
        command = serve_command(python, Path(script), "load", os.path.abspath(path))
        refused = f"nncase's simulator cannot load '{path}'. Compile the model again: k210/tflite_2_kmodel.py"
        super().__init__(path, replace(io, dtype="uint8"), command, refused, threads)


def nncase_command(*words: str) -> list[str]:
    """The command line that runs k210/nncase_worker.py with `words` in nncase's environment.

    Raises:
        FaceError: the environment does not exist.
    """
    python = K210_DIR / ".venv" / "bin" / "python"
    if not (K210_DIR / ".venv" / "ready").is_file() or not python.is_file():
        raise FaceError("nncase 1.9, which compiles for the K210, needs Python 3.10. k210/.venv is missing: make k210")
    return [str(python), str(K210_DIR / "nncase_worker.py"), *words]
