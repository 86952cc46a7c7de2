"""Print one table of a run or of several tested artefacts, and write an HTML page that needs no network.

    python report.py runs/2026-11-22_0405_mobilefacenet
    python report.py runs/2026-11-22_0405_mobilefacenet --watch
    python report.py A.report.json B.report.json --out compare.html

Reads config.toml, provenance.json and metrics.jsonl of a run, and the *.report.json files that the test scripts wrote
there and in export/. Writes RUN_DIR/report.html and RUN_DIR/plots/*.png. With --watch the page follows the training.
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facelib.cli import run_cli, script_parser
from facelib.errors import FaceError

if TYPE_CHECKING:
    from facelib.reports.hardest_pairs import FaceFinder
    from facelib.reports.read_run import Run


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    parser.add_argument("paths", type=Path, nargs="+", metavar="RUN_DIR_OR_REPORT",
                        help="run directory (the --out of train.py), or *.report.json files")  # fmt: skip
    parser.add_argument("--out", type=Path, help="where to write the page (default: RUN_DIR/report.html)")
    parser.add_argument(
        "--valid",
        type=Path,
        metavar="DIR_OR_BIN",
        help="verification sets (file or folder), to show the hardest pairs",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="training data, to show some of its faces (default: the data that the run was trained on)",
    )
    parser.add_argument("--faces", action=argparse.BooleanOptionalAction, default=True,
                        help="show faces of the hardest pairs and of the training data on the page")  # fmt: skip
    parser.add_argument("--watch", action=argparse.BooleanOptionalAction, default=False,
                        help="update the page as the run changes, until Ctrl-C; the page reloads itself")  # fmt: skip
    args = parser.parse_args(argv)
    if args.valid is not None and not args.valid.exists():
        raise FaceError(f"--valid must be a .bin or a folder. There is nothing at '{args.valid}'.")
    if len(args.paths) > 1 and any(path.is_dir() for path in args.paths):
        raise FaceError(
            "report.py shows only one run. To compare several runs: python tools/compare_runs.py RUN_A RUN_B."
        )
    if args.watch and not (len(args.paths) == 1 and args.paths[0].is_dir()):
        raise FaceError(
            f"--watch needs the RUN_DIR of a training. Received: '{args.paths[0]}'. Pass a RUN_DIR instead."
        )
    if len(args.paths) == 1 and not args.paths[0].is_file():
        args.out = args.out or args.paths[0] / "report.html"
    elif args.out is None:
        raise FaceError(
            "A page without a run needs --out, because it has no default name. Use, for instance: --out compare.html."
        )
    elif args.data is not None:
        raise FaceError("--data needs a RUN_DIR. Leave out --data, or pass one RUN_DIR instead of reports.")
    elif args.out.resolve() in [path.resolve() for path in args.paths]:
        raise FaceError(f"--out would overwrite the report '{args.out}'. Choose a different file.")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    from facelib.files import write_bytes
    from facelib.reports.artefact_table import artefact_rows, format_table, group_comparable, warnings_of
    from facelib.reports.hardest_pairs import FaceFinder
    from facelib.reports.read_run import read_artefacts, read_run

    finder = FaceFinder(args.valid) if args.faces else None
    if args.watch:
        return follow_run(args, finder)
    if args.paths[0].is_file() or len(args.paths) > 1:
        from facelib.reports.run_page import render_artefacts

        artefacts = read_artefacts(args.paths)
        page = render_artefacts(artefacts, finder)
    else:
        run = read_run(args.paths[0])
        artefacts, page = run.artefacts, render_run(run, args, finder)
    write_bytes(args.out, page.encode())
    for line in warnings_of(group_comparable(artefacts)):
        print(f"warning: {line}")
    rows = artefact_rows(artefacts)
    untested = "No artefact was tested yet: run evaluate_data.py, pb_test.py or tflite_test.py."
    print(format_table(rows) if rows else untested)
    print(f"wrote {args.out}")
    return 0


def render_run(run: "Run", args: argparse.Namespace, finder: "FaceFinder | None") -> str:
    """The page of a run. Writes its training plots as files too."""
    from facelib.reports.run_page import render_report
    from facelib.reports.training_plots import write_training_plots

    page = render_report(run, draw_sheet(args.data, run) if args.faces else None, finder)
    write_training_plots(run.path)
    return page


def follow_run(args: argparse.Namespace, finder: "FaceFinder | None") -> int:
    """Makes the page of a run again whenever its files change, until Ctrl-C."""
    from facelib.reports.read_run import read_run
    from facelib.reports.run_page import headline, render_report
    from facelib.reports.watch import watch_run

    sheets: list[bytes | None] = []  # the faces of the data are drawn once, when the run names its data

    def make_page() -> tuple[str, str]:
        run = read_run(args.paths[0], may_be_empty=True)
        if args.faces and not sheets and (args.data or data_of(run)):
            sheets.append(draw_sheet(args.data, run))
        return render_report(run, sheets[0] if sheets else None, finder), headline(run)

    watch_run(args.paths[0], args.out, make_page)
    return 0


def draw_sheet(data: Path | None, run: "Run") -> bytes | None:
    """A JPEG contact sheet of the training data; None when neither --data nor the run leads to any.

    Raises:
        FaceError: --data is not training data.
    """
    import cv2

    from facelib.data.curation.inspection import inspect_data

    named = data or data_of(run)
    if named is None:
        return None
    try:
        sheet = inspect_data(named).sheet()
    except FaceError:
        if data is not None:
            raise
        return None  # the page may be made on a machine without the training data
    return cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def data_of(run: "Run") -> Path | None:
    """The training data that provenance.json names, relative to the run directory."""
    path = run.provenance.get("data", {}).get("path")
    return run.path / path if path else None


if __name__ == "__main__":
    run_cli(main)
