"""Cut aligned 112x112 faces out of photos. Each folder of photos becomes a folder of crops with the same name.

    python align_faces.py PHOTOS OUT                   PHOTOS: a folder per identity, or one flat folder
    python align_faces.py PHOTOS OUT --face largest    for photos in which the person is not in the middle
    python align_faces.py PHOTOS OUT --face all        every face: a.jpg, a.face2.jpg, ...

BlazeFace finds a face, and a face mesh finds its five landmarks. The face is rotated, scaled and shifted onto ArcFace's
template. Each crop is a JPEG of quality 95 and has the name of its photo. Run the command again to make missing crops.
Photos that cannot be read or show no face are listed in OUT/skipped.csv.
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facelib.alignment.flags import add_face_flags, several_note
from facelib.cli import print_next, print_notes, run_cli, script_parser
from facelib.errors import FaceError
from facelib.machine import cores
from facelib.wording import printable

if TYPE_CHECKING:
    from facelib.alignment.align_folders import Outcome

SHOWN = 5  # photos without a crop that the summary names


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    from facelib.alignment.align_folders import align_folders

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes end and the list is written
    started = time.monotonic()
    outcome = align_folders(
        args.photos, args.out, rule=args.face, min_quality=args.min_quality, workers=args.workers,
        progress=args.progress,
    )  # fmt: skip
    print_notes([*outcome.notes, *several_note(outcome.several, args.face)])
    print_summary(outcome, args.out, time.monotonic() - started)
    return 0


def print_summary(outcome: "Outcome", out: Path, seconds: float) -> None:
    """Prints what was written, what was left out and why, and the next command."""
    from facelib.alignment.align_folders import SKIPPED

    where = shlex.quote(str(out))
    if outcome.num_written:
        speed = f" in {seconds:.0f} s, {outcome.num_written / seconds:.1f} a second"
        there = f", {outcome.num_before:,} already existed" if outcome.num_before else ""
        print(printable(f"wrote {out}: {outcome.num_written:,} crops of {outcome.num_photos:,} photos{there}{speed}"))
    else:
        print(printable(f"no new crop: {out} has {outcome.num_before:,} crops of {outcome.num_photos:,} photos"))
    if outcome.skipped:
        bad = len(outcome.skipped) - outcome.num_faceless - outcome.num_low
        low = f"{outcome.num_low:,} with too low quality, " if outcome.num_low else ""
        print(
            printable(
                f"{len(outcome.skipped):,} photos gave no crop ({outcome.num_faceless:,} without a face, {low}{bad:,} "
                f"that cannot be read); they are listed in {out / SKIPPED}:"
            )
        )
        for photo, why in sorted(outcome.skipped.items())[:SHOWN]:
            print(printable(f"  {photo}: {why}"))
    lost = sorted(outcome.folders - outcome.folders_with_crop)
    if lost and outcome.folders_with_crop:
        print(printable(f"{len(lost):,} of {len(outcome.folders):,} folders have no crop at all, such as '{lost[0]}'"))
    if not outcome.folders_with_crop:
        raise FaceError(
            f"No face was found in any photo. Check that the faces are larger than 20 pixels. '{out / SKIPPED}' has "
            "the reason for each photo."
        )
    if outcome.folders == {""}:
        print_next("python", "predict.py", "A.jpg", "B.jpg", "--model", "MODEL", more=f", with two crops of {where}")
    else:
        print_next("python", "prepare_data.py", out, "DATA")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument(
        "photos", type=Path, metavar="PHOTOS", help="folder of photos, or folder with one folder of photos per identity"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the crops, new or from an earlier run")
    add_face_flags(parser)
    parser.add_argument(
        "--workers",
        type=int,
        default=cores(),
        metavar="N",
        help="number of processes, each with one thread and about 0.3 GB (default: one per core, %(default)s)",
    )
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="show a progress bar")
    args = parser.parse_args(argv)
    if args.workers < 1:
        raise FaceError(f"--workers must be at least 1. Received: --workers {args.workers}.")
    return args


if __name__ == "__main__":
    run_cli(main)
