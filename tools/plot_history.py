"""Draw a training from its metrics.jsonl: loss, accuracy, learning rate and verification, with the stages marked.

    python tools/plot_history.py runs/small                          -> runs/small/plots/history.png
    python tools/plot_history.py runs/a runs/b --out compare.png     several over each other, and a table of the best

A run that is still training can be drawn at any time. compare_runs.py compares what the runs' models score.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from facelib.cli import run_cli, script_parser
from facelib.errors import FaceError
from facelib.reports.read_run import distinct_names
from facelib.reports.training_plots import BY, best_table, read_history, write_history


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    names = distinct_names([run.resolve() for run in args.runs])
    histories = [read_history(run, name) for run, name in zip(args.runs, names, strict=True)]
    default = args.runs[0] / "plots" / "history.png" if len(args.runs) == 1 else Path("history.png")
    print(best_table(histories))
    print(f"wrote {write_history(histories, args.out or default, args.by)}")
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the --out of a train.py")
    parser.add_argument(
        "--out", type=Path, metavar="PNG", help="default: RUN/plots/history.png, or history.png for several"
    )
    parser.add_argument("--by", choices=BY, default="epochs", help="the axis (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.out and args.out.suffix.lower() != ".png":
        raise FaceError(f"--out is a .png. Received: '{args.out}'.")
    return args


if __name__ == "__main__":
    run_cli(main)
