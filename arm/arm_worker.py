"""The worker that runs a model on an emulated ARM CPU. Not a script for users.

facelib/runtimes/worker_loop.py calls `load`, in `.venv-arm`. The model runs on the project's own runtime for .tflite or
.onnx. The model takes one face, uint8 [1, 112, 112, 3] RGB, and returns the embedding, float32 [D], not normalised.
"""

import json
import platform
import sys
from pathlib import Path

FACE = [1, 112, 112, 3]


def load(artefact: str, fed: str):
    """A model as (what the first line says, the model as a function of one face).

    Args:
        artefact: path of the .tflite or .onnx.
        fed: how it is fed, JSON of `facelib.model_input.Io`.
    """
    import numpy as np

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from facelib.model_input import Io
    from facelib.runtimes.open_embedder import open_embedder

    embedder = open_embedder(Path(artefact), Io.from_dict(json.loads(fed), "the command line"), 1)

    def run(faces):
        return embedder.raw(faces)[0]

    size = len(run(np.zeros(FACE, np.uint8)))
    return {"shape": FACE, "dtype": "uint8", "outputs": [size], "machine": platform.machine()}, run
