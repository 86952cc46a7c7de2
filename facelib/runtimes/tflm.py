"""TFLite Micro: a .tflite run as an `Embedder` by the kernels of microcontrollers, in .venv-mcu.

The Python package of TFLite Micro has its reference kernels, compiled for this computer. mcu/tflm_worker.py runs there.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from facelib.files import scripts_folder
from facelib.model_input import Io
from facelib.runtimes import executors
from facelib.runtimes.array_worker import WorkerEmbedder, environment_python, serve_command
from facelib.runtimes.tflite import Lite

WORKER = scripts_folder() / "mcu" / "tflm_worker.py"


class TflmEmbedder(WorkerEmbedder):
    """An `Embedder` over TFLite Micro's interpreter. `close` ends its processes.

    Args:
        path: the .tflite file, of batch 1.
        io: how the model is fed.
        threads: number of processes.

    Attributes:
        memory: {'arena', 'arena_head', 'arena_tail', 'flash'}: bytes. The head of the arena holds the feature maps, the
            tail what the interpreter keeps for each tensor and layer; flash is the file.
    """

    executor = executors.TFLITE_MICRO

    def __init__(self, path: Path, io: Io, threads: int = 1):
        python = environment_python("mcu", "TFLite Micro")
        self._lite = Lite(path, input=io.input, output=io.output)  # checks the file, and knows its edges
        dtype = "uint8" if self._lite.takes_pixels and io.pixels == "raw" else "float32"
        command = serve_command(python, WORKER, "load", os.path.abspath(path))
        refused = f"TFLite Micro cannot run '{path}'. Convert the model with pb_2_tflite.py --mode int8"
        super().__init__(path, replace(io, dtype=dtype), command, refused, threads, takes=self._lite.dtype.name)
        arena = self.head["arena"]
        self.memory = {
            "arena": arena["total"],
            "arena_head": arena["head"],
            "arena_tail": arena["tail"],
            "flash": path.stat().st_size,
        }

    def run(self, pixels: np.ndarray) -> np.ndarray:
        return self._lite.dequantise(super().run(self._lite.quantise(pixels)))
