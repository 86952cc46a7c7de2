"""Test an ncnn model on this CPU, and compare its embeddings with those of the ONNX model.

python ncnn/ncnn_test.py runs/demo/export/model_fp16.param --valid lfw.bin

The table, the report and the gate are the same as in every test script. In this test, ncnn always computes in float32,
whatever the type of the stored weights. A phone's CPU may compute in half precision.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
from collections.abc import Sequence

from evaluate_data import add_reference_flags, make_parser, run_test_beside_reference
from facelib.cli import DEFAULT_FARS, run_cli
from facelib.export.targets import min_cosine_of
from facelib.runtimes.ncnn import NcnnEmbedder


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add_reference_flags(parser, min_cosine_of("ncnn_fp16") or 0)
    parser.set_defaults(pairs=None)  # a face takes milliseconds
    args = parser.parse_args(argv)
    args.far = args.far or list(DEFAULT_FARS)
    return run_test_beside_reference(args, NcnnEmbedder, "ncnn")


if __name__ == "__main__":
    run_cli(main)
