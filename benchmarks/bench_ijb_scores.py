"""Measure the time and memory of all 1:1 scores of IJB-C, and of a 1:N search in a large gallery.

    python benchmarks/bench_ijb_scores.py [--pairs N] [--gallery G] [--probes P]

The vectors are random: 23,124 templates with 512 values, of which 3,531 are gallery templates and 19,593 are probe
templates. There are 15,658,489 pairs of a gallery and a probe template, in random order; 19,557 pairs are genuine.
`score_pairs` uses blocks of the template matrix. `gathers` is a second method: it sorts the pairs by their first
template and fetches two rows for each pair. `verify` computes the table: six FARs, AUC, EER. `identify` searches a
gallery of 1,000,000 x 128 with 10,000 probes, half of them mated. `products alone` measures only the matrix products of
this search. Each part runs once. `peak` is the memory of the whole process so far, `inputs` the size of the arrays.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from facelib.cli import run_cli  # noqa: E402
from facelib.evaluation.identification import identify  # noqa: E402
from facelib.evaluation.ijb.protocol import score_pairs, verify  # noqa: E402

TEMPLATES, GALLERY_TEMPLATES, SIZE = 23_124, 3_531, 512
GENUINE = 19_557
BLOCK_ROWS, BLOCK_PROBES = 4096, 512  # of `products alone`: 8 MB of scores at a time


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs", type=int, default=15_658_489, metavar="N", help="number of template pairs (%(default)s)"
    )
    parser.add_argument("--gallery", type=int, default=1_000_000, metavar="G", help="rows of the gallery (%(default)s)")
    parser.add_argument("--probes", type=int, default=10_000, metavar="P", help="number of searches (%(default)s)")
    args = parser.parse_args(argv)
    measure_pairs(args.pairs)
    measure_search(args.gallery, args.probes)
    print(
        f"{len(os.sched_getaffinity(0))} cores, {cpu_name()}, Python {platform.python_version()}, NumPy "
        f"{np.__version__}, load {os.getloadavg()[0]:.1f}, {time.strftime('%F')}"
    )
    return 0


def measure_pairs(num_pairs: int) -> None:
    random = np.random.default_rng(0)
    templates = draw_unit(random, TEMPLATES, SIZE)
    first = random.integers(0, GALLERY_TEMPLATES, num_pairs, dtype=np.int32)
    second = random.integers(GALLERY_TEMPLATES, TEMPLATES, num_pairs, dtype=np.int32)
    is_same = np.zeros(num_pairs, bool)
    is_same[random.permutation(num_pairs)[: max(1, num_pairs * GENUINE // 15_658_489)]] = True
    inputs = sum(part.nbytes for part in (templates, first, second, is_same))
    scores = clock("score_pairs", inputs, score_pairs, templates, first, second)
    clock("verify", inputs, verify, scores, is_same)
    other = clock("gathers", inputs, gather_scores, templates, first, second)
    print(json.dumps({"largest difference of the two ways": float(np.abs(scores - other).max())}))


def gather_scores(templates: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines of pairs, two rows fetched for each: the way `score_pairs` is compared to."""
    order = np.argsort(first.astype(np.uint16), kind="stable")
    scores = np.empty(len(first), np.float32)
    for begin in range(0, len(order), 2**15):
        some = order[begin : begin + 2**15]
        scores[some] = np.einsum("ij,ij->i", templates[first[some]], templates[second[some]])
    return scores


def measure_search(num_gallery: int, num_probes: int) -> None:
    random = np.random.default_rng(1)
    gallery, probes = draw_unit(random, num_gallery, 128), draw_unit(random, num_probes, 128)
    num_mated = num_probes // 2
    probes[:num_mated] += 1.5 * gallery[:num_mated]
    ids = np.where(np.arange(num_probes) < num_mated, np.arange(num_probes), -1)
    inputs = gallery.nbytes + probes.nbytes
    clock("identify", inputs, identify, gallery, np.arange(num_gallery), probes, ids)
    clock("products alone", inputs, multiply, gallery, probes)


def multiply(gallery: np.ndarray, probes: np.ndarray) -> None:
    """The matrix products of `identify` and nothing else: what it cannot be faster than."""
    for begin in range(0, len(gallery), BLOCK_ROWS):
        for first in range(0, len(probes), BLOCK_PROBES):
            probes[first : first + BLOCK_PROBES] @ gallery[begin : begin + BLOCK_ROWS].T


def clock(name: str, inputs: int, function, *arguments):
    """Runs it once and prints a line; returns what it gave."""
    started, worked = time.perf_counter(), time.process_time()
    value = function(*arguments)
    line = {
        "name": name,
        "seconds": round(time.perf_counter() - started, 2),
        "core_seconds": round(time.process_time() - worked, 2),
        "inputs_mb": round(inputs / 1e6),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
    }
    print(json.dumps(line), flush=True)
    return value


def draw_unit(random: np.random.Generator, num_rows: int, size: int) -> np.ndarray:
    rows = random.standard_normal((num_rows, size), np.float32)
    rows /= np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]  # in place: the peak shall be that of the search
    return rows


def cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    run_cli(main)
