"""Measure the time of one 1:N search: the median of 50 single queries. Each of 5 rounds has 3 warm-ups and 10 queries.

    python benchmarks/bench_search.py [--rows 1000000] [--size 128]

`gallery` is the search of predict.py. In a large gallery, this search scans 8-bit copies with faiss, and then compares
the stored float16 rows of the candidates. `faiss float16` scans float16 copies. `numpy float32` is one matrix product
and a partial sort, from memory and from a memory-mapped file. `open_s`: seconds to open, verify and load a gallery,
once per process. `gallery_mb`: memory of the gallery, with the names and without the mapped file. `ratio`: median
divided by the median of `faiss float16`. `top1`: share of the queries for which the engine finds the truly nearest row.
The true rows are computed in float64 from the float32 vectors. `recall`: share of the true 5 nearest rows that the
engine finds. `busy`: share of all cores in use during the search. The engines run in rounds, because the threads of one
engine stay active for about 30 ms and would slow down the next engine. Files are in the system's temporary folder: 0.8
GB for a million rows.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from facelib.cli import run_cli
from facelib.evaluation.nearest import Nearest
from facelib.model_input import Io
from facelib.recognition.gallery import open_gallery, write_gallery

ROUNDS, QUERIES, WARMUPS, TOP = 5, 10, 3, 5
BLOCK = 100_000  # rows


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=1_000_000, metavar="N", help="number of identities (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=int, default=128, metavar="D", help="values of an embedding (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    vectors, queries = draw(args.rows, args.size)
    half = half_float_index(vectors)
    with tempfile.TemporaryDirectory() as folder:
        path = write_files(Path(folder), vectors)
        mapped = np.load(Path(folder) / "float32.npy", mmap_mode="r")
        started = time.perf_counter()
        before = private_mb()
        nearest = Nearest(open_gallery(path).vectors)
        opened = time.perf_counter() - started
        print(json.dumps({"gallery_mb": private_mb() - before, "float32_mb": vectors.nbytes // 1_000_000}))
        engines = {
            "gallery": lambda query: nearest(query, TOP).rows,
            "faiss float16": lambda query: half.search(query[None], TOP)[1][0],
            "numpy float32": lambda query: numpy_top(vectors, query),
            "numpy float32, memory map": lambda query: numpy_top(mapped, query),
        }
        measure(engines, vectors, queries, opened)
    return 0


def measure(engines: dict, vectors: np.ndarray, queries: np.ndarray, opened: float) -> None:
    """Prints one JSON line an engine."""
    truth = [exact_top(vectors, query) for query in queries]
    milliseconds, hits, firsts = {name: [] for name in engines}, dict.fromkeys(engines, 0), dict.fromkeys(engines, 0)
    before = cpu_ticks()
    for first in range(0, len(queries), QUERIES):
        for name, search in engines.items():
            for query in queries[:WARMUPS]:
                search(query)
            for i in range(first, first + QUERIES):
                started = time.perf_counter()
                rows = search(queries[i])
                milliseconds[name].append(1000 * (time.perf_counter() - started))
                hits[name] += len(set(truth[i]) & set(rows.tolist()))
                firsts[name] += truth[i][0] == rows[0]
    busy, idle = (after - start for after, start in zip(cpu_ticks(), before, strict=True))
    for name, times in milliseconds.items():
        result = {
            "name": "search",
            "engine": name,
            "rows": len(vectors),
            "size": vectors.shape[1],
            "ms": round(float(np.median(times)), 2),
            "ratio": round(float(np.median(times) / np.median(milliseconds["faiss float16"])), 2),
            "iqr_ms": np.percentile(times, [25, 75]).round(2).tolist(),
            "best_ms": round(min(times), 2),
            "top1": firsts[name] / len(queries),
            "recall": hits[name] / (TOP * len(queries)),
            "open_s": round(opened, 2) if name == "gallery" else None,
            "busy": round(busy / max(1, busy + idle), 2),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        }
        print(json.dumps(result))


def draw(num_rows: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 unit rows [N, D] and queries [Q, D]: each another photo of somebody enrolled, at cosine about 0.7."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((num_rows, size), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = vectors[rng.integers(num_rows, size=ROUNDS * QUERIES)]
    queries = near + rng.standard_normal(near.shape, np.float32) / np.sqrt(np.float32(size))
    return vectors, queries / np.linalg.norm(queries, axis=1, keepdims=True)


def write_files(folder: Path, vectors: np.ndarray) -> Path:
    """A gallery of `vectors`, and the same rows in float32 beside it."""
    np.save(folder / "float32.npy", vectors)
    (folder / "model").write_bytes(b"none")
    names = [f"identity {i}" for i in range(len(vectors))]
    write_gallery(
        folder / "gallery.npy", vectors, names, [1] * len(vectors), model=folder / "model", io=Io(), flip=False,
        decision=None,
    )  # fmt: skip
    return folder / "gallery.npy"


def half_float_index(vectors: np.ndarray):
    """faiss over float16 copies of rows, as galleries were searched before 8 bits."""
    import faiss

    index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add_sa_codes(vectors.astype(np.float16).view(np.uint8))
    return index


def private_mb() -> int:
    """Memory of this process without mapped files, in MB; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")) // 1_000_000


def numpy_top(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The nearest rows by one product and a partial sort."""
    cosines = vectors @ query
    rows = np.argpartition(cosines, -TOP)[-TOP:]
    return rows[np.argsort(-cosines[rows])]


def exact_top(vectors: np.ndarray, query: np.ndarray) -> list[int]:
    """The nearest rows in float64, block by block."""
    blocks = (vectors[i : i + BLOCK].astype(np.float64) @ query for i in range(0, len(vectors), BLOCK))
    return np.argsort(-np.concatenate(list(blocks)))[:TOP].tolist()


def cpu_ticks() -> tuple[int, int]:
    """(busy, idle) ticks of all cores so far; zeros where the system does not say."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0, 0
    ticks = [int(word) for word in stat.read_text(encoding="utf-8").split("\n")[0].split()[1:8]]
    return sum(ticks) - ticks[3] - ticks[4], ticks[3] + ticks[4]


if __name__ == "__main__":
    run_cli(main)
