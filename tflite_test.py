"""Test a .tflite model, float or quantised, on verification sets: the table and report of evaluate_data.py.

python tflite_test.py runs/demo/export/model_int8.tflite --valid valid_dataset/
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from evaluate_data import test_main
from facelib.cli import FaceError, run_cli
from facelib.embedder import RuntimeEmbedder
from facelib.sidecar import Io
from facelib.tflite import Lite


class TfliteEmbedder(RuntimeEmbedder):
    """An `Embedder` over LiteRT: one interpreter of one thread for each of `threads`.

    Faces come one by one in these models, and a net of 5 ms a face has too little work in it to share: two
    interpreters side by side do nearly twice the faces of one with two threads.
    """

    def __init__(self, path: Path, io: Io, threads: int = 1):
        lites = [Lite(path, input=io.input, output=io.output) for _ in range(threads)]
        shape = lites[0].shape
        expected = (*io.size, 3) if io.layout == "nhwc" else (3, *io.size)
        if shape[1:] != expected:
            raise FaceError(
                f"'{path}' takes {list(shape)}, the faces come as {list(expected)}: check --crop and --layout."
            )
        io = replace(io, dtype="uint8" if lites[0].takes_pixels and io.pixels == "raw" else "float32")
        super().__init__(Path(path).name, io, threads * shape[0])
        self._batch, self._lites, self._pool = shape[0], SimpleQueue(), ThreadPoolExecutor(threads)
        for lite in lites:
            self._lites.put(lite)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        starts = range(0, len(pixels), self._batch)
        return np.concatenate(list(self._pool.map(self._run_one, (pixels[i : i + self._batch] for i in starts))))

    def _run_one(self, pixels: np.ndarray) -> np.ndarray:
        lite = self._lites.get()
        try:
            return lite(pixels)
        finally:
            self._lites.put(lite)


def main(argv: Sequence[str] | None = None) -> int:
    return test_main(argv, TfliteEmbedder, __doc__, "tflite")


if __name__ == "__main__":
    run_cli(main)
