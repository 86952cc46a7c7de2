"""The program of a worker process: serves a model to `facelib.runtimes.array_worker`. Not a script for users.

python -I worker_loop.py SCRIPT FUNCTION WORD ...

FUNCTION of the file SCRIPT gets the words. It imports a runtime, loads a model and returns (head, run): what the first
line says, a dict with "shape", "dtype" and "outputs"; and the model as a function of one array of that shape and dtype.
It runs in the environment of a target, so this file needs Python 3.10 and NumPy, and nothing of the project.
"""

import importlib.util
import json
import os
import sys

import numpy as np


def main(script: str, function: str, *words: str) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # runtimes print greetings on stdout
    try:
        spec = importlib.util.spec_from_file_location("worker", script)
        assert spec is not None and spec.loader is not None  # a path that ends in .py
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        head, run = getattr(module, function)(*words)
    except Exception as error:
        say(answers, {"error": " ".join(str(error).split())[:300] or type(error).__name__})
        raise
    say(answers, head)
    shape, dtype = head["shape"], np.dtype(head["dtype"])
    size = int(np.prod(shape)) * dtype.itemsize
    while len(data := sys.stdin.buffer.read(size)) == size:
        values = np.frombuffer(data, dtype).reshape(shape)
        answers.write(np.ascontiguousarray(run(values), np.float32).tobytes())
        answers.flush()


def say(answers, head: dict) -> None:
    """Writes the first line."""
    answers.write(json.dumps(head).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
