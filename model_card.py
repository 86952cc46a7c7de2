"""Write the model card of a run for the Hugging Face Hub: README.md with figures, thresholds, data, licence and limits.

    python model_card.py runs/2026-11-22_0405_mobilefacenet

The script reads only the sidecars (X.json) and reports (X.report.json) in the run directory and in its export/.
Nothing is uploaded.
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence
from pathlib import Path

from facelib.cli import print_notes, run_cli, script_parser
from facelib.errors import FaceError


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="run directory (the --out of train.py)")
    parser.add_argument("--out", type=Path, help="where to write the card (default: RUN_DIR/README.md)")
    args = parser.parse_args(argv)
    args.out = args.out or args.run / "README.md"
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    from facelib.files import write_bytes
    from facelib.reports.model_card import MADE_BY, render_card
    from facelib.reports.read_run import read_run

    card, notes = render_card(read_run(args.run))
    if args.out.exists() and MADE_BY.encode() not in args.out.read_bytes():
        raise FaceError(
            f"--out must not replace a file that model_card.py did not write, such as '{args.out}'. Choose a "
            "different --out FILE."
        )
    write_bytes(args.out, card.encode())
    print_notes(notes)
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    run_cli(main)
