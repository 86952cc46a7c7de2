"""Compare the speed of TFLite models on one thread, such as int8 and float.

python benchmarks/bench_tflite.py runs/demo/export/model_float.tflite runs/demo/export/model_int8.tflite

The models run alternately, each 60 times after 5 warm-ups, and times are medians. The script prints one JSON line for
each model; `times_faster` is relative to the first. Other work on the machine slows down int8 more than float. So
`busy` shows the share of all cores in use during the test: 0.5 on two cores that are otherwise idle.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.machine import busy_share, machine, read_cpu
from facelib.cli import run_cli
from facelib.data.synthetic.faces import synthetic_face
from facelib.runtimes.tflite import Lite


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", type=Path, nargs="+", metavar="TFLITE", help="models; the others are compared with the first"
    )
    parser.add_argument("--runs", type=int, default=60, help="runs of each model (default: %(default)s)")
    args = parser.parse_args(argv)
    lites = [Lite(path) for path in args.models]
    face = synthetic_face(0, 0, 0)[None]
    before = read_cpu()
    milliseconds = np.array([[time_once(lite, face) for lite in lites] for _ in range(args.runs + 5)])[5:]
    busy = busy_share(before)
    medians = np.median(milliseconds, axis=0)
    for path, median, times in zip(args.models, medians, milliseconds.T, strict=True):
        result = {
            "name": "tflite",
            "model": path.name,
            "ms": round(median, 3),
            "iqr_ms": np.percentile(times, [25, 75]).round(3).tolist(),
            "times_faster": round(medians[0] / median, 3),
            "best_ms": round(times.min(), 3),
            "busy": busy,
            "threads": 1,
            "machine": machine(),
        }
        print(json.dumps(result))
    return 0


def time_once(lite: Lite, face: np.ndarray) -> float:
    """Milliseconds for one face, uint8 [1, 112, 112, 3]."""
    pixels = face.astype(lite.dtype)
    started = time.perf_counter()
    lite(pixels)
    return 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    run_cli(main)
