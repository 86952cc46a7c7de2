"""Test a .tflite model, float or quantised, on verification sets, with the same table and report as evaluate_data.py.

python tflite_test.py runs/demo/export/model_int8.tflite --valid valid_dataset/
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
from collections.abc import Sequence

from evaluate_data import test_main
from facelib.cli import run_cli
from facelib.runtimes.tflite import TfliteEmbedder


def main(argv: Sequence[str] | None = None) -> int:
    return test_main(argv, TfliteEmbedder, __doc__, "tflite")


if __name__ == "__main__":
    run_cli(main)
