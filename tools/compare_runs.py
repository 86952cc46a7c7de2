"""Compare several runs: the differences between their recipes, their training curves and the scores of their artefacts.

    python tools/compare_runs.py runs/margin_04 runs/margin_05 --out compare.html

Compares embedder.h5 and the smallest int8 artefact of each run. If a run has no int8 artefact, its smallest export is
compared. The scores come from the *.report.json files of the test scripts. Results that were measured on different
pairs, with different protocols or with different --flip are in separate tables.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence

from facelib.cli import run_cli, script_parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="run directories (the --out of train.py)")
    parser.add_argument(
        "--out", type=Path, default=Path("compare.html"), help="path of the page (default: %(default)s)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    from facelib.files import write_bytes
    from facelib.reports.comparison import compare_runs, format_comparison, render_comparison

    comparison = compare_runs(args.runs)
    write_bytes(args.out, render_comparison(comparison).encode())
    print(format_comparison(comparison))
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    run_cli(main)
