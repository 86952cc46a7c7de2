"""Create synthetic faces: made-up people for a demo, a test or a first trial without face data.

    python tools/synthetic_faces.py toy/faces --identities 160 --images 15
    python tools/synthetic_faces.py toy/valid/toy.bin --format bin --identities 100 --images 8 --num-pairs 2400

The pictures of one person share the shape of the face, its colours and its marks. Pose, light, expression, glasses and
the camera differ. A verification set (--format bin) and a training set show different people, unless you set
--first-identity. The same seed always gives the same faces: 112x112 JPEGs, aligned. Synthetic faces are not a
substitute for photos of real people: a model trained on synthetic faces recognises only such faces.

--format    writes                                             next
folders     OUT/0001/0001.jpg, ...: a folder for each person   python prepare_data.py OUT DATA
rec         OUT/train.rec, .idx, property, as InsightFace      python prepare_data.py OUT DATA
tfrecord    OUT, one TFRecord file, as older systems           python prepare_data.py OUT DATA
bin         OUT, pairs for 10-fold evaluation                  python train.py RECIPE --data DATA --valid OUT --out RUN
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence

from facelib.cli import run_cli, script_parser
from facelib.data.synthetic.files import HELD_OUT_IDENTITY, WRITERS, SyntheticSet, write_pairs


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    parser.add_argument("out", type=Path, help="folder or file to write, as in the table above")
    parser.add_argument(
        "--format",
        choices=[*WRITERS, "bin"],
        default="folders",
        help="one of the formats in the table above (default: %(default)s)",
    )
    parser.add_argument("--identities", type=int, default=200, help="number of people (default: %(default)s)")
    parser.add_argument("--images", type=int, default=15, help="pictures of each person (default: %(default)s)")
    parser.add_argument(
        "--first-identity", type=int, help=f"number of the first person (default: 0, for bin {HELD_OUT_IDENTITY:,})"
    )
    parser.add_argument(
        "--num-pairs", type=int, default=1200, help="pairs in a .bin, half of them genuine (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the people and pictures (default: %(default)s)")
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
