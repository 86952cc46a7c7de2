"""Test a .tflite model, float or quantised, on verification sets, with the same table and report as evaluate_data.py.

python tflite_test.py runs/demo/export/model_int8.tflite --valid valid_dataset/

xnnpack      the kernels of phones and PCs
reference    plain C++, slow; its integers are the same as in TFLite Micro, and differ from those of XNNPACK
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
from collections.abc import Sequence
from functools import partial

from evaluate_data import make_parser, run_test
from facelib.cli import run_cli
from facelib.evaluation.flags import default_report
from facelib.runtimes.tflite import KERNELS, TfliteEmbedder


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    kernels_help = "kernels of LiteRT (default: %(default)s)"
    parser.add_argument("--kernels", choices=tuple(KERNELS), default="xnnpack", help=kernels_help)
    args = parser.parse_args(argv)
    if args.kernels == "reference":
        args.report = args.report or default_report(args, "reference")
    return run_test(args, partial(TfliteEmbedder, kernels=args.kernels), "tflite")


if __name__ == "__main__":
    run_cli(main)
