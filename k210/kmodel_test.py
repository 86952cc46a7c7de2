"""Test a .kmodel in nncase's simulator of the K210, and compare its embeddings with those of the float model.

python k210/kmodel_test.py runs/k210/export/model.kmodel --valid lfw.bin --pairs 600

Simulating one face takes half a second. So the test uses 600 pairs of the set, always the same pairs: 30 genuine and 30
impostor pairs of each fold. The default of --far is 0.01, because 300 impostor pairs cannot show a FAR of 0.001. If you
use --against, make its report with `--pairs 600 --far 0.01` too; every test script takes these flags.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
from collections.abc import Sequence

from evaluate_data import add_reference_flags, make_parser, run_test_beside_reference
from facelib.cli import run_cli
from facelib.export.targets import min_cosine_of
from facelib.runtimes.kmodel import KmodelEmbedder

MIN_COSINE = min_cosine_of("kmodel") or -1.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add_reference_flags(parser, MIN_COSINE)
    return run_test_beside_reference(parser.parse_args(argv), KmodelEmbedder, "kmodel")


if __name__ == "__main__":
    run_cli(main)
