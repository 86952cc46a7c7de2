"""Measure the time and memory of a training step with all of a million classes, and with a sampled tenth of them.

    python benchmarks/bench_sampled_head.py [--classes 1000000] [--size 512] [--batch 128] [--rate 0.1] [--steps 3]
    python benchmarks/bench_sampled_head.py --exact

One worker runs the step of the trainer with ArcFace and SGD with momentum: forward, backward, clipping, weight decay,
update. The backbone is one small dense layer. Each measurement runs in a fresh process. Measurements with all classes
and with the sample alternate, and medians are over all steps of all `--rounds`. Memory is the peak of the process
(VmHWM) minus its memory before the head was built; `build_gb` is the memory for building the head. Limits: `speedup` >=
5, and the peak of the sampled head must be below 1.3 x the size of its centres and momentum (4.1 GB). The measurement
with all classes needs 20 GB: if less is free, it is left out, with a note.

`--exact` measures only the head: its forward and backward pass with all classes, 85,742 x 128, batch 64, without
optimizer. The time of these passes is compared with that of their three matrix products (x W^T, g W, g^T x). The two
measurements alternate in one process. Figures are medians of `--repeats`. Limit: `ratio` <= 2.
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

WARM_UP, EXACT_WARM_UP, BACKBONE = 2, 3, 100_000
EXACT_CLASSES, EXACT_SIZE, EXACT_BATCH = 85_742, 128, 64  # MS1MV2's identities, MobileFaceNet's embedding
BARS = {"speedup": 5.0, "peak_over_tables": 1.3, "ratio": 2.0}


def main(argv=None) -> int:
    args = parse_args(argv)
    if args.measure is not None:
        print(json.dumps(measure(args, args.measure)))
        return 0
    set_up_tensorflow(Recipe().seed, Recipe().precision, Recipe().deterministic)
    before = read_cpu()
    if args.exact:
        measure_exact(args.repeats)
        what = f"{args.repeats} repeats"
    else:
        compare(args)
        what = f"{args.rounds} rounds of {args.steps} steps of {args.batch}"
    print(f"{what}; busy {busy_share(before)}, {machine()}, {versions()}")
    return 0


# ------------------------------------------------------------------------------------- all classes against a sample


def compare(args: argparse.Namespace) -> None:
    """Prints one line for each rate, and one with the ratios and bars."""
    runs = {rate: [] for rate in (1.0, args.rate) if fits(args, rate)}
    for _ in range(args.rounds):
        for rate, found in runs.items():
            found.append(run_fresh(args, rate))
    medians = {}
    for rate, found in runs.items():
        steps = np.concatenate([run["steps"] for run in found])
        medians[rate] = np.median(steps, axis=0)
        line = {"name": "head", "classes": args.classes, "size": args.size, "batch": args.batch, "rate": rate}
        line |= {"step_s": round(medians[rate][0], 3), "core_s": round(medians[rate][1], 3)}
        line["quartiles_s"] = np.percentile(steps[:, 0], [25, 75]).round(3).tolist()
        for key in ("build_gb", "peak_gb", "tables_gb", "peak_over_tables"):
            line[key] = round(max(run[key] for run in found), 2)
        print(json.dumps(line), flush=True)
    line = {"name": "sampled head"}
    if args.rate in runs:
        line["peak_over_tables"] = round(max(run["peak_over_tables"] for run in runs[args.rate]), 3)
    if len(runs) == 2:
        line["speedup"], line["core_speedup"] = (medians[1.0] / medians[args.rate]).round(2).tolist()
    line["bars"] = {"peak_over_tables": line.get("peak_over_tables", np.inf) < BARS["peak_over_tables"]}
    line["bars"]["speedup"] = line["speedup"] >= BARS["speedup"] if "speedup" in line else "not measured"
    print(json.dumps(line))


def fits(args: argparse.Namespace, rate: float) -> bool:
    """Whether enough memory is free for the head; prints a line if not."""
    from facelib.distributed.workers import ONE_WORKER

    need, free = memory_to_spare(head_recipe(args.size, args.batch, rate), args.classes, ONE_WORKER)
    if free is None or need <= free:
        return True
    line = {"name": "head", "classes": args.classes, "rate": rate, "left_out": "does not fit"}
    print(json.dumps(line | {"needs_gb": round(need / 1e9, 1), "free_gb": round(free / 1e9, 1)}), flush=True)
    return False


def run_fresh(args: argparse.Namespace, rate: float) -> dict:
    values = {"classes": args.classes, "size": args.size, "batch": args.batch, "steps": args.steps, "measure": rate}
    flags = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, __file__, *flags], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise FaceError(
            f"The measurement of rate {rate:g} ended with exit code {done.returncode}. Make more memory available."
        )
    return json.loads(done.stdout)


def measure(args: argparse.Namespace, rate: float) -> dict:
    """The measurements of this process."""
    be_the_first_to_go()
    recipe = head_recipe(args.size, args.batch, rate)
    set_up_tensorflow(recipe.seed, recipe.precision, recipe.deterministic)
    from facelib.distributed.workers import ONE_WORKER

    step = HeadStep(recipe, args.classes, BACKBONE, ONE_WORKER)
    step.timed(0, WARM_UP)
    seconds = step.timed(WARM_UP, args.steps)
    memory, tables = step.memory(), 2 * 4 * args.classes * args.size
    return {
        "steps": seconds.tolist(),
        "build_gb": memory.build / 1e9,
        "peak_gb": memory.peak / 1e9,
        "tables_gb": tables / 1e9,
        "peak_over_tables": memory.peak / tables,
    }


# ---------------------------------------------------------------------------------- all classes against products


def measure_exact(repeats: int) -> None:
    """Prints one line for the head, one for the products, and one with their ratio."""
    runs = exact_runs()
    seconds = {name: [] for name in runs}
    for number in range(EXACT_WARM_UP + repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number >= EXACT_WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        line = {"name": name, "classes": EXACT_CLASSES, "size": EXACT_SIZE, "batch": EXACT_BATCH}
        line |= {"ms": round(1000 * float(np.median(values)), 2)}
        print(json.dumps(line | {"quartiles_ms": (1000 * np.percentile(values, [25, 75])).round(2).tolist()}))
    ratio = round(float(np.median(seconds["exact head"]) / np.median(seconds["three products"])), 3)
    print(json.dumps({"name": "exact head over products", "ratio": ratio, "bars": {"ratio": ratio <= BARS["ratio"]}}))


def exact_runs() -> dict:
    """Name -> function without arguments, for both computations, from the same faces and centres."""
    import tensorflow as tf

    from face_loss_k import make_head

    head = make_head("arcface", EXACT_CLASSES)
    head.build((None, EXACT_SIZE), (None,))
    rng = np.random.default_rng(0)
    faces = tf.constant(rng.standard_normal((EXACT_BATCH, EXACT_SIZE)), tf.float32)
    labels = tf.constant(rng.integers(0, EXACT_CLASSES, EXACT_BATCH), tf.int64)

    @tf.function
    def of_head(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss, accuracy = head.loss_and_accuracy(x, labels)
        return loss, accuracy, tape.gradient(loss, [x, head.centres])

    @tf.function
    def of_products(x):
        centres = head.centres.value
        g = tf.matmul(x, centres, transpose_b=True)
        return tf.matmul(g, centres), tf.matmul(g, x, transpose_a=True)

    return {"exact head": lambda: of_head(faces)[0].numpy(), "three products": lambda: of_products(faces)[0].numpy()}


# ------------------------------------------------------------------------------------------------------------ flags


def parse_args(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--classes", type=int, default=1_000_000, metavar="C", help="(default: %(default)s)")
    add("--size", type=int, default=512, metavar="D", help="values of an embedding (default: %(default)s)")
    add("--batch", type=int, default=128, metavar="B", help="faces per step (default: %(default)s)")
    add(
        "--rate",
        type=float,
        default=0.1,
        metavar="R",
        help="share of all classes that each step uses (default: %(default)s)",
    )
    add(
        "--steps",
        type=int,
        default=3,
        metavar="N",
        help="measured steps of a process, after 2 warm-up steps (default: %(default)s)",
    )
    add("--rounds", type=int, default=2, metavar="N", help="processes of each kind (default: %(default)s)")
    add(
        "--exact",
        action="store_true",
        help="instead, compare the time of the head with all classes with that of its matrix products",
    )
    add("--repeats", type=int, default=30, metavar="N", help="measurements of --exact (default: %(default)s)")
    add("--measure", type=float, metavar="RATE", help=argparse.SUPPRESS)  # the fresh process
    args = parser.parse_args(argv)
    for name in ("classes", "size", "batch", "steps", "rounds", "repeats"):
        if getattr(args, name) < 1:
            raise FaceError(f"--{name} must be at least 1. Received: {getattr(args, name)}.")
    if not 0 < args.rate < 1:
        raise FaceError(f"--rate must be a share of the classes, above 0 and below 1. Received: {args.rate:g}.")
    return args


if __name__ == "__main__":
    run_cli(main)
