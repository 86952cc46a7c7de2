"""Check whether a float .tflite can run on the K210, and list every layer that cannot.

python k210/check_k210.py runs/k210/export/model_float.tflite

An error means that k210/tflite_2_kmodel.py cannot compile the model. A note names a layer that runs on the CPU, not on
the KPU.
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
    parser.add_argument("model", type=Path, metavar="X.tflite", help="float model made by pb_2_tflite.py")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    ops = read_ops(args.model)
    lint = check_ops(ops)
    for word, findings in (("error", lint.errors), ("note", lint.notes)):
        for finding in findings:
            print(f"{word:5} {finding.layer}: {finding.what}")
    if lint.errors:
        number = f"{len(lint.errors)} errors, the first one" if len(lint.errors) > 1 else "an error"
        raise FaceError(f"The K210 cannot run '{args.model}': {number} in {lint.errors[0].layer}. See the list above.")
    print(
        f"KPU: {lint.on_kpu} convolutions, at most {lint.kpu_bytes / 2**20:.2f} of 2 MiB ({lint.kpu_layer}); "
        f"CPU: {len(lint.notes)} layers; RAM: at least {lint.ram_bytes / 2**20:.2f} of 6 MiB"
    )
    print_next("python", "k210/tflite_2_kmodel.py", args.model, "--calibration", "DATA")
    return 0


if __name__ == "__main__":
    run_cli(main)
