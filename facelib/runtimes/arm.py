"""TFLite and ONNX models on an emulated ARM CPU: the project's own runtimes in QEMU, as an `Embedder`."""

import json
import os
from pathlib import Path

from facelib.errors import FaceError
from facelib.files import require_file, scripts_folder
from facelib.model_input import Io
from facelib.runtimes import executors
from facelib.runtimes.array_worker import WorkerEmbedder, environment_python, serve_command

WORKER = scripts_folder() / "arm" / "arm_worker.py"
EXECUTORS = {".tflite": executors.XNNPACK, ".onnx": executors.ONNX_RUNTIME}
# The oldest that matters, without and with dot product; all that QEMU knows: i8mm, SVE, SME.
CPUS = ("cortex-a53", "cortex-a76", "max")


class ArmEmbedder(WorkerEmbedder):
    """An `Embedder` over a model on an emulated ARM CPU. `close` ends its processes.

    Args:
        path: a .tflite or .onnx.
        io: how it is fed.
        threads: number of emulated processes.
        cpu: a CPU that QEMU knows, such as those of `CPUS`.
    """

    chunk_images = 4  # a face takes a second
    has_times = False

    def __init__(self, path: Path, io: Io, threads: int = 1, cpu: str = CPUS[0]):
        suffix = require_file(path, "model").suffix
        if suffix not in EXECUTORS:
            raise FaceError(f"The emulated ARM CPU can run only {' and '.join(EXECUTORS)} files. Received: '{path}'.")
        self.executor = executors.on_emulated(EXECUTORS[suffix], cpu)
        python = environment_python("arm", "The emulated ARM CPU")
        command = serve_command(python, WORKER, "load", os.path.abspath(path), json.dumps(io.as_dict()))
        refused = (
            f"'{path}' does not run on an emulated {cpu}. Try the model on this CPU first, or try a different --cpu"
        )
        faces = Io(dtype="uint8", embedding_size=io.embedding_size)  # the worker does the rest
        super().__init__(path, faces, ["env", f"ARM_CPU={cpu}", *command], refused, threads)

    def on_one_thread(self) -> None:
        """None: the time of an emulated CPU says nothing about a real one."""
