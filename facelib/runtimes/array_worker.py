"""Runs a model in a process of another Python environment, which gets arrays and answers with arrays.

Converters and simulators have requirements of their own. So each has an environment, `.venv-NAME`, that `make NAME`
creates, and a worker script with a function that loads a model. worker_loop.py runs it there and writes a line of JSON,
{"shape", "dtype", "outputs"} and what else the script has to say, or {"error"}. Then it reads arrays of that shape and
dtype from stdin, and answers each with float32 of the shape `outputs` on stdout.
"""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, cast

import numpy as np

from facelib.child_processes import ends_with_parent
from facelib.embedder import RuntimeEmbedder
from facelib.errors import FaceError
from facelib.files import scripts_folder
from facelib.model_input import Io


def environment_python(name: str, what: str) -> str:
    """The Python of a target's environment.

    Args:
        name: of the target: NAME in `.venv-NAME` and in `make NAME`.
        what: needs it; begins a sentence.

    Raises:
        FaceError: the environment does not exist.
    """
    environment = scripts_folder() / f".venv-{name}"
    python = environment / "bin" / "python"
    if not (environment / "ready").is_file() or not python.is_file():
        raise FaceError(f"{what} needs its own Python environment. .venv-{name} is missing: make {name}")
    return str(python)


def serve_command(python: str, script: Path, function: str, *words: str) -> list[str]:
    """The command line of a worker process.

    Args:
        python: of the environment.
        script: file with the function.
        function: name of the function that loads the model; see worker_loop.py.
        words: its arguments.
    """
    return [python, "-I", str(Path(__file__).with_name("worker_loop.py")), str(script), function, *words]


def call_worker(python: str, script: Path, refused: str, *words: str) -> str:
    """Runs a worker script to its end, such as a converter; returns what it printed.

    Args:
        python: of the environment.
        script: file of the worker.
        refused: the error when it fails, a sentence; what to do may follow.
        words: the arguments of the script.

    Raises:
        FaceError: it failed; with the last line that it printed.
    """
    done = subprocess.run(
        [python, "-I", str(script), *words], capture_output=True, text=True, errors="replace",
        preexec_fn=ends_with_parent(),
    )  # fmt: skip
    if done.returncode:
        printed = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise FaceError(f"{refused.rstrip('.')} ({printed.splitlines()[-1][:200]}).")
    return done.stdout


class ArrayWorker:
    """A worker process as a function of one array.

    Args:
        command: of `serve_command`.
        refused: the error when it cannot load the model, a sentence; what to do.

    Attributes:
        head: what its first line says.
        shape: tuple of int, of the array that it takes.
        dtype: name of its type.
    """

    def __init__(self, command: list[str], refused: str):
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        # The two pipes asked for above.
        self._input, self._output = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        line = self._output.readline()
        self.head: dict[str, Any] = json.loads(line) if line else {"error": "no answer"}
        if "error" in self.head:
            self.close()
            reason = f" ({self.head['error']})" if line else ""
            raise FaceError(f"{refused.rstrip('.')}{reason}.")
        self.shape, self.dtype = tuple(self.head["shape"]), self.head["dtype"]
        self._answer = 4 * int(np.prod(self.head["outputs"]))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Array of `shape` and `dtype` -> float32, flat."""
        self._input.write(np.ascontiguousarray(values, self.dtype).tobytes())
        self._input.flush()
        answer = self._output.read(self._answer)
        if len(answer) != self._answer:
            raise RuntimeError(f"the worker ended with code {self._process.wait()}")
        return np.frombuffer(answer, np.float32)

    def close(self) -> None:
        """Ends the process."""
        self._input.close()
        self._output.close()
        self._process.wait()


class WorkerEmbedder(RuntimeEmbedder):
    """An `Embedder` over worker processes, one for each thread. `close` ends them.

    Args:
        path: the artefact, for its name and for errors.
        io: how it is fed.
        command: of a worker.
        refused: the error when a worker cannot load the artefact; see `ArrayWorker`.
        threads: number of processes.
        takes: type of the workers' arrays; default: `io.dtype`.

    Attributes:
        head: what the workers said of the model.
    """

    chunk_images = 16  # the progress bar moves every few seconds

    def __init__(
        self, path: Path, io: Io, command: list[str], refused: str, threads: int = 1, takes: str | None = None
    ):
        super().__init__(path.name, io, threads)
        self._pool = ThreadPoolExecutor(threads)
        self._workers: SimpleQueue[ArrayWorker] = SimpleQueue()
        for worker in self._pool.map(lambda _: ArrayWorker(command, refused), range(threads)):
            self._workers.put(worker)
        self.head = worker.head
        takes = takes or io.dtype
        face = (3, *io.size) if io.layout == "nchw" else (*io.size, 3)
        if worker.shape != (1, *face) or worker.dtype != takes:
            self.close()
            raise FaceError(
                f"'{path}' needs {worker.dtype} {list(worker.shape)}, but the faces have {takes} {[1, *face]}: check "
                "--layout and --crop."
            )

    def run(self, pixels: np.ndarray) -> np.ndarray:
        return np.stack(list(self._pool.map(self._run_one, pixels)))

    def close(self) -> None:
        """Ends the workers."""
        while not self._workers.empty():
            self._workers.get().close()

    def _run_one(self, image: np.ndarray) -> np.ndarray:
        worker = self._workers.get()
        try:
            return worker(image[None])
        finally:
            self._workers.put(worker)
