"""Draw synthetic faces: people of a program's making, for a demo, a test or a first trial without face data.

    python tools/synthetic_faces.py toy/faces --identities 160 --images 15
    python tools/synthetic_faces.py toy/valid/toy.bin --format bin --identities 100 --images 8 --num-pairs 2400

A .bin has other people than a training set. The same seed draws the same faces.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from facelib.cli import run_cli, script_parser
from facelib.data.synthetic.files import HELD_OUT_IDENTITY, WRITERS, SyntheticSet, write_pairs


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    parser.add_argument("out", type=Path, help="folder (folders, rec) or file (tfrecord, bin) to write")
    parser.add_argument("--format", choices=[*WRITERS, "bin"], default="folders")
    parser.add_argument("--identities", type=int, default=200, help="how many people (default: 200)")
    parser.add_argument("--images", type=int, default=15, help="pictures of each (default: 15)")
    parser.add_argument("--first-identity", type=int, help=f"default: 0, for bin {HELD_OUT_IDENTITY}")
    parser.add_argument("--num-pairs", type=int, default=1200, help="pairs of a bin (default: 1200)")
    parser.add_argument("--seed", type=int, default=0, help="which world of toy people (default: 0)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    first = args.first_identity
    if first is None:
        first = HELD_OUT_IDENTITY if args.format == "bin" else 0
    faces = SyntheticSet(args.identities, args.images, first, args.seed)
    if args.format == "bin":
        write_pairs(args.out, faces, args.num_pairs)
        print(f"wrote {args.out}: {args.num_pairs} pairs of {args.identities} identities")
    else:
        WRITERS[args.format](args.out, faces)
        print(f"wrote {args.out}: {len(faces)} images of {args.identities} identities")
    return 0


if __name__ == "__main__":
    run_cli(main)
