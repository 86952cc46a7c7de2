"""Measure how step time, sent bytes and memory grow with classes and workers, and compare them with the planned values.

    python benchmarks/bench_growth.py [--workers 1,2,4] [--classes 10000,100000,1000000,4000000] [--size 128]

On this machine, launch.py starts the workers, which connect over loopback and run the step of the trainer. The step has
ArcFace, SGD with momentum, a batch of `--batch` over all workers, and one dense layer of `--parameters` as the
backbone. There is a run with a tenth of the classes in each step and, if enough memory is free, a run with all classes.
Each line is one run, in fresh processes:

- `step_s`: the median of `--steps` steps after 2 warm-up steps.
- `sent_bytes`: bytes over the loopback interface, for each step and worker.
- `head_bytes`: the highest peak (VmHWM) of a worker, minus its memory before the head was built.

The fields `model_...` are the values from the formulas of docs/scaling.md, "Planning". Limit: bytes above 1 MB and
memory above 256 MB must be at most 1.25 x the planned value. Time has no limit: the workers share the cores of one
machine, so more workers are not faster. `model_step_s` is the time that one machine needs for the work of all workers.
For this time, two speeds of the machine are measured first: the speed of a matrix product and the speed of a copy.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.head_step import HeadStep, be_the_first_to_go, head_recipe, memory_to_spare  # noqa: E402
from benchmarks.machine import busy_share, machine, read_cpu, versions  # noqa: E402
from facelib.cli import run_cli  # noqa: E402
from facelib.errors import FaceError  # noqa: E402
from facelib.tensorflow_env import set_up_tensorflow  # noqa: E402
from facelib.training.recipe.schema import Recipe  # noqa: E402

WARM_UP, JOIN_SECONDS, PATIENCE = 2, 120, 600  # steps, seconds, seconds
REDUCTIONS = 4  # sums of one value a face: the target cosine, two for the sum over the others, the nearest of these
PASSES = 20  # reads and writes of all logits and centres in a step; fitted on a CPU, see docs/scaling.md
PROCESS_BYTES = 64e6  # of any process with a head: 0.07 GB were measured with 10,000 classes, whose head takes 0.01 GB
BAR, WORTH_JUDGING = 1.25, {"sent_bytes": 1e6, "head_bytes": 256e6}


def main(argv=None) -> int:
    args = parse_args(argv)
    if args.speeds:
        print(json.dumps(measure_speeds(args.batch, args.size)))
        return 0
    if args.worker:
        return work(args)
    set_up_tensorflow(Recipe().seed, Recipe().precision, Recipe().deterministic)
    before = read_cpu()
    speeds = json.loads(output_of([sys.executable, __file__, "--speeds", *flags(args)]))
    print(json.dumps({"name": "speeds", **{key: float(f"{value:.3g}") for key, value in speeds.items()}}), flush=True)
    is_met = True
    for num_workers in args.workers:
        for num_classes in args.classes:
            for rate in (args.rate, 1.0):
                line = run(args, num_workers, num_classes, rate, speeds)
                is_met = is_met and all(line.get("bars", {}).values())
                print(json.dumps(line), flush=True)
    print(json.dumps({"name": "growth", "bars": {"as_planned": is_met}}))
    what = f"{args.steps} steps of {args.batch}; busy {busy_share(before)}"
    print(f"{what}, {machine()}, {versions()}")
    return 0


# ------------------------------------------------------------------------------------------------------- the plan


def planned_bytes(num_workers: int, batch_size: int, size: int, num_parameters: int, is_sampled: bool) -> float:
    """Bytes that a worker sends in a step, in rings: a gather sends (W - 1) / W of the whole, a sum twice as much."""
    gathered = 4 * batch_size * size + 8 * batch_size * (1 + is_sampled)  # embeddings; labels, twice when sampled
    summed = 4 * batch_size * size + 4 * REDUCTIONS * batch_size + 4 * num_parameters
    return (num_workers - 1) / num_workers * (gathered + 2 * summed)


def planned_seconds(num_classes: int, batch_size: int, size: int, num_parameters: int, speeds: dict) -> float:
    """Seconds of a step on one machine.

    Args:
        num_classes: in the softmax of the step, of all workers.
        batch_size: faces of all workers.
        size: of an embedding.
        num_parameters: of the backbone.
        speeds: of the machine, from `measure_speeds`.
    """
    operations = 6 * batch_size * size * num_classes + 4 * batch_size * num_parameters
    moved = 4 * PASSES * num_classes * (batch_size + size)
    return operations / speeds["operations_per_s"] + moved / speeds["bytes_per_s"]


# ------------------------------------------------------------------------------------------------- the measurements


def run(args: argparse.Namespace, num_workers: int, num_classes: int, rate: float, speeds: dict) -> dict:
    """The result line of one run in fresh processes."""
    from facelib.distributed.workers import Workers
    from facelib.losses.partial_fc import ClassSplit
    from facelib.training.head_memory import head_bytes

    workers = Workers(0, num_workers)
    recipe = head_recipe(args.size, args.batch, rate)
    line = {"name": "growth", "workers": num_workers, "classes": num_classes, "size": args.size, "rate": rate}
    need, free = memory_to_spare(recipe, num_classes, workers)
    if free is not None and need > free:
        return line | {"left_out": "does not fit", "needs_gb": round(need / 1e9, 1), "free_gb": round(free / 1e9, 1)}
    job = {"classes": num_classes, "rate": rate}
    command = [sys.executable, ROOT / "launch.py", "-n", num_workers, "--grace", 5, __file__, *flags(args)]
    found = json.loads(output_of([*map(str, command), "--worker", json.dumps(job)]).splitlines()[-1])
    first, last = ClassSplit(workers).bounds(num_classes)
    num_used = num_workers * (ClassSplit(workers, rate).num_sampled(num_classes) if rate < 1 else last - first)
    model = {
        "step_s": planned_seconds(num_used, args.batch, args.size, found["parameters"], speeds),
        "sent_bytes": planned_bytes(num_workers, args.batch, args.size, found["parameters"], rate < 1),
        "head_bytes": PROCESS_BYTES + head_bytes(recipe, num_classes, args.size, workers),
    }
    for key, value in model.items():
        places = 4 if key == "step_s" else None
        line |= {key: round(found[key], places), f"model_{key}": round(value, places)}
    judged = {key: (found[key], model[key]) for key, least in WORTH_JUDGING.items() if found[key] > least}
    return line | {"bars": {key: bool(value <= BAR * plan) for key, (value, plan) in judged.items()}}


def output_of(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
    if done.returncode:
        raise FaceError(f"A measurement ended with exit code {done.returncode}. The lines above may say why.")
    return done.stdout


def work(args: argparse.Namespace) -> int:
    """Runs the steps of one worker; worker 0 prints the results of all."""
    from facelib.distributed.cluster import find_cluster

    be_the_first_to_go()
    job, cluster = json.loads(args.worker), find_cluster()
    recipe = head_recipe(args.size, args.batch, job["rate"])
    set_up_tensorflow(recipe.seed, recipe.precision, recipe.deterministic)
    from facelib.distributed.rendezvous import open_workers

    workers = open_workers(cluster, JOIN_SECONDS)
    with workers.naming_losses():
        step = HeadStep(recipe, job["classes"], args.parameters, workers)
        step.timed(0, WARM_UP)
        workers.wait()
        sent = loopback_bytes()
        seconds = step.timed(WARM_UP, args.steps)[:, 0]
        workers.wait()
        sent = loopback_bytes() - sent
        peaks = np.zeros(workers.count)
        peaks[workers.rank] = step.memory().peak
        peaks = workers.total(peaks)
        if workers.is_chief:
            found = {"step_s": float(np.median(seconds)), "sent_bytes": sent / workers.count / args.steps}
            print(json.dumps(found | {"head_bytes": float(peaks.max()), "parameters": step.num_parameters}))
        workers.close()
    return 0


def loopback_bytes() -> int:
    """Bytes sent over the loopback interface since the machine started."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    fields = next(line.partition(":")[2].split() for line in lines if line.strip().startswith("lo:"))
    return int(fields[8])


def measure_speeds(batch_size: int, size: int) -> dict:
    """Speeds of this machine: floating point operations/s in a product of the head, bytes/s read and written."""
    set_up_tensorflow(Recipe().seed, Recipe().precision, Recipe().deterministic)
    import tensorflow as tf

    centres, faces = tf.random.normal([100_000, size]), tf.random.normal([batch_size, size])
    many = tf.zeros([1 << 26])
    product = median_seconds(lambda: tf.matmul(faces, centres, transpose_b=True))
    copy = median_seconds(lambda: many + 1.0)
    return {
        "operations_per_s": 2 * batch_size * size * 100_000 / product,
        "bytes_per_s": 2 * 4 * int(tf.size(many)) / copy,
    }


def median_seconds(work, repeats: int = 7) -> float:
    seconds = []
    for _ in range(2 + repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[2:]))


# ------------------------------------------------------------------------------------------------------------ flags


def flags(args: argparse.Namespace) -> list[str]:
    """The flags that the processes of a run are given too."""
    return [f"--{name}={getattr(args, name)}" for name in ("size", "batch", "parameters", "steps")]


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def parse_args(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workers", type=numbers, default=[1, 2, 4], metavar="W,W", help="numbers of workers (default: 1,2,4)")
    add("--classes", type=numbers, default=[10_000, 100_000, 1_000_000, 4_000_000], metavar="C,C",
        help="numbers of classes (default: 10000,100000,1000000,4000000)")  # fmt: skip
    add("--size", type=int, default=128, metavar="D", help="values of an embedding (default: %(default)s)")
    add("--batch", type=int, default=128, metavar="B", help="faces per step, over all workers (default: %(default)s)")
    add(
        "--rate",
        type=float,
        default=0.1,
        metavar="R",
        help="share of all classes that each step uses (default: %(default)s)",
    )
    add(
        "--parameters",
        type=int,
        default=1_000_000,
        metavar="P",
        help="parameters of the backbone (default: %(default)s)",
    )
    add("--steps", type=int, default=5, metavar="N", help="measured steps of each run (default: %(default)s)")
    add("--worker", metavar="JOB", help=argparse.SUPPRESS)
    add("--speeds", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in ("size", "batch", "parameters", "steps"):
        if getattr(args, name) < 1:
            raise FaceError(f"--{name} must be at least 1. Received: {getattr(args, name)}.")
    if not 0 < args.rate < 1:
        raise FaceError(f"--rate must be a share of the classes, above 0 and below 1. Received: {args.rate:g}.")
    if min(args.workers) < 1 or max(args.workers) > args.batch or min(args.classes) < max(2, *args.workers):
        raise FaceError(
            "Every worker must hold at least one class and one face. Use fewer workers or more classes and faces."
        )
    return args


if __name__ == "__main__":
    run_cli(main)
