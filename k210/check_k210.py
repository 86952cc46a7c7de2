"""Check whether a float .tflite fits the K210, and name every layer that does not.

python k210/check_k210.py runs/k210/export/model_float.tflite

If there is an error, k210/tflite_2_kmodel.py refuses the model. A note names a layer that runs on the CPU, not on the
KPU.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence

from facelib.cli import print_next, run_cli, script_parser
from facelib.errors import FaceError
from facelib.export.k210.rules import check_ops
from facelib.runtimes.tflite import read_ops


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("model", type=Path, metavar="X.tflite", help="a float model that pb_2_tflite.py made")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    ops = read_ops(args.model)
    lint = check_ops(ops)
    for word, findings in (("error", lint.errors), ("note", lint.notes)):
        for finding in findings:
            print(f"{word:5} {finding.layer}: {finding.what}")
    if lint.errors:
        number = f"{len(lint.errors)} errors, the first" if len(lint.errors) > 1 else "an error"
        raise FaceError(f"The K210 does not take '{args.model}': {number} in {lint.errors[0].layer}. See above.")
    print(
        f"KPU: {lint.on_kpu} convolutions, at most {lint.kpu_bytes / 2**20:.2f} of 2 MiB ({lint.kpu_layer}); "
        f"CPU: {len(lint.notes)} layers; RAM: at least {lint.ram_bytes / 2**20:.2f} of 6 MiB"
    )
    print_next("python", "k210/tflite_2_kmodel.py", args.model, "--calibration", "DATA")
    return 0


if __name__ == "__main__":
    run_cli(main)
