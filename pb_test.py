"""Test a frozen or optimised graph on verification sets, with the same table and report as evaluate_data.py.

python pb_test.py runs/demo/export/optimized.pb --valid valid_dataset/
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
from collections.abc import Sequence

from evaluate_data import test_main
from facelib.cli import run_cli
from facelib.runtimes.frozen_graph import GraphEmbedder


def main(argv: Sequence[str] | None = None) -> int:
    return test_main(argv, GraphEmbedder, __doc__, "frozen_pb")


if __name__ == "__main__":
    run_cli(main)
