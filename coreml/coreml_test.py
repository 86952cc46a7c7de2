"""Run the operations of a Core ML model in NumPy, and compare its embeddings with those of the ONNX model.

python coreml/coreml_test.py runs/demo/export/model_fp16.mlpackage.zip --valid lfw.bin

The table, the report and the gate are the same as in every test script. Core ML runs on Apple's systems only, so this
test checks the weights and operations in the file, but not the results on a phone. NumPy is slow, so the test uses 600
pairs of the set, always the same pairs: 30 genuine and 30 impostor pairs of each fold. The default of --far is 0.01,
because 300 impostor pairs cannot show a FAR of 0.001. If you use --against, make its report with `--pairs 600 --far
0.01` too.
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
from facelib.runtimes.coreml import CoremlEmbedder


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add_reference_flags(parser, min_cosine_of("coreml_int8") or 0)
    return run_test_beside_reference(parser.parse_args(argv), CoremlEmbedder, "coreml")


if __name__ == "__main__":
    run_cli(main)
