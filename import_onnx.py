"""The old name of import_model.py, from the time when that script read only ONNX files."""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
from facelib.cli import run_cli
from import_model import main

if __name__ == "__main__":
    run_cli(main)
