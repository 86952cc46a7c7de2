"""Compare speed, memory, size and accuracy of artefacts and runtimes in one table and one picture.

    python benchmarks/bench_embedders.py runs/demo/export/*.tflite openvino:runs/demo/export/model.onnx --out card

For each artefact and each number of threads there is one process. Every round measures each process once: ten single
faces, then one batch of 64. So other work on the machine affects all processes in the same way. Figures are medians
over all rounds after a warm-up round. Ratios are relative to the first artefact.

A prefix chooses a different runtime, if it is installed (benchmarks/extra_runtimes.py): openvino:, openvino-f32:,
ncnn:. ACC and VR come from X.report.json if this report is for the same artefact and set; otherwise they are measured
on --valid.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.extra_runtimes import EXTRA
from benchmarks.machine import busy_share, machine, peak_memory, read_cpu
from facelib.cli import run_cli
from facelib.errors import FaceError
from facelib.evaluation.results import format_markdown_table, read_report, report_path
from facelib.figure_style import begin, finish, label, legend_below, styles
from facelib.files import require_file, sha256_of, write_bytes
from facelib.model_input import Io
from facelib.reports.artefact_table import format_percent
from facelib.reports.read_run import distinct_names
from facelib.sidecar import check_sidecar, package_versions

SINGLES, BATCH = 10, 64  # faces one by one, and faces at once, in every round
FAR = "0.001"
_HEIGHT = 4.6  # inches, of both panels


@dataclass(frozen=True)
class Artefact:
    """An artefact to measure.

    Attributes:
        path: the file.
        runtime: prefix of another runtime; '' for the one of its suffix.
    """

    path: Path
    runtime: str

    @property
    def size_bytes(self) -> int:
        """Size of the files to deploy, bytes."""
        weights = [self.path.with_suffix(".bin")] if self.runtime == "ncnn" else []
        return sum(path.stat().st_size for path in [self.path, *weights])


@dataclass
class Measurement:
    """The measurement of one artefact on one number of threads.

    Attributes:
        name: for the table.
        artefact: what was measured.
        threads: of the runtime.
        score: the result on one verification set, as in a report; None if unknown.
        singles: milliseconds of calls with one face.
        batches: milliseconds of calls with 64 faces.
        memory: peak bytes after single faces, and after batches; None where the system does not say.
    """

    name: str
    artefact: Artefact
    threads: int
    score: dict[str, Any] | None
    singles: list[float] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)
    memory: list[int | None] = field(default_factory=list)

    @property
    def ms(self) -> float:
        """Median milliseconds of a single face."""
        return float(np.median(self.singles))


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    artefacts = [parse_artefact(text) for text in args.artefacts]
    out = args.out if args.out.suffix == ".md" else args.out / "embedders.md"
    scores = find_scores(artefacts, args.valid)
    measurements, busy = [], {}
    for threads in sorted({1, os.cpu_count() or 1}):
        before = read_cpu()
        measurements += measure(artefacts, threads, args.rounds, scores)
        busy[threads] = busy_share(before)
    if args.valid and None in scores:
        measure_scores(measurements, args.valid)
    table = make_table(measurements)
    picture = out.with_suffix(".png")
    has_picture = any(one.score for one in measurements)
    if has_picture:
        write_bytes(picture, draw(measurements))
    text = f"{table}\n\n{describe(args.rounds, busy)}\n"
    write_bytes(out, (text + f"\n![ACC and VR against latency]({picture.name})\n" * has_picture).encode())
    print(text)
    print(f"wrote {out}" + (f" and {picture}" if has_picture else "; for a picture pass --valid BIN"))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "artefacts",
        nargs="+",
        metavar="ARTEFACT",
        help="[RUNTIME:]FILE; files to measure; the others are compared with the first",
    )
    parser.add_argument(
        "--valid", type=Path, metavar="BIN", help="measure ACC and VR on this set if no report has them"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER_OR_MD",
        help="path of the table; the picture is written beside it",
    )
    parser.add_argument("--rounds", type=int, default=12, help="number of measured rounds (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        raise FaceError(f"--rounds must be at least 1. Received: {args.rounds}.")
    if args.valid is not None:
        require_file(args.valid, "verification .bin")
    return args


def parse_artefact(text: str) -> Artefact:
    """'openvino:X' or 'X' -> what to measure."""
    prefix, colon, rest = text.partition(":")
    runtime = prefix if colon and prefix in EXTRA else ""
    return Artefact(require_file(Path(rest if runtime else text), "model"), runtime)


# ---------------------------------------------------------------------------------- inside an artefact's own process

_OPENED = []  # the embedder of this process, and faces for it


def open_here(artefact: Artefact, threads: int) -> str:
    """Opens the artefact in this process. Returns the name of the runtime; '' for the one of its suffix."""
    from facelib.data.synthetic.faces import synthetic_face
    from facelib.runtimes.open_embedder import open_embedder

    sidecar = check_sidecar(artefact.path)
    if sidecar is None and artefact.runtime != "ncnn":
        raise FaceError(
            f"A model needs a sidecar that describes its input. '{artefact.path}' has no sidecar: make the model with "
            "the scripts of this project."
        )
    opener = EXTRA.get(artefact.runtime, open_embedder)
    embedder = opener(artefact.path, sidecar.io if sidecar else Io(), threads)
    faces = np.stack([synthetic_face(0, identity, 0) for identity in range(8)])
    _OPENED[:] = [embedder, np.tile(faces, (BATCH // len(faces), 1, 1, 1))]
    return embedder.name if artefact.runtime else ""


def time_here(calls: int, batch: int) -> tuple[list[float], int | None]:
    """Milliseconds of each call with `batch` faces, and the peak of memory so far."""
    embedder, faces = _OPENED
    milliseconds = []
    for k in range(calls):
        images = faces[k % BATCH :][:batch] if batch == 1 else faces
        started = time.perf_counter()
        embedder(images)
        milliseconds.append(1000 * (time.perf_counter() - started))
    return milliseconds, peak_memory()


def score_here(valid: Path) -> dict[str, Any]:
    """The result on the only set in `valid`, as in a report, with the embedder of this process."""
    from evaluate_data import evaluate_sets
    from facelib.evaluation.verification_sets import find_sets

    (result,) = evaluate_sets(_OPENED[0], find_sets(valid), progress=False).results
    return {"name": result.name, **result.as_dict()}


# -------------------------------------------------------------------------------------------------------- measuring


def start_process() -> ProcessPoolExecutor:
    """A new process, so that thread settings and peak memory are those of one artefact."""
    return ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))


def measure(
    artefacts: Sequence[Artefact], threads: int, rounds: int, scores: Sequence[dict | None]
) -> list[Measurement]:
    """Measures all artefacts on `threads` threads, in turn."""
    processes = [start_process() for _ in artefacts]
    try:
        found = []
        names = distinct_names([artefact.path.resolve() for artefact in artefacts])
        for process, artefact, name, score in zip(processes, artefacts, names, scores, strict=True):
            runtime = process.submit(open_here, artefact, threads).result()
            found.append(Measurement(f"{name} ({runtime})" if runtime else name, artefact, threads, score))
        for process, one in zip(processes, found, strict=True):  # warm up, each at its first size alone
            one.memory += [process.submit(time_here, *size).result()[1] for size in ((SINGLES, 1), (1, BATCH))]
        for _ in range(rounds):
            for process, one in zip(processes, found, strict=True):
                one.singles += process.submit(time_here, SINGLES, 1).result()[0]
                one.batches += process.submit(time_here, 1, BATCH).result()[0]
        return found
    finally:
        for process in processes:
            process.shutdown()


def find_scores(artefacts: Sequence[Artefact], valid: Path | None) -> list[dict | None]:
    """The result of each artefact from its report, on `valid` or on the set of the first report; None if there is none.

    A report counts only if its SHA-256 is that of the artefact, and only for the runtime of the artefact's suffix.
    """
    wanted, scores = sha256_of(valid) if valid else None, []
    for artefact in artefacts:
        file = report_path(artefact.path)
        report = read_report(file) if file.is_file() and not artefact.runtime else {"sets": {}}
        is_of_it = report.get("sha256") == sha256_of(artefact.path) and not report.get("flip")
        score = None
        for name, result in report["sets"].items():
            source = (result.get("source") or {}).get("sha256")
            if is_of_it and source and source == (wanted or source) and result.get("protocol") == "exact":
                score, wanted = {"name": name, **result}, source
                break
        scores.append(score)
    return scores


def measure_scores(measurements: Sequence[Measurement], valid: Path) -> None:
    """Measures the scores that no report has, each in a new process with all cores."""
    missing: dict[Artefact, list[Measurement]] = {}
    for one in measurements:
        if one.score is None:
            missing.setdefault(one.artefact, []).append(one)
    for artefact, ones in missing.items():
        with start_process() as process:
            process.submit(open_here, artefact, os.cpu_count() or 1).result()
            score = process.submit(score_here, valid).result()
        for one in ones:
            one.score = score


# -------------------------------------------------------------------------------------------------------- the card


def make_table(measurements: Sequence[Measurement]) -> str:
    """One row for each artefact and number of threads, as aligned Markdown."""
    on = next((f" {one.score['name']}" for one in measurements if one.score), "")
    heads = ["artefact", "threads", "MiB", "ms a face", "quartiles", "times faster", f"images/s, batch {BATCH}",
             "memory MiB", f"batch {BATCH}", f"ACC %{on}", "VR@FAR=1e-3 %"]  # fmt: skip
    rows = []
    first = {}
    for one in measurements:
        base = first.setdefault(one.threads, one)
        low, high = np.percentile(one.singles, [25, 75])
        score = one.score or {}
        rows.append([
            one.name,
            str(one.threads),
            f"{one.artefact.size_bytes / 2**20:.2f}",
            f"{one.ms:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{base.ms / one.ms:.2f}",
            f"{1000 * BATCH / np.median(one.batches):.0f}",
            *("-" if peak is None else f"{peak / 2**20:.0f}" for peak in one.memory),
            format_percent(score.get("acc")),
            format_percent(rate_of(score)),
        ])  # fmt: skip
    return format_markdown_table([heads, *rows], 1)


def rate_of(score: dict[str, Any]) -> float | None:
    """VR at FAR 1e-3; None if it was not measured, or the set has too few pairs."""
    return score.get("vr", {}).get(FAR, {}).get("vr")


def describe(rounds: int, busy: dict[int, float]) -> str:
    """The conditions of the measurement, in two sentences."""
    versions = dict(package_versions())
    for name in ("openvino", "ncnn"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    shares = ", ".join(f"{share:.2f} on {threads} thread{'s' * (threads > 1)}" for threads, share in busy.items())
    return (
        f"{rounds} rounds in turn, each {SINGLES} single faces and one batch of {BATCH}; medians; times faster than "
        f"the first artefact on as many threads; memory is the peak of the process, Python and runtime included.\n"
        f"{machine()}; busy share of all cores meanwhile {shares}; {time.strftime('%F')}; "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}."
    )


def draw(measurements: Sequence[Measurement]) -> bytes:
    """A PNG: ACC and VR against the latency of one face on one thread, with quartiles and 95 % intervals as bars."""
    from matplotlib.ticker import LogLocator

    shown = [one for one in measurements if one.score and one.threads == 1]
    figure, axes, colours = begin("light", _HEIGHT, rows=2)
    for one, style in zip(shown, styles(colours), strict=False):
        low, high = np.percentile(one.singles, [25, 75])
        vr = one.score["vr"].get(FAR, {})
        points = ((one.score["acc"], one.score.get("acc_ci95")), (vr.get("vr"), vr.get("ci95")))
        for ax, (rate, interval) in zip(axes, points, strict=True):
            if rate is None:
                continue
            spread = np.abs(np.subtract(interval, rate))[:, None] * 100 if interval else None
            ax.errorbar(
                [one.ms], [100 * rate], xerr=[[one.ms - low], [high - one.ms]], yerr=spread, label=one.name,
                color=style.color, marker=style.marker, markersize=7, markerfacecolor="none", linestyle="none",
                elinewidth=0.7,
            )  # fmt: skip
    axes[0].set_xscale("log")
    axes[0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].xaxis.set_major_formatter("{x:g}")
    axes[0].xaxis.set_minor_formatter("")
    label(axes[0], colours, y=f"ACC, % ({shown[0].score['name']})")
    label(axes[1], colours, "ms a face, one thread (log)", "VR@FAR=1e-3, %")
    legend_below(figure, axes[0], colours)
    return finish(figure)


if __name__ == "__main__":
    run_cli(main)
