"""Balance a data directory: identities with few images get altered copies, those with very few or too many are cut.

    python balance_data.py DATA OUT

The rule of MobileFaceNet-Keras-K210, by images of an identity: above 350 a sample of 350; 201 to 350 as they are; 91 to
200 also opened (5x5, twice the images); 31 to 90 also opened, with Gaussian noise, and with salt and pepper (four times);
up to 30 dropped. --rule takes another: COUNT=ACTION,...; see facelib/balancing.py.

OUT is a data directory with balance.json in it. Images that were there keep their bytes, added ones are JPEG. The same
seed gives the same bytes, whatever the number of --workers.
"""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from facelib.balancing import DEFAULT_RULE, balanced_source, parse_rule, plan_balance, report_balance
from facelib.chosen_records import open_data_dir
from facelib.cli import FaceError, run_cli
from facelib.convert import DEFAULT_SIZE, find_finished, write_records
from facelib.image_checker import ImageChecker

REPORT = "balance.json"


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    tiers = parse_rule(args.rule)
    source = open_data_dir(args.data)
    made_from, done = find_finished(source, args.out, {"balance": args.rule, "seed": args.seed})
    plan = plan_balance(source.labels, len(source.class_names), tiers, args.seed)
    report = report_balance(plan, tiers, source.class_names, args.rule, args.seed)
    if done is None:
        chosen = balanced_source(source, plan, args.seed)
        check = ImageChecker(chosen, source.image_size or DEFAULT_SIZE, threads=args.workers)
        everything = range(len(chosen))
        done = write_records(
            chosen, everything, args.out, made_from, check, reports={REPORT: report}, progress=args.progress
        )
    print_table(report)
    verb = "already there, nothing to do:" if done.was_finished else "wrote"
    print(f"{verb} {args.out}: {done.num_images:,} images, {done.num_classes:,} identities; {args.out / REPORT}")
    print(f"next: python train.py RECIPE.toml --data {shlex.quote(str(args.out))} --valid valid_dataset --out runs/NAME")
    return 0


def print_table(report: dict) -> None:
    """rule | identities | images before | after."""
    rows = [(f"{row['images']}: {row['action']}", row) for row in report["tiers"]] + [("all", report["total"])]
    width = max(len(name) for name, _ in rows)
    print(f"{'rule':<{width}}  identities  images before       after")
    for name, row in rows:
        counts = f"{row['identities']:10,}  {row['images_before']:13,}  {row['images_after']:10,}"
        print(f"{name:<{width}}  {counts}")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="data directory")
    add("out", type=Path, metavar="OUT", help="data directory to make")
    add("--rule", default=DEFAULT_RULE, help="COUNT=ACTION,... (default: %(default)s)")
    add("--seed", type=int, default=0, help="of samples, noise and order (default: %(default)s)")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="threads (default: %(default)s)")
    add("--progress", action=argparse.BooleanOptionalAction, default=True, help="show a progress bar")
    args = parser.parse_args(argv)
    if args.seed < 0:
        raise FaceError(f"--seed is 0 or more. Received: {args.seed}.")
    if args.workers < 1:
        raise FaceError(f"At least one thread is at work. Received: --workers {args.workers}.")
    return args


if __name__ == "__main__":
    run_cli(main)
