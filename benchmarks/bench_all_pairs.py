"""Measure the time and memory of testing all pairs of 13,233 images: 5,749 identities, 87.5 million pairs, as in LFW.

    python benchmarks/bench_all_pairs.py [--images 13233]

The embeddings are random and have 128 values. The test does everything that `evaluate_data.py --valid FOLDER` does
after embedding: distances, ROC with intervals, AUC, EER, folds, thresholds, hardest pairs, identification. Limits: 60 s
and 4 GB on two cores.
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from facelib.cli import run_cli
from facelib.evaluation.evaluate_set import measure_folder

SINGLES = 0.7  # share of identities with one image, as in LFW


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=int, default=13233, metavar="N", help="number of images (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    labels = draw_labels(args.images)
    random = np.random.default_rng(0)
    rows = random.normal(size=(labels.max() + 1, 128))[labels] + 0.9 * random.normal(size=(len(labels), 128))
    started = time.perf_counter()
    result = measure_folder("random", rows.astype(np.float32), labels, images=list(map(str, range(len(labels)))))
    line = {
        "name": "all pairs",
        "pairs": result.pairs,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "date": time.strftime("%F"),
    }
    print(json.dumps(line))
    return 0


def draw_labels(num_images: int) -> np.ndarray:
    """The identity of each image: most have one, few have many."""
    num_identities = max(4, round(num_images * 5749 / 13233))
    many = max(2, round((1 - SINGLES) * num_identities))
    rest = np.random.default_rng(1).integers(0, many, num_images - num_identities)
    return np.concatenate([np.arange(num_identities), rest])


if __name__ == "__main__":
    run_cli(main)
