"""Measure how many records per second and core prepare_data.py converts, and how fast its result is read.

    python benchmarks/bench_prepare_data.py [SOURCE]        default: ../shared/data/faces_mix

Figures are the best of 3 runs after one warm-up. Core-seconds are the user + system time of the process, so that other
work on the machine does not count. The source is in the page cache after the warm-up. The aim for the conversion is
20,000 records per second and core.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from facelib.cli import run_cli  # noqa: E402
from facelib.data.conversion.job import convert  # noqa: E402
from facelib.data.readers.open_records import open_records  # noqa: E402

REPEATS = 3
BLOCK = 256  # records


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", default=ROOT.parent / "shared" / "data" / "faces_mix")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / str(k) for k in range(REPEATS + 1)]
        report("convert", [measure(partial(convert, args.source, out, progress=False)) for out in outs], outs[0])
        records = open_records(outs[0])
        order = np.random.default_rng(0).permutation(len(records)).tolist()
        report("read, any order", [measure(lambda: [records.read(i) for i in order]) for _ in outs], outs[0])
        blocks = np.array_split(np.arange(len(records)), -(-len(records) // BLOCK))
        seconds = [measure(lambda: [len(records.read_sorted(block)) for block in blocks]) for _ in outs]
        report(f"read, blocks of {BLOCK}", seconds, outs[0])
        reopened = [measure(lambda: open_records(outs[0])) for _ in outs]
        print(f"open: {1000 * min(core for _, core in reopened):.1f} ms")
    return 0


def measure(work) -> tuple[float, float]:
    """(wall seconds, core-seconds) of `work()`."""
    wall, core = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - core


def report(name: str, seconds: list[tuple[float, float]], out: Path) -> None:
    """Prints one JSON line; the first of `seconds` is the warm-up."""
    count = len(open_records(out))
    core = min(core for _, core in seconds[1:])
    wall = min(wall for wall, _ in seconds[1:])
    line = {
        "name": name,
        "records": count,
        "records_per_core_second": round(count / core),
        "core_seconds": round(core, 3),
        "wall_seconds": round(wall, 3),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    print(json.dumps(line))


if __name__ == "__main__":
    run_cli(main)
