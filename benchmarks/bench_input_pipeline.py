"""Measure the images per second of dataset.py on all cores, and compare them with those of cv2.imdecode on one core.

    python benchmarks/bench_input_pipeline.py [--data DIR]        default: synthetic faces in a temporary folder

`ratio` is pipeline / (cores x imdecode on one core). Limit: `ratio` >= 0.6 for both ways to shuffle. The three
measurements alternate, ROUNDS times, because the speed of a shared machine changes with time. Figures are medians, and
each ratio compares measurements that follow each other. `core_ratio` is the same ratio in core-seconds of this process.
Other work on the machine does not change `core_ratio`, and the time that threads wait for each other is not counted.
Files are in the page cache after the warm-up. Nothing uses the batches.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dataset import TrainingData  # noqa: E402
from facelib.cli import run_cli  # noqa: E402
from facelib.data.conversion.job import convert  # noqa: E402
from facelib.data.readers.open_records import open_records  # noqa: E402
from facelib.data.record_reader import Records  # noqa: E402
from facelib.data.synthetic.files import SyntheticSet, write_insightface  # noqa: E402

ROUNDS = 5
NUM_IMAGES = 16384  # of one measurement, at most: whole pools of "blocks"
FACES = SyntheticSet(100, 30)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="data directory (default: synthetic faces)")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="images per batch (%(default)s)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        records = open_records(args.data or write_synthetic_data(Path(folder)))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        jpegs = [records.read(i)[0] for i in np.random.default_rng(0).permutation(len(records))[:NUM_IMAGES].tolist()]
        names = ("imdecode, 1 core", "records", "blocks")
        rates = {name: [] for name in names}
        for number in range(ROUNDS + 1):  # the first is the warm-up
            measured = (
                decode_rate(jpegs),
                pipeline_rate(records, args.batch_size, "records", cores, number),
                pipeline_rate(records, args.batch_size, "blocks", cores, number),
            )
            for name, rate in zip(names, measured, strict=True):
                rates[name] += [rate] if number else []
        report(rates, cores, records, args.batch_size)
    return 0


def write_synthetic_data(folder: Path, faces: SyntheticSet = FACES) -> Path:
    write_insightface(folder / "faces", faces)
    return convert(folder / "faces", folder / "data", progress=False).out


class Clock:
    """Seconds since it was made: by the wall, and of this process on all cores."""

    def __init__(self):
        self.wall, self.core = time.perf_counter(), time.process_time()

    def rates(self, count: int) -> tuple[float, float]:
        return count / (time.perf_counter() - self.wall), count / (time.process_time() - self.core)


def decode_rate(jpegs: list[bytes]) -> tuple[float, float]:
    """Images per second and per core-second of cv2.imdecode alone, in one thread, from memory."""
    cv2.setNumThreads(1)
    clock = Clock()
    for jpeg in jpegs:
        cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    return clock.rates(len(jpegs))


def pipeline_rate(records: Records, batch_size: int, shuffle: str, cores: int, epoch: int):
    """Images per second and per core-second of TrainingData: read, check, decode, flip, batch."""
    data = TrainingData(records, batch_size, shuffle=shuffle, num_threads=cores, image_size=image_size(records))
    clock, count = Clock(), 0
    for batch in data.batches(epoch):
        count += len(batch.labels)
        if count >= NUM_IMAGES:
            break
    return clock.rates(count)


def image_size(records: Records) -> tuple[int, int]:
    return tuple(records.meta.get("image_size", (112, 112)))


def report(rates: dict[str, list[tuple[float, float]]], cores: int, records: Records, batch_size: int) -> None:
    base = np.array(rates["imdecode, 1 core"])
    for name, values in rates.items():
        by_wall, by_core = np.median(values, axis=0).round().astype(int).tolist()
        line = {"name": name, "images_per_s": by_wall, "images_per_core_s": by_core}
        if name != "imdecode, 1 core":
            ratio, core_ratio = np.median(np.array(values) / base / (cores, 1), axis=0).round(3).tolist()
            line |= {"ratio": ratio, "core_ratio": core_ratio}
        print(json.dumps(line))
    processor = next((x.split(":")[1].strip() for x in cpu_info() if x.startswith("model name")), platform.processor())
    versions = f"Python {platform.python_version()}, OpenCV {cv2.__version__}"
    print(
        f"{len(records):,} records, batch {batch_size}; {cores} cores, {processor}, {versions}, {time.strftime('%F')}"
    )


def cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


if __name__ == "__main__":
    run_cli(main)
