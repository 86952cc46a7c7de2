"""Make and test every artefact of a run, and write one table: RUN/export/export.md.

python export_all.py runs/demo --valid valid_dataset/ --calibration DATA

Each step runs one of the other scripts. The command is printed, and the output goes to RUN/export/logs. An artefact is
compared with the model that it was made from, and with embedder.h5. The artefact passes the gate if its ACC and VR are
lower by at most --max-acc-drop and --max-vr-drop. Artefacts and reports that are up to date are not made again, so an
interrupted run continues.
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from facelib.child_processes import ends_with_parent
from facelib.cli import DEFAULT_FARS, DEFAULT_VALID, HINTS, run_cli, script_parser
from facelib.data.readers.calibration_crops import fingerprint_of
from facelib.data.verification.bins import find_bins
from facelib.errors import FaceError
from facelib.evaluation.flags import add_strict_flag
from facelib.evaluation.results import read_report, report_path
from facelib.evaluation.verification_sets import find_sets
from facelib.export.targets import READY, REFERENCE, TARGETS, Target, arm_targets, environment_folder
from facelib.files import require_file, write_bytes
from facelib.reports.export_table import (
    Outcome,
    cosines_of,
    draw_outcomes,
    find_losses,
    format_outcomes,
    is_made,
    is_tested,
    layers_picture,
)

ROOT = Path(__file__).resolve().parent


_HOW_TO_GET = {"--calibration": "pass --calibration DATA", "a .bin": "its test needs a .bin, but --valid has none"}


_BY_NAME = {target.name: target for target in TARGETS}


def _takes_test_flags(target: Target) -> bool:
    """Whether the test of a target takes the flags of every test script, and so --pairs."""
    return any("{test}" in line for line in target.test)


def _describe_bits(report: Path) -> str:
    """Whether a test on another CPU gave the embeddings of this one: 'same bits', 'same bits on 12 % of the faces'."""
    share = read_report(report).get("same_bits") or 0
    return "same bits" if share == 1 else f"same bits on {int(100 * share)} % of the faces" if share else "other bits"


class Refused(Exception):
    """A command failed. The message is one line that says why."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run directory (the --out of train.py) with an embedder.h5")
    valid_help = "verification sets: a .bin, a folder of .bin files, or a folder of identities (default: %(default)s/)"
    add("--valid", type=Path, default=DEFAULT_VALID, metavar="DIR_OR_BIN", help=valid_help)
    add(
        "--calibration",
        type=Path,
        metavar="DATA",
        help="face crops to calibrate the int8 and K210 models, such as those in the training data directory",
    )
    far_help = "report VR at these FARs (default: 0.001)"
    add("--far", type=float, nargs="+", default=DEFAULT_FARS, metavar="RATE", help=far_help)
    pairs_help = "quick test with only N pairs of each .bin; the reports and the table go into RUN/export/pairs_N"
    add("--pairs", type=int, metavar="N", help=pairs_help)
    points = "in percentage points (default: %(default)s)"
    add("--max-acc-drop", type=float, default=0.5, metavar="POINTS", help=f"largest allowed loss of ACC, {points}")
    add("--max-vr-drop", type=float, default=2.0, metavar="POINTS", help=f"largest allowed loss of VR, {points}")
    arm_help = "also test each .tflite and .onnx on emulated ARM CPUs (docs/arm.md); this takes hours"
    add("--arm", action=argparse.BooleanOptionalAction, default=False, help=arm_help)
    add_strict_flag(add)
    args = parser.parse_args(argv)
    for flag, value in (("--max-acc-drop", args.max_acc_drop), ("--max-vr-drop", args.max_vr_drop)):
        if not 0 <= value <= 100:
            raise FaceError(f"{flag} must be in percentage points, from 0 to 100. Received: {value:g}.")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    require_file(args.run / REFERENCE, "trained embedder")
    chain = Chain(args)
    outcomes: dict[str, Outcome] = {}
    for target in (*TARGETS, *(arm_targets() if args.arm else ())):
        outcomes[target.name] = chain.bring(target, outcomes)
    table = chain.folder / "export.md"
    text = format_outcomes(args.run, list(outcomes.values()))
    picture = table.with_suffix(".png")
    if drawn := draw_outcomes(list(outcomes.values())):
        write_bytes(picture, drawn)
        text += f"\n\n![accuracy against the time of one face and against size]({picture.name})"
    for outcome in outcomes.values():
        if layers := layers_picture(outcome):
            shown = Path(os.path.relpath(layers, chain.folder)).as_posix()
            text += f"\n\n![cosine of each layer of {outcome.name}]({shown})"
    write_bytes(table, (text + "\n").encode())
    pages = chain.report() if args.pairs is None else []
    print(f"{text}\n\nwrote {' and '.join(map(str, [table, *pages]))}")
    bad = [f"{outcome.name}: {outcome.gate}" for outcome in outcomes.values() if outcome.is_bad]
    if bad:
        raise FaceError(f"{len(bad)} of {len(outcomes)} artefacts did not pass. {' | '.join(bad)}")
    return 0


class Chain:
    """Makes, tests and judges the targets of one run.

    Args:
        args: of `parse_args`.

    Attributes:
        args: the same.
        sets: {name of a verification set: its SHA-256}.
        bin: the first .bin of --valid, or None.
        fingerprint: of the calibration data, or None.
        folder: of the table, and with --pairs of the reports, so that no partial report is taken for a whole one.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.folder = args.run / "export"
        if args.pairs is not None:
            self.folder /= f"pairs_{args.pairs}"
        self.sets = {}
        for load in find_sets(args.valid, args.pairs):
            faces = load()
            self.sets[faces.name] = faces.source["sha256"]
        is_bin = args.valid.suffix == ".bin" or any(args.valid.glob("*.bin"))
        self.bin = find_bins(args.valid)[0] if is_bin else None
        self.fingerprint = fingerprint_of(args.calibration) if args.calibration else None

    def bring(self, target: Target, outcomes: dict[str, Outcome]) -> Outcome:
        """Makes, tests and judges one target. What is up to date is skipped; what cannot be made is left out.

        Args:
            target: which.
            outcomes: {name: outcome} of the targets before it.
        """
        path = self.args.run / target.name
        if target.parent and not outcomes[target.parent].is_tested:
            return Outcome(path, f"not run: see {Path(target.parent).name}")
        if missing := next(filter(self._lacks, target.needs), None):
            return Outcome(path, f"not run: {_HOW_TO_GET.get(missing, f'{missing} is not on PATH')}")
        if self.args.pairs is not None and not (target.pairs or _takes_test_flags(target)):
            return Outcome(path, "not run: its test always uses all pairs; leave out --pairs")
        if target.environment and not (ROOT / (folder := environment_folder(target.environment)) / READY).is_file():
            return Outcome(path, f"not run: {folder} is missing: make {target.environment}")
        try:
            return self._bring(target, path)
        except Refused as error:
            return Outcome(path, f"failed: {error}", is_bad=True)

    def _bring(self, target: Target, path: Path) -> Outcome:
        parent = self.args.run / target.parent if target.parent else None
        used = self.fingerprint if "--calibration" in target.needs else None
        if parent is not None and target.make and not is_made(path, parent, used):
            try:
                self._run(target, target.fits, path, parent)
            except Refused as error:
                return Outcome(path, f"not run: {error}")
            self._run(target, target.make, path, parent)
        sets = self.sets
        if self.bin is not None and "a .bin" in target.needs:
            sets = {self.bin.stem: self.sets[self.bin.stem]}
        references, report = self._references(target, path, parent), self._report_of(target)
        artefact = path if target.make or parent is None else parent
        num_pairs = self.args.pairs if _takes_test_flags(target) else target.pairs
        is_done = is_tested(artefact, sets, self.args.far, report, num_pairs)
        if is_done and all(file.is_file() for file in references):
            print(f"{path} is up to date", flush=True)
        else:
            self._test(target, path, parent)
        try:
            losses, unclear = find_losses(report, references, self.args.max_acc_drop, self.args.max_vr_drop)
        except FaceError as error:  # the report is of other pairs than those of its reference
            raise Refused(str(error)) from error
        losses += self._low_cosine(target, path, report)
        gate = f"lost {'; '.join(losses)}" if losses else "the reference" if parent is None else "passed"
        if unclear and not losses:
            gate = f"too few pairs to tell: {'; '.join(unclear)}"
        if target.environment == "arm":
            gate += f"; {_describe_bits(report)}"
        return Outcome(path, gate, bool(losses or (unclear and self.args.strict)), is_tested=True, report_file=report)

    @staticmethod
    def _low_cosine(target: Target, path: Path, report: Path) -> list[str]:
        """Says that the mean cosine to the parent is below the floor of the target; empty where it is not."""
        cosines, floor = cosines_of(path, report), target.min_mean_cosine
        if floor is None or cosines is None or cosines[0] >= floor:
            return []
        picture = path.with_suffix(".layers.png")
        see = f"; {picture.name} shows where" if picture.is_file() else ""
        return [f"direction: mean cosine {cosines[0]:.3f}, worst {cosines[1]:.3f}, {floor:g} is the lowest mean{see}"]

    def _test(self, target: Target, path: Path, parent: Path | None) -> None:
        """Runs the test. If it fails, its report is removed: the next run would count it as passed."""
        try:
            self._run(target, target.test, path, parent, self._report_of(target))
        except Refused:
            self._report_of(target).unlink(missing_ok=True)
            raise

    def _report_of(self, target: Target) -> Path:
        """The report of a target. A test that takes other pairs than --pairs keeps its usual place."""
        report = report_path(self.args.run / target.name)
        is_partial = self.args.pairs is not None and _takes_test_flags(target)
        return self.folder / report.name if is_partial else report

    def _references(self, target: Target, path: Path, parent: Path | None) -> list[Path]:
        """The reports that the gate compares with."""
        if parent is None or target.against is None:
            return []
        if target.against:
            return [Path(target.against.format(x=path))]
        return [self._report_of(_BY_NAME[name]) for name in (target.parent or REFERENCE, REFERENCE)]

    def report(self) -> list[Path]:
        """Writes report.html. Returns the pages written."""
        try:
            run_command(["report.py", str(self.args.run)], self._log("report.py", self.args.run / "report.html"))
        except Refused:
            return []
        return [self.args.run / "report.html"]

    def _lacks(self, need: str) -> bool:
        if need == "--calibration":
            return self.args.calibration is None
        if need == "a .bin":
            return self.bin is None
        return shutil.which(need) is None

    def _run(
        self, target: Target, lines: Sequence[str], path: Path, parent: Path | None, report: Path | None = None
    ) -> None:
        far = ["--far", *(f"{far:g}" for far in self.args.far)]
        partial = [] if self.args.pairs is None else ["--pairs", str(self.args.pairs), "--report", str(report)]
        several = {
            "{test}": ["--valid", str(self.args.valid), *far, *partial],
            "{far}": far,
            "{calibration}": ["--calibration", str(self.args.calibration)],
        }
        one = {"x": path, "parent": parent, "bin": self.bin, "pairs": target.pairs}
        for line in lines:
            words = [word for text in line.split() for word in several.get(text) or [text.format(**one)]]
            run_command(words, self._log(words[0], path))

    def _log(self, script: str, path: Path) -> Path:
        """The file for what `script` prints about the artefact `path`."""
        return self.folder / "logs" / f"{path.name}.{Path(script).stem}.log"


def run_command(words: Sequence[str], log: Path) -> None:
    """Prints the command line of a script of this project and runs it.

    Args:
        words: the script, relative to the project, and its arguments.
        log: the file that gets what it prints.

    Raises:
        Refused: it failed; with the last line of its stderr.
    """
    script = os.path.relpath(ROOT / words[0])
    shown = ["python", script, *words[1:]] if script.endswith(".py") else [os.path.join(".", script), *words[1:]]
    started = time.monotonic()
    print(f"$ {shlex.join(shown)}", end="", flush=True)
    argv = [sys.executable, *shown[1:]] if script.endswith(".py") else shown
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # the .sh scripts look for python3
    environment = {**os.environ, "PATH": path, HINTS: "off", "PYTHONIOENCODING": "utf-8:backslashreplace"}
    done = subprocess.run(
        argv, capture_output=True, encoding="utf-8", errors="backslashreplace", env=environment,
        preexec_fn=ends_with_parent(),
    )  # fmt: skip
    write_bytes(log, (done.stdout + done.stderr).encode(errors="backslashreplace"))
    print(f"   {time.monotonic() - started:.1f} s", flush=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        why = said[-1].removeprefix("error: ") if said else f"{script} ended with exit code {done.returncode}"
        print(f"failed: {why} Its whole output: {log}", flush=True)
        raise Refused(why)


if __name__ == "__main__":
    run_cli(main)
