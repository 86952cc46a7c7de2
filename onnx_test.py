"""Test an ONNX model on verification sets, with the same table and report as evaluate_data.py.

python onnx_test.py model.onnx --color rgb --pixels imagenet --layout nchw --valid valid_dataset/
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
from collections.abc import Sequence

from evaluate_data import test_main
from facelib.cli import run_cli
from facelib.runtimes.onnx import OnnxEmbedder


def main(argv: Sequence[str] | None = None) -> int:
    return test_main(argv, OnnxEmbedder, __doc__, "onnx")


if __name__ == "__main__":
    run_cli(main)
