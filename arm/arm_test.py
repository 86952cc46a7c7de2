"""Test a .tflite or .onnx model on an emulated ARM CPU, and compare its embeddings with those of this computer.

python arm/arm_test.py runs/demo/export/model_int8.tflite --cpu cortex-a53 --valid lfw.bin

The table, the report and the gate are the same as in every test script. The reference is the same file on this
computer. The last line says how many embeddings are the same on both CPUs, bit for bit. The script measures no times:
on QEMU they would not be those of a real CPU.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
from collections.abc import Sequence
from functools import partial

from evaluate_data import add_reference_flags, make_parser, run_test_beside_reference
from facelib.cli import run_cli
from facelib.evaluation.flags import default_report
from facelib.runtimes.arm import CPUS, ArmEmbedder


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    cpu_help = f"CPU to emulate: {', '.join(CPUS)}, or any other CPU of QEMU (default: %(default)s)"
    parser.add_argument("--cpu", default=CPUS[0], help=cpu_help)
    add_reference_flags(parser, 0.9998)
    args = parser.parse_args(argv)
    args.report = args.report or default_report(args, args.cpu)
    args.reference = args.reference or args.model
    return run_test_beside_reference(args, partial(ArmEmbedder, cpu=args.cpu), args.model.suffix[1:])


if __name__ == "__main__":
    run_cli(main)
