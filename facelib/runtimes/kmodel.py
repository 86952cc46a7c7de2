"""K210 models (.kmodel): run as an `Embedder` by nncase's simulator.

nncase 1.9 is the last version for the K210 and needs Python 3.10, so it runs in k210/.venv. k210/nncase_worker.py runs
there; this module exchanges images and embeddings with it through pipes.
"""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import IO, cast

import numpy as np

from facelib.embedder import RuntimeEmbedder
from facelib.errors import FaceError
from facelib.files import require_file, scripts_folder
from facelib.model_input import Io

K210_DIR = scripts_folder() / "k210"
VERSION = "1.9.0.20230322"
MAGIC = b"LDMK"  # the first bytes of a kmodel of version 5


class KmodelEmbedder(RuntimeEmbedder):
    """An `Embedder` over nncase's simulator of the K210. `close` ends its processes.

    Args:
        path: the .kmodel file.
        io: how the model is fed.
        threads: number of processes.
    """

    chunk_images = 16  # the progress bar moves every few seconds

    def __init__(self, path: Path, io: Io, threads: int = 1):
        path = require_file(path, "kmodel")
        with open(path, "rb") as file:
            if file.read(4) != MAGIC:
                raise FaceError(
                    f"A kmodel begins with 'LDMK'. '{path}' does not: name the file of k210/tflite_2_kmodel.py."
                )
        super().__init__(path.name, replace(io, dtype="uint8"), threads)
        self._pool = ThreadPoolExecutor(threads)
        self._simulators: SimpleQueue[Simulator] = SimpleQueue()
        for simulator in self._pool.map(Simulator, [path] * threads):
            self._simulators.put(simulator)
        expected = (1, 3, *io.size) if io.layout == "nchw" else (1, *io.size, 3)
        if (simulator.shape, simulator.dtype) != (expected, "uint8"):
            raise FaceError(
                f"'{path}' takes {simulator.dtype} {list(simulator.shape)}, the faces come as uint8 {list(expected)}: "
                f"check --layout and --crop."
            )

    def run(self, pixels: np.ndarray) -> np.ndarray:
        return np.stack(list(self._pool.map(self._run_one, pixels)))

    def close(self) -> None:
        """Ends the simulators."""
        while not self._simulators.empty():
            self._simulators.get().close()

    def _run_one(self, image: np.ndarray) -> np.ndarray:
        simulator = self._simulators.get()
        try:
            return simulator(image)
        finally:
            self._simulators.put(simulator)


class Simulator:
    """One process of nncase's simulator: uint8 [3, H, W] -> float32 [D]. Half a second per face, about 50 MB.

    Args:
        path: the .kmodel file.

    Attributes:
        shape: tuple of int, of the input.
        dtype: name of the input's type.
    """

    def __init__(self, path: Path):
        command = nncase_command("simulate", os.path.abspath(path))
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        # The two pipes asked for above.
        self._input, self._output = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        head = self._output.readline()
        if not head:
            raise FaceError(f"nncase's simulator cannot load '{path}'. Compile it again: k210/tflite_2_kmodel.py.")
        described = json.loads(head)
        self.shape, self.dtype = tuple(described["shape"]), described["dtype"]
        self._answer = 4 * int(np.prod(described["outputs"]))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self._input.write(image.tobytes())
        self._input.flush()
        answer = self._output.read(self._answer)
        if len(answer) != self._answer:
            raise RuntimeError(f"nncase's simulator ended with code {self._process.wait()}")
        return np.frombuffer(answer, np.float32)

    def close(self) -> None:
        """Ends the process."""
        self._input.close()
        self._output.close()
        self._process.wait()


def nncase_command(*words: str) -> list[str]:
    """The command line that runs k210/nncase_worker.py with `words` in nncase's environment.

    Raises:
        FaceError: the environment does not exist.
    """
    python = K210_DIR / ".venv" / "bin" / "python"
    if not (K210_DIR / ".venv" / "ready").is_file() or not python.is_file():
        raise FaceError("nncase 1.9 compiles for the K210 and needs Python 3.10. k210/.venv is missing: make k210")
    return [str(python), str(K210_DIR / "nncase_worker.py"), *words]
