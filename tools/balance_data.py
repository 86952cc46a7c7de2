"""Balance a training set: make the numbers of images per identity more equal.

    python tools/balance_data.py DATA BALANCED

images of an identity   what is kept
more than 350           350 of them, chosen by --seed
201 to 350              all
91 to 200               all, and a copy of each after morphological opening
31 to 90                all, and three copies of each: opening, Gaussian noise, salt and pepper
30 or fewer             none

The rule is from AIWintermuteAI/MobileFaceNet-Keras-K210. The bytes of the original images are not changed.
The script prints a table and writes it to BALANCED/balance.json.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import os
from collections.abc import Sequence

from facelib.cli import DEFAULT_VALID, print_next, print_notes, run_cli, script_parser
from facelib.data.conversion.job import DEFAULT_SIZE, make_job, run_job
from facelib.data.conversion.two_passes import ImageChecker
from facelib.data.curation.balancing import balance
from facelib.data.readers.sources import open_source
from facelib.errors import FaceError


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    balanced = balance(open_source(args.data), args.seed)
    source, columns = balanced.source, ("rule", "identities", "before", "after")
    check = ImageChecker(source, source.image_size or DEFAULT_SIZE, workers=args.workers)
    files = {"balance.json": [dict(zip(columns, row, strict=True)) for row in balanced.table]}
    options = {"seed": args.seed, "balanced": True}
    done = run_job(make_job(source, args.out, options, check=check), files)
    print_notes(source.notes)
    print(f"{'rule':44} {'identities':>10} {'before':>10} {'after':>10}")
    for rule, identities, before, after in balanced.table:
        print(f"{rule:44} {identities:10,} {before:10,} {after:10,}")
    verb = "already there, nothing to do:" if done.was_finished else "wrote"
    print(f"{verb} {done.out}: {done.counts}")
    print_next("python", "train.py", "RECIPE.toml", "--data", done.out, "--valid", DEFAULT_VALID, "--out", "runs/NAME")
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("data", type=Path, help="data directory, or face data in any other format")
    parser.add_argument("out", type=Path, help="data directory to make")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the sample, noise and order (default: %(default)s)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="number of threads; the result is the same for any number (default: all cores)",
    )
    args = parser.parse_args(argv)
    for flag, least in (("seed", 0), ("workers", 1)):
        if getattr(args, flag) < least:
            raise FaceError(f"--{flag} must be at least {least}. Received: {getattr(args, flag)}.")
    return args


if __name__ == "__main__":
    run_cli(main)
