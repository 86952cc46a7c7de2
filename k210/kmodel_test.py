"""Test a .kmodel in nncase's simulator of the K210, and compare its embeddings with the float model.

python k210/kmodel_test.py runs/k210/export/model.kmodel --valid lfw.bin --pairs 600

Simulating one face takes half a second. So the test uses 600 pairs of the set, always the same ones: 30 genuine and 30
impostor pairs of each fold. --far is 0.01 by default, because 300 impostor pairs cannot show 0.001. Make the report for
--against with `--pairs 600 --far 0.01` too; every test script takes these flags.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evaluate_data import make_parser, run_test
from facelib.cli import run_cli
from facelib.errors import FaceError
from facelib.files import sha256_of
from facelib.model_input import Io
from facelib.runtimes.kmodel import KmodelEmbedder
from facelib.runtimes.tflite import TfliteEmbedder
from facelib.sidecar import read_sidecar
from facelib.unit_vectors import row_cosines

NUM_PAIRS = 600
FAR = 1e-2  # 300 impostor pairs are enough for it
MIN_COSINE = 0.985


class BesideFloat(KmodelEmbedder):
    """A `KmodelEmbedder` that also runs the float .tflite it was compiled from, and compares the embeddings.

    Args:
        path: the .kmodel file.
        io: how it is fed.
        threads: number of simulators.
    """

    def __init__(self, path: Path, io: Io, threads: int = 1):
        super().__init__(path, io, threads)
        parent, io = find_parent(path), replace(io, dtype="float32", layout="nhwc")
        self.float_net = TfliteEmbedder(parent, io) if parent else None
        self._cosines: dict[int, float] = {}

    @property
    def mean_cosine(self) -> float | None:
        """Mean cosine to the float model over all distinct faces so far; None if the .tflite is missing."""
        return float(np.mean(list(self._cosines.values()))) if self._cosines else None

    @property
    def num_faces(self) -> int:
        """Number of distinct faces so far."""
        return len(self._cosines)

    def raw(self, images: np.ndarray) -> np.ndarray:
        embeddings = super().raw(images)
        if self.float_net is not None:
            cosines = row_cosines(embeddings, self.float_net.raw(images))
            self._cosines.update(zip((hash(image.tobytes()) for image in images), cosines.tolist(), strict=True))
        return embeddings


def find_parent(kmodel: Path) -> Path | None:
    """The .tflite that the sidecar names, if it is there and unchanged; else None."""
    sidecar = read_sidecar(kmodel)
    named = (sidecar.rest.get("made_from") or {}) if sidecar else {}
    path = Path(kmodel).parent / named.get("path", "")
    return path if path.is_file() and sha256_of(path) == named.get("sha256") else None


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    cosine_help = "fail if the mean cosine to the float model is lower (default: %(default)s)"
    parser.add_argument("--min-cosine", type=float, default=MIN_COSINE, metavar="COSINE", help=cosine_help)
    parser.set_defaults(pairs=NUM_PAIRS)
    args = parser.parse_args(argv)
    args.far = args.far or [FAR]
    if not -1 <= args.min_cosine <= 1:
        raise FaceError(f"A cosine is between -1 and 1. Received: --min-cosine {args.min_cosine:g}.")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    opened: list[BesideFloat] = []

    def open_embedder(path: Path, io: Io, threads: int) -> BesideFloat:
        opened.append(BesideFloat(path, io, threads))
        return opened[0]

    try:
        run_test(args, open_embedder, "kmodel")
    finally:
        for embedder in opened:
            embedder.close()
    mean = opened[0].mean_cosine
    float_net = opened[0].float_net
    if mean is None or float_net is None:
        print("no cosine to the float model: the .tflite that the sidecar names is missing or was changed")
        return 0
    print(f"mean cosine to {float_net.name} on {opened[0].num_faces} faces: {mean:.4f}")
    if mean < args.min_cosine:
        raise FaceError(
            f"A kmodel must give the embeddings of its float model: mean cosine >= {args.min_cosine:g}. Received: "
            f"{mean:.4f} for '{args.model}'. Calibrate on other or more crops: "
            f"python k210/tflite_2_kmodel.py X.tflite --calibration DATA"
        )
    return 0


if __name__ == "__main__":
    run_cli(main)
