"""Test a .tflite on TFLite Micro's own kernels, and print the memory that it needs on a microcontroller.

python mcu/tflm_test.py runs/demo/export/model_int8.tflite --valid lfw.bin --max-arena 512 --max-flash 1024

The kernels are plain C++ and slow here, so the test uses 600 pairs of the set, always the same pairs: 30 genuine and 30
impostor pairs of each fold. The default of --far is 0.01, because 300 impostor pairs cannot show a FAR of 0.001. If you
use --against, make its report with `--pairs 600 --far 0.01` too; every test script takes these flags.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence

import numpy as np

from evaluate_data import add_reference_flags, make_parser, run_test_beside_reference
from facelib.cli import run_cli
from facelib.errors import FaceError
from facelib.evaluation.flags import default_report
from facelib.export.targets import min_cosine_of
from facelib.model_input import Io
from facelib.runtimes.tflite import KERNELS, TfliteEmbedder
from facelib.runtimes.tflm import TflmEmbedder
from facelib.unit_vectors import row_cosines

MIN_COSINE = min_cosine_of("tflm") or -1.0


class BesideXnnpack(TflmEmbedder):
    """A `TflmEmbedder` that also runs the same file on LiteRT's kernels, those of a phone or PC."""

    def __init__(self, path: Path, io: Io, threads: int = 1):
        super().__init__(path, io, threads)
        self._xnnpack, self.cosines = TfliteEmbedder(path, io, threads), np.empty(0)

    def raw(self, images: np.ndarray) -> np.ndarray:
        embeddings = super().raw(images)
        self.cosines = np.append(self.cosines, row_cosines(embeddings, self._xnnpack.raw(images)))
        return embeddings


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_reference_flags(parser, MIN_COSINE)
    add = parser.add_argument_group("memory").add_argument
    add("--max-arena", type=float, metavar="KIB", help="fail if the tensor arena needs more than this RAM, in KiB")
    add("--max-flash", type=float, metavar="KIB", help="fail if the file is larger than this, in KiB")
    args = parser.parse_args(argv)
    args.report = args.report or default_report(args, "tflm")  # beside that of tflite_test.py
    for flag, value in (("--max-arena", args.max_arena), ("--max-flash", args.max_flash)):
        if value is not None and not value > 0:
            raise FaceError(f"{flag} must be a size in KiB above 0. Received: {value:g}.")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    opened: list[BesideXnnpack] = []

    def open_tflm(path: Path, io: Io, threads: int) -> BesideXnnpack:
        opened.append(BesideXnnpack(path, io, threads))
        sizes = {name: size / 1024 for name, size in opened[0].memory.items()}
        print(
            f"arena {sizes['arena']:.1f} KiB (feature maps {sizes['arena_head']:.1f}, bookkeeping "
            f"{sizes['arena_tail']:.1f} on a 64-bit computer), flash {sizes['flash']:.1f} KiB"
        )
        for what, limit in (("arena", args.max_arena), ("flash", args.max_flash)):
            if limit is not None and sizes[what] > limit:
                raise FaceError(
                    f"'{path}' must fit into the chip's memory: {what} <= {limit:g} KiB. Received: {sizes[what]:.1f} "
                    "KiB. Lower model.width or model.input_size in the recipe (recipes/mcu_mobilefacenet.toml)."
                )
        return opened[0]

    try:
        run_test_beside_reference(args, open_tflm, "tflite")
    finally:
        for embedder in opened:
            embedder.close()
    print(f"mean cosine to {KERNELS['xnnpack']} (same file): {opened[0].cosines.mean():.4f}")
    return 0


if __name__ == "__main__":
    run_cli(main)
