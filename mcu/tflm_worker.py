"""The worker that runs TFLite Micro in .venv-mcu. Not a script for users; facelib/runtimes/worker_loop.py runs it."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ARENA_BYTES = 64 * 2**20  # more than any chip has; the need is measured


def load(path: str):
    """A .tflite as (what the first line says, the model as a function of its input tensor)."""
    from tflite_micro import runtime

    with captured_stderr() as said:
        try:
            interpreter = runtime.Interpreter.from_bytes(Path(path).read_bytes(), arena_size=ARENA_BYTES)
            source, target = interpreter.get_input_details(0), interpreter.get_output_details(0)
            shape, dtype = [int(side) for side in source["shape"]], np.dtype(source["dtype"])
            interpreter.set_input(np.zeros(shape, dtype), 0)
            interpreter.invoke()
        except Exception as error:  # of a kernel that is missing, say, TFLite Micro writes the reason to stderr
            raise RuntimeError(f"{said().strip().splitlines()[:1]} {error}") from error
        interpreter.print_allocations()
        arena = re.findall(r"Arena allocation (\w+) (\d+) bytes", said())

    def run(values: np.ndarray) -> np.ndarray:
        interpreter.set_input(values, 0)
        interpreter.invoke()
        return interpreter.get_output(0)

    head = {
        "shape": shape,
        "dtype": dtype.name,
        "outputs": [int(side) for side in target["shape"]],
        "arena": {name: int(size) for name, size in arena},
    }
    return head, run


@contextlib.contextmanager
def captured_stderr() -> Iterator:
    """A context that collects what C++ writes to file descriptor 2; yields a function that returns it so far."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: os.pread(file.fileno(), 2**20, 0).decode(errors="replace")
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
