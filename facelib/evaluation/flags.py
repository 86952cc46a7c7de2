"""The flags of every test script: the artefact, the sets, what is measured, the report and the gate."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from facelib.cli import DEFAULT_FARS, DEFAULT_VALID, add_encoding_flag, add_io_flags, script_parser
from facelib.errors import FaceError
from facelib.evaluation.evaluate_set import PROTOCOLS
from facelib.evaluation.metrics import check_far
from facelib.evaluation.results import read_report, report_path
from facelib.extras import require


def make_parser(description: str) -> argparse.ArgumentParser:
    """The flags of every test script; `evaluate_data.run_test` takes what they say."""
    parser = script_parser(description)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="artefact to test")
    add(
        "--valid",
        type=Path,
        default=DEFAULT_VALID,
        metavar="DIR_OR_BIN",
        help="verification sets: a .bin, a folder of .bin files, or a folder of identities (default: %(default)s/)",
    )
    pairs_help = (
        "test these pairs of the photos in --valid: a pair list in the format of LFW or CALFW, or RFW's folder of "
        "lists. If this is a number N: test N pairs of each .bin, chosen evenly"
    )
    add("--pairs", type=_parse_pairs, metavar="TXT_OR_N", help=pairs_help)
    add(
        "--letterbox",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="scale photos of any size to the input, with grey bars at the edges",
    )
    add(
        "--flip",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="add the embedding of the mirrored image to each embedding",
    )
    add("--threads", type=int, default=os.cpu_count() or 1, help="threads of the runtime (default: all, %(default)s)")
    gallery_help = (
        "embed the second face of each pair with this artefact; the thresholds are then for both models together"
    )
    add("--gallery-model", type=Path, metavar="OTHER", help=gallery_help)
    add_encoding_flag(parser)
    add_test_flags(parser)
    add_io_flags(parser)
    return parser


def add_test_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every test: what is measured, where the report goes, and the gate. `check_test_flags` reads them."""
    add = parser.add_argument
    add(
        "--attributes",
        type=Path,
        metavar="CSV",
        help="show ACC and VR of each group: a CSV with lines `NAME,GROUP`, where NAME is an identity or an image",
    )
    protocol_help = (
        "how thresholds for ACC and VR are chosen (default: %(default)s). To compare with old tables: insightface "
        "uses a grid of thresholds; keras_insightface uses the best threshold of the whole set, so its results are "
        "too high"
    )
    add("--protocol", choices=tuple(PROTOCOLS), default="exact", help=protocol_help)
    add_far_flag(parser, "measure VR at these FARs (default: 0.001)")
    add("--report", type=Path, help="where to write the report (default: MODEL.report.json)")
    map_help = (
        "also write the folder MODEL.map: up to 1,000 faces of each set on a plane (t-SNE), with small pictures, for "
        "report.py and for TensorBoard's projector"
    )
    add("--map", action=argparse.BooleanOptionalAction, default=False, help=map_help)
    calibrate_help = "replace the thresholds in the sidecar by those of this test, and print what was replaced"
    add("--calibrate", action=argparse.BooleanOptionalAction, default=False, help=calibrate_help)
    add = parser.add_argument_group("gate").add_argument
    add(
        "--against",
        type=Path,
        metavar="REPORT",
        help="end with exit code 1 if ACC or VR is lower than in this report by more than the allowed drops",
    )
    add(
        "--max-acc-drop",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="largest allowed drop of ACC in percentage points (default: %(default)s)",
    )
    add(
        "--max-vr-drop",
        type=float,
        default=2.0,
        metavar="POINTS",
        help="largest allowed drop of VR in percentage points (default: %(default)s)",
    )
    add_strict_flag(add)


def add_strict_flag(add: Callable[..., object]) -> None:
    """Adds --strict, by `add_argument` of a parser or a group."""
    text = "treat the outcome 'too few pairs to tell' as a failure, for instance before a release"
    add("--strict", action=argparse.BooleanOptionalAction, default=False, help=text)


def add_far_flag(parser: argparse.ArgumentParser, text: str) -> None:
    """Adds --far, which may be given several times; `check_fars` reads it."""
    parser.add_argument("--far", type=float, nargs="+", action="extend", metavar="RATE", help=text)


def check_fars(fars: Sequence[float]) -> tuple[float, ...]:
    """The FARs of --far without repetitions. Refuses one that is not in (0, 1]."""
    return tuple(dict.fromkeys(map(check_far, fars)))


def check_test_flags(args: argparse.Namespace) -> argparse.Namespace:
    """Refuses values that no test can have, and fills in the default FARs."""
    args.far = check_fars(args.far or DEFAULT_FARS)
    for flag, value in (("--max-acc-drop", args.max_acc_drop), ("--max-vr-drop", args.max_vr_drop)):
        if not 0 <= value <= 100:
            raise FaceError(f"{flag} must be in percentage points, from 0 to 100. Received: {value:g}.")
    if args.map:
        require("sklearn")
    if args.against:
        read_report(args.against)  # a wrong one shows before the work
    return args


def default_report(args: argparse.Namespace, executor: str = "") -> Path:
    """The report of a test without --report: X.report.json, or X.EXECUTOR.gallery_OTHER.report.json.

    Args:
        args: the flags of a test script.
        executor: of a test that is not the usual one of the artefact, e.g. 'tflm'.
    """
    other = getattr(args, "gallery_model", None)
    parts = [str(args.model), executor, f"gallery_{other.stem}" if other else ""]
    return report_path(Path(".".join(filter(None, parts))))


def _parse_pairs(text: str) -> Path | int:
    return int(text) if text.isdecimal() else Path(text)
