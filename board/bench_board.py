"""Measure models on this board: self test, time of one face at 1, 2 and 4 threads, temperature, clock and memory.

board/bench_board.sh runs/demo/export/model_int8.tflite runs/demo/export/model_float.tflite --out board.json

The script needs only the board install (docs/board.md), and ONNX Runtime for .onnx files. The script prints one
Markdown row for each model and writes a JSON file, so that you can send both. Energy is not measured. On an emulated
CPU the script runs the self tests and leaves out times, memory, temperature and clock.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import importlib.metadata
import multiprocessing
import platform
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from typing import Any

import numpy as np

from facelib import __version__, machine
from facelib.cli import run_cli, script_parser
from facelib.embedder import RuntimeEmbedder
from facelib.errors import FaceError
from facelib.evaluation.results import format_markdown_table
from facelib.evaluation.single_calls import call_times_ms
from facelib.files import require_file, write_json
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.runtimes.tflite import TfliteEmbedder
from facelib.self_test import run_self_test
from facelib.sidecar import Sidecar, check_sidecar

THREADS = (1, 2, 4)
PACKAGES = ("numpy", "ai-edge-litert", "onnxruntime")
HEADS = [
    "board", "model", "executor", "self test", *(f"ms, {n} thread{'s' * (n > 1)}" for n in THREADS), "peak MiB", "°C",
    "MHz",
]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("models", type=Path, nargs="+", metavar="MODEL", help=".tflite and .onnx files with their sidecars")
    add(
        "--out", type=Path, default=Path("board.json"), metavar="JSON", help="JSON file to write (default: %(default)s)"
    )
    seconds_help = "seconds to measure each number of threads (default: %(default)g)"
    add("--seconds", type=float, default=5.0, metavar="S", help=seconds_help)
    args = parser.parse_args(argv)
    if not 0 < args.seconds <= 3600:
        raise FaceError(f"--seconds must be above 0 and at most 3600. Received: {args.seconds:g}.")
    for path in args.models:
        read_feeding(path)  # errors show before the first measurement
    seconds = None if machine.is_emulated() else args.seconds
    found = {**describe_board(), "models": [in_separate_process(path, seconds) for path in args.models]}
    write_json(args.out, found)
    print(format_rows(found))
    print("ms: median / 95th percentile of calls with one face. °C and MHz: before -> after.")
    if found["emulated"]:
        print("This CPU is emulated: times, memory, temperature and clock would mean nothing and are left out.")
    print(f"wrote {args.out}")
    return 0


def read_feeding(path: Path) -> Sidecar:
    """The sidecar of a model, which says how it is fed.

    Raises:
        FaceError: no such file, another kind of file, or one without a sidecar.
    """
    if require_file(path, "model").suffix not in (".tflite", ".onnx"):
        raise FaceError(f"A model for a board must be a .tflite or .onnx file. Received: '{path}'.")
    sidecar = check_sidecar(path)
    if sidecar is None:
        raise FaceError(
            f"'{path}' needs a sidecar that describes the input of the model. Copy '{path}.json' to the same folder."
        )
    return sidecar


def describe_board() -> dict[str, Any]:
    """What the JSON file says of this computer."""
    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "board": machine.board() or machine.processor(),
        "processor": machine.processor(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": machine.cores(),
        "memory_bytes": machine.total_bytes(),
        "python": platform.python_version(),
        "packages": packages,
        "mobilearc": __version__,
        "emulated": machine.is_emulated(),
        "date": date.today().isoformat(),
    }


def in_separate_process(path: Path, seconds: float | None) -> dict[str, Any]:
    """`measure` in a process of its own, so that its memory is that of one model."""
    # A fork also works in QEMU, which cannot start another ARM program.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, path, seconds).result()


def measure(path: Path, seconds: float | None) -> dict[str, Any]:
    """Runs the self test of a model and measures it.

    Args:
        path: a .tflite or .onnx.
        seconds: for the calls at each number of threads; None to measure nothing.

    Raises:
        FaceError: the model does not give the embedding of its self test.
    """
    sidecar = read_feeding(path)
    model = open_model(path, sidecar, 1)
    outcome = run_self_test(model, sidecar)
    found: dict[str, Any] = {
        "artefact": path.name,
        "sha256": sidecar.sha256,
        "kind": sidecar.kind,
        "size_bytes": path.stat().st_size,
        "executor": model.executor,
        "self_test": outcome and {
            "cosine": outcome.cosine, "same_bits": outcome.is_same_bits, "made_on": outcome.executor
        },
        "before": read_sensors(seconds),
        "calls": [],
    }  # fmt: skip
    for threads in THREADS if seconds else ():
        if threads <= machine.cores():
            times = call_times_ms(open_model(path, sidecar, threads), sidecar.io.size, seconds or 0)
            median, late = np.percentile(times, (50, 95)).tolist()
            found["calls"].append({"threads": threads, "num": len(times), "ms_median": median, "ms_p95": late})
    found["after"] = read_sensors(seconds)
    found["peak_bytes"] = machine.peak_bytes() if seconds else None
    return found


def open_model(path: Path, sidecar: Sidecar, threads: int) -> RuntimeEmbedder:
    """The model, where all threads work on one face."""
    if path.suffix == ".onnx":
        return OnnxEmbedder(path, sidecar.io, threads)
    return TfliteEmbedder(path, sidecar.io, call_threads=threads)


def read_sensors(seconds: float | None) -> dict[str, float | None]:
    """Temperature and clock at this moment; None where they cannot be read or nothing is measured."""
    if not seconds:
        return {"celsius": None, "mhz": None}
    return {"celsius": machine.temperature(), "mhz": machine.clock_mhz()}


def format_rows(found: dict[str, Any]) -> str:
    """The table: one row for each model of the JSON file."""
    board = f"{found['board']}, emulated" if found["emulated"] else found["board"]
    lines = [HEADS]
    for each in found["models"]:
        times = {call["threads"]: f"{call['ms_median']:.2f} / {call['ms_p95']:.2f}" for call in each["calls"]}
        peak = each["peak_bytes"]
        lines.append([
            board, each["artefact"], each["executor"], format_self_test(each["self_test"]),
            *(times.get(threads, "-") for threads in THREADS), "-" if peak is None else f"{peak / 2**20:.0f}",
            *(format_change(each["before"][name], each["after"][name]) for name in ("celsius", "mhz")),
        ])  # fmt: skip
    return format_markdown_table(lines, 4)


def format_self_test(test: dict[str, Any] | None) -> str:
    """What the table says of a self test that was passed."""
    if test is None:
        return "none in the sidecar"
    return "same bits" if test["same_bits"] else f"cosine {test['cosine']:.4f}"


def format_change(before: float | None, after: float | None) -> str:
    """'48 -> 61', or '-' where it could not be read."""
    return "-" if before is None or after is None else f"{before:.0f} -> {after:.0f}"


if __name__ == "__main__":
    run_cli(main)
