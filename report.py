"""Put a run into one table and one page: RUN_DIR -> the stage table, RUN_DIR/report.html and RUN_DIR/plots/*.png.

    python report.py runs/2026-11-22_0405_mobilefacenet

Reads config.toml, provenance.json, metrics.jsonl, and the *.report.json that the test scripts wrote, there and in
export/.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facelib.cli import FaceError, run_cli

if TYPE_CHECKING:
    from facelib.run_summary import Run


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="the --out of train.py")
    parser.add_argument("--out", type=Path, help="where to write the page (default: RUN_DIR/report.html)")
    parser.add_argument(
        "--data", type=Path, help="training data to show faces of (default: what the run was trained on)"
    )
    parser.add_argument("--faces", action=argparse.BooleanOptionalAction, default=True,
                        help="show a contact sheet of training faces; they are then part of the page")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    from facelib.files import write_bytes
    from facelib.html_report import render_report
    from facelib.plots import write_training_plots
    from facelib.run_summary import format_table, read_run, stage_rows

    run = read_run(args.run_dir)
    sheet = draw_sheet(args.data, run) if args.faces else None
    write_training_plots(args.run_dir)
    out = args.out or args.run_dir / "report.html"
    write_bytes(out, render_report(run, sheet).encode())
    rows = stage_rows(run.stages)
    print(
        format_table(rows) if rows else "No stage was tested yet: run evaluate_data.py, pb_test.py or tflite_test.py."
    )
    print(f"wrote {out}")
    return 0


def draw_sheet(data: Path | None, run: "Run") -> bytes | None:
    """A JPEG contact sheet of the training data, RGB; None when no data are named or the run's are gone."""
    import cv2

    from facelib.inspect_data import inspect_data

    named = data or data_of(run)
    if named is None:
        return None
    try:
        sheet = inspect_data(named).sheet()
    except FaceError:
        if data is not None:
            raise
        return None  # the run may be looked at where its data are not
    return cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def data_of(run: "Run") -> Path | None:
    """The training data that provenance.json names, relative to the run directory."""
    said = run.provenance.get("data", {}).get("path")
    return run.path / said if said else None


if __name__ == "__main__":
    run_cli(main)
