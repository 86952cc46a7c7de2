"""Measure the time to open millions of records and to shuffle them for one epoch, and the memory per record.

    python benchmarks/bench_big_data.py [--records 42_000_000]        default: 5.8 M records, as many as MS1MV2 has

The data directory is synthetic, in a temporary folder: it has a real index and meta.json, but the shards are sparse
files without content. Each figure is the median over fresh processes; the files are in the page cache. Limits: open < 5
s, order < 2 s, memory < 24 bytes per record. Times are measured twice: as wall time, and as core-seconds of the
process, which depend less on other work of the machine. Memory is also given in two ways, both without the memory of
the imports. `peak` is the memory for opening the data and shuffling one epoch, with the names of the identities.
`with_index` also counts the whole index, although the system can drop its pages.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import busy_share, machine, peak_memory, read_cpu, resident_memory  # noqa: E402
from dataset import TrainingData  # noqa: E402
from facelib.cli import run_cli  # noqa: E402
from facelib.data.conversion.job import RECORDS_PER_SHARD  # noqa: E402
from facelib.data.data_dir import FORMAT_VERSION, INDEX, META, shard_name  # noqa: E402
from facelib.data.readers.open_records import open_records  # noqa: E402
from facelib.data.record_reader import INDEX_DTYPE  # noqa: E402
from facelib.data.tfrecord import FRAME_BYTES  # noqa: E402
from facelib.files import write_json  # noqa: E402

RECORDS, IMAGES_EACH = 5_800_000, 20.5  # WebFace42M: 42,474,558 images of 2,059,906 identities
BARS = {
    "open_s": 5.0,
    "open_core_s": 5.0,
    "order_s": 2.0,
    "order_core_s": 2.0,
    "peak_bytes_a_record": 24.0,
    "with_index_bytes_a_record": 24.0,
}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=RECORDS, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="number of fresh processes (%(default)s)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # the fresh process
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(Path(folder), args.records)
        before = read_cpu()
        runs = [run_fresh(folder) for _ in range(args.repeats)]
        line = {"name": "big data", "records": args.records}
        line |= {key: round(float(np.median([run[key] for run in runs])), 3) for key in runs[0]}
        line["bars"] = {key: line[key] < bar for key, bar in BARS.items()}
        print(json.dumps(line | {"busy": busy_share(before), "machine": machine()}))
    return 0


def run_fresh(folder: str) -> dict:
    command = [sys.executable, __file__, "--measure", folder]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(folder: Path) -> dict:
    """What one process sees: seconds of each step, bytes a record."""
    base = resident_memory()
    start = clock()
    records = open_records(folder)
    opened, seconds = resident_memory() - base, {"open": clock() - start}
    start = clock()
    order = TrainingData(records, 512).order(3)
    seconds["order"] = clock() - start
    peak, resident = peak_memory() - base, resident_memory() - base
    start = clock()
    len(records.fingerprint)
    seconds["fingerprint"] = clock() - start
    start = clock()
    len(np.bincount(records.labels))
    seconds["count_labels"] = clock() - start
    count = len(order)
    times = {
        f"{name}{unit}": s for name, pair in seconds.items() for unit, s in zip(("_s", "_core_s"), pair, strict=True)
    }
    return {
        **times,
        "opened_bytes_a_record": opened / count,
        "resident_bytes_a_record": resident / count,
        "peak_bytes_a_record": peak / count,
        "with_index_bytes_a_record": (resident_memory() - base) / count,
    }


def clock() -> np.ndarray:
    """Seconds by the wall, and core-seconds of this process: [2]."""
    return np.array([time.perf_counter(), time.process_time()])


def write_synthetic(folder: Path, num_records: int) -> None:
    """A data directory of `num_records` that opens: a true index, and shards without a byte on the disk."""
    num_shards = -(-num_records // RECORDS_PER_SHARD)
    num_classes = max(2, int(num_records / IMAGES_EACH))
    index = np.lib.format.open_memmap(folder / INDEX, "w+", INDEX_DTYPE, (num_records,))
    rng, shards, digest = np.random.default_rng(0), [], hashlib.sha256()
    for k in range(num_shards):
        rows = index[k * RECORDS_PER_SHARD : (k + 1) * RECORDS_PER_SHARD]
        lengths = rng.integers(3000, 7000, len(rows))
        sizes = lengths + FRAME_BYTES
        rows["shard"], rows["offset"], rows["length"] = k, np.cumsum(sizes) - sizes, lengths
        rows["label"] = rng.integers(0, num_classes, len(rows))
        digest.update(rows.view(np.uint8))
        path = folder / shard_name(k, num_shards)
        path.touch()
        os.truncate(path, int(sizes.sum()))
        shards.append({"name": path.name, "bytes": int(sizes.sum()), "records": len(rows), "sha256": "0" * 64})
    index.flush()
    meta = {
        "format_version": FORMAT_VERSION,
        "num_images": num_records,
        "num_classes": num_classes,
        "image_size": [112, 112],
        "index": {"name": INDEX, "sha256": digest.hexdigest()},
        "shards": shards,
        "class_names": [f"m.{k:08x}" for k in range(num_classes)],
    }
    write_json(folder / META, meta)


if __name__ == "__main__":
    run_cli(main)
