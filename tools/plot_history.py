"""Plot a training from its metrics.jsonl: loss, accuracy, learning rate and verification, with the stages marked.

    python tools/plot_history.py runs/small                          -> runs/small/plots/history.png
    python tools/plot_history.py runs/a runs/b --out compare.png     several runs in one picture
    python tools/plot_history.py checkpoints/mbf_hist.json runs/a    also the history of leondgarse/Keras_insightface

Prints the best accuracy of each run. A run that is still training can be plotted at any time. To compare the tested
models of several runs, use compare_runs.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import os
from collections.abc import Sequence

from facelib.cli import run_cli, script_parser
from facelib.errors import FaceError
from facelib.reports.insightface_history import read_history
from facelib.reports.read_run import distinct_names, require_training_log
from facelib.reports.training_plots import BY, best_table, write_history


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    names = distinct_names([run.resolve() for run in args.runs])
    logs = [read_history(run) if run.suffix == ".json" else require_training_log(run) for run in args.runs]
    runs = list(zip(names, logs, strict=True))
    above = Path(os.path.commonpath([run.resolve().parent for run in args.runs]))
    is_one_run = len(runs) == 1 and args.runs[0].is_dir()
    default = args.runs[0] / "plots" / "history.png" if is_one_run else above / "history.png"
    print(best_table(runs))
    print(f"wrote {write_history(runs, args.out or default, args.by)}")
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run directories (the --out of train.py), or *_hist.json files",
    )
    parser.add_argument(
        "--out", type=Path, metavar="PNG",
        help=("path of the picture (default: RUN/plots/history.png; for several runs: history.png in the folder above "
            "the runs)"),
    )  # fmt: skip
    parser.add_argument(
        "--by", choices=BY, default="epochs", help="quantity on the horizontal axis (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.out and args.out.suffix.lower() != ".png":
        raise FaceError(f"--out must end in .png. Received: '{args.out}'.")
    return args


if __name__ == "__main__":
    run_cli(main)
