"""Find the slowest part of a training (reading, decoding, augmenting or the training step), and say what to change.

    python tools/doctor.py RECIPE --data DIR [--seconds 5] [--threads N]

First comes a table of the machine: driver, CUDA, cuDNN, TensorFlow, devices, cores, memory, and the disk of DIR. Then
each part of a training is measured alone. Reading, decoding and augmenting run on all threads, as in training; then
follow the whole input pipeline, and the step of the recipe's first stage on a fixed batch. If the batch does not fit
into the memory, the step is not run. On a CPU, the step is also measured on parts of the batch that run side by side
(train.batch_norm = "part"), for several sizes of a part. On a CPU, the step and the input share the cores, so a
training is a little slower than either of them alone. Data that were read recently come from memory instead of the
disk: to measure a disk, use data that are larger than the memory.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import itertools
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from dataset import TrainingData
from facelib.cli import add_set_flag, run_cli, script_parser
from facelib.data import sampling
from facelib.data.readers.open_records import open_records
from facelib.data.record_reader import Records
from facelib.data.storage import data_path
from facelib.devices import VISIBLE, add_device_flag, are_hidden, device_rows, gpu_names, settle_device
from facelib.errors import FaceError
from facelib.image_decoding import decode_image
from facelib.machine import cores, machine_rows
from facelib.models.registry import IMPORTED
from facelib.nvidia import find_nvidia
from facelib.sidecar import require_raw_pixels
from facelib.tensorflow_env import set_lanes, set_up_tensorflow
from facelib.training.recipe.schema import Recipe
from facelib.training.recipe.toml import load_recipe

SAMPLE = 2048  # images that are decoded and augmented again and again
PIECE = 32  # images of one task
ENOUGH = 1.2  # ratio of input and step speed above which the input does not limit the training
WARM_UP = 3  # steps
MUST_GAIN = 1.05  # of a step in parts: less is within the noise
MUCH_WAITING = 0.4  # share of the expected pipeline speed; below it threads wait for each other
DOING = {"read": "Reading", "decode": "Decoding", "augment": "Augmenting"}
PART_SIZES = (8, 16, 32)  # images
SHOWN = {name: f"{doing.lower()} alone" for name, doing in DOING.items()} | {
    "pipeline": "the whole input",
    "step": "the training step alone",
    "float32": "the step in float32",
}


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    recipe = load_recipe(args.recipe, args.set)
    records = open_records(args.data)
    model = recipe.model
    size = require_raw_pixels(Path(model.source)).size if model.backbone == IMPORTED else model.size
    data = TrainingData.of_recipe(recipe, records, size, args.threads)
    if recipe.stage[0].images_per_identity > 1:
        data = data.balanced(recipe.stage[0].images_per_identity)
    show_machine(records, args.device)
    embedder = build(recipe) if args.step else None
    problem = show_memory(recipe, embedder, records.num_classes) if embedder else ""
    rates = {}
    for name, rate in input_rates(data, args.seconds):
        show(name, rate, data.num_threads)
        rates[name] = rate
    if embedder and not problem:
        rates["step"] = step_rate(recipe, embedder, data, args.seconds)
        show("step", rates["step"], None)
        if recipe.precision == "mixed_float16" and not gpu_names():
            other = replace(recipe, precision="float32")
            rates["float32"] = step_rate(other, build(other), data, args.seconds)
            show("float32", rates["float32"], None)
        if args.parts and not gpu_names():
            for images in PART_SIZES:
                if recipe.data.batch_size >= 2 * images:
                    rates[part_name(images)] = rate_in_parts(recipe, images, args)
                    show(part_name(images), rates[part_name(images)], None)
    print(verdict(rates, data.num_threads, cores(), data.shuffle, step_advice(rates)))
    if problem:
        print(problem)
    return 0


def show_machine(records: Records, device: str) -> None:
    """Prints the table of the machine.

    Raises:
        FaceError: TensorFlow does not see a GPU of this machine.
    """
    if device == "cpu":
        settle_device(device)  # before TensorFlow looks for GPUs
    for name, value in [*device_rows(), *machine_rows([file for file in records.files if isinstance(file, Path)])]:
        print(f"{name:24} {value}", flush=True)
    settle_device(device)


def build(recipe: Recipe):
    """The Keras model of a recipe, in its precision."""
    set_up_tensorflow(recipe.seed, recipe.precision, recipe.deterministic)
    from backbones import build_backbone

    return build_backbone(recipe.model)


def show_memory(recipe: Recipe, embedder, num_classes: int) -> str:
    """Prints the memory that a step needs. Returns what to do if it is not free, else ''."""
    from facelib.training.step_memory import check_step

    memory, problem = check_step(recipe, embedder, num_classes)
    print(f"{'memory of a step':24} {memory}", flush=True)
    return f"Memory: the step was not run. {problem}" if problem else ""


def show(name: str, rate: float, threads: int | None) -> None:
    """Prints one measurement; `threads` is None for the training step."""
    with_threads = f" ({threads} thread{'s' * (threads != 1)})" if threads else ""
    print(f"{SHOWN.get(name, name):24} {rate:10,.0f} images/s{with_threads}", flush=True)


# ------------------------------------------------------------------------------------------------ the verdict


NOTHING = "Nothing to do."


def step_advice(rates: dict[str, float]) -> str:
    """What makes the step faster on this machine.

    Args:
        rates: images/s of 'step' and, if they were measured, of the step in 'float32' and in parts.
    """
    if are_hidden() and find_nvidia().signs:
        return f"This machine has a GPU that is not used: leave out --device cpu and {VISIBLE}."
    step, other = rates.get("step", 0.0), rates.get("float32", 0.0)
    if step and other > step:
        return f"--set precision=float32 is {other / step:.1f} times as fast on this CPU."
    best = max(PART_SIZES, key=lambda size: rates.get(part_name(size), 0.0))
    gain = rates.get(part_name(best), 0.0) / step if step else 0.0
    if gain >= MUST_GAIN:
        return f"--set train.batch_norm=part train.part={best} is {gain:.2f} times as fast on this CPU."
    return NOTHING


def verdict(rates: dict[str, float], threads: int, num_cores: int, shuffle: str, advice: str = NOTHING) -> str:
    """Says in one line what limits the training and what to change.

    Args:
        rates: images/s of 'read', 'decode', 'augment', 'pipeline' and, if it was measured, 'step'.
        threads: that read and decode.
        num_cores: that this process may use.
        shuffle: of the recipe, 'records' or 'blocks'.
        advice: what to do when the step is the slowest part.
    """
    pipeline, step = rates["pipeline"], rates.get("step")
    if step is not None and pipeline >= ENOUGH * step:
        times = f"{pipeline / step:.0f}" if pipeline >= 10 * step else f"{pipeline / step:.1f}"
        could = f"the input pipeline could deliver {pipeline:,.0f}: {times} times as many"
        return f"The step: {step:,.0f} images/s; {could}. {advice}"
    feeds = f"the whole input pipeline delivers {pipeline:,.0f}"
    feeds += "." if step is None else f", the step could use {step:,.0f}."
    together = 1 / sum(1 / rates[name] for name in DOING)
    if pipeline < MUCH_WAITING * together:
        other = num_cores if threads != num_cores else 1
        return (
            f"Threads wait for each other: without this delay {together:,.0f} images/s; {feeds} Try --threads {other}."
        )
    slowest = min(DOING, key=lambda name: rates[name])
    advice = _input_advice(slowest, threads, num_cores, shuffle)
    if step is None:
        advice = f"If the step is faster than that: {advice[0].lower()}{advice[1:]}"
    return f"{DOING[slowest]}: {rates[slowest]:,.0f} images/s alone; {feeds} {advice}"


def _input_advice(slowest: str, threads: int, num_cores: int, shuffle: str) -> str:
    if slowest == "read":
        sequence = "data.shuffle = 'blocks' to read in sequence, " * (shuffle == "records")
        return f"Use more than {threads} --threads to read more at the same time, {sequence}or a faster disk."
    if threads < num_cores:
        return f"Use --threads {num_cores}, as many as there are cores."
    if slowest == "augment":
        return "Use fewer augmentations (data.augment, see docs/augmentation.md) or more cores."
    return "Use more cores."


# ---------------------------------------------------------------------------------------------- the measurements


def input_rates(data: TrainingData, seconds: float):
    """Yields (name, images/s) of reading, decoding and augmenting alone, then of the whole pipeline."""
    threads, records = data.num_threads, data.records
    order = data.order(0)
    yield "read", measure(reader(records, order, data.shuffle), threads, seconds)
    encoded = [records.read(i)[0] for i in order[:SAMPLE].tolist()]
    buffers = np.empty((threads, *data.image_size, 3), np.uint8)

    def decode(k: int, thread: int) -> int:
        for i in range(k * PIECE, (k + 1) * PIECE):
            decode_image(encoded[i % len(encoded)], buffers[thread], check_end=False)
        return PIECE

    yield "decode", measure(decode, threads, seconds)
    images = [decode_image(image, np.empty((*data.image_size, 3), np.uint8)) for image in encoded[:256]]
    yield "augment", measure(augmenter(data.augment, images), threads, seconds)
    yield "pipeline", pipeline_rate(data, seconds)


def reader(records: Records, order: np.ndarray, shuffle: str) -> Callable[[int, int], int]:
    """Reads records as a training does: one by one in the epoch's order, or whole blocks."""

    def one_by_one(k: int, thread: int) -> int:
        for i in range(k * PIECE, (k + 1) * PIECE):
            records.read(int(order[i % len(order)]))
        return PIECE

    def in_blocks(k: int, thread: int) -> int:
        start = int(order[k * PIECE % len(order)]) // sampling.BLOCK_RECORDS * sampling.BLOCK_RECORDS
        return len(records.read_sorted(np.arange(start, min(start + sampling.BLOCK_RECORDS, len(records)))))

    return in_blocks if shuffle == "blocks" else one_by_one


def augmenter(augment: Callable | None, images: list[np.ndarray]) -> Callable[[int, int], int]:
    """Augments images, each time with a different key."""
    keys = np.random.default_rng(0).integers(0, 2**64, 1 << 16, np.uint64).tolist()

    def work(k: int, thread: int) -> int:
        for i in range(k * PIECE, (k + 1) * PIECE):
            if augment:
                augment(images[i % len(images)], keys[i % len(keys)])
        return PIECE

    return work


def measure(work: Callable[[int, int], int], threads: int, seconds: float) -> float:
    """Images/s of a function that several threads call.

    Args:
        work: (k, thread) -> number of images done; k counts the calls of all threads from 0.
        threads: how many.
        seconds: how long.
    """
    numbers, start = itertools.count(), time.perf_counter()

    def run(thread: int) -> int:
        done = 0
        while not done or time.perf_counter() - start < seconds:
            done += work(next(numbers), thread)
        return done

    with ThreadPoolExecutor(threads) as executor:
        return sum(executor.map(run, range(threads))) / (time.perf_counter() - start)


def pipeline_rate(data: TrainingData, seconds: float) -> float:
    """Images/s of the batches, without the first ones, which are prepared before the clock starts."""
    batches, done, ready = data.stream(last_epoch=1 << 30), 0, 2 * data.num_threads + 1
    try:
        start = time.perf_counter()
        for number, batch in enumerate(batches):
            if number == ready:
                start, done = time.perf_counter(), 0
            done += len(batch.labels)
            if number > ready and time.perf_counter() - start > seconds:
                break
        return done / (time.perf_counter() - start)
    finally:
        batches.close()


def part_name(size: int) -> str:
    """What the table calls the step in parts of so many images."""
    return f"the step, parts of {size}"


def rate_in_parts(recipe: Recipe, size: int, args: argparse.Namespace) -> float:
    """Images/s of the step in parts of `size` images, in a process of its own: TensorFlow's threads cannot change."""
    recipe = replace(recipe, train=replace(recipe.train, batch_norm="part", part=size))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(step_in_lanes, recipe, args.data, args.seconds).result()


def step_in_lanes(recipe: Recipe, data: Path, seconds: float) -> float:
    """Images/s of the step of a recipe, in the lanes that it asks for, on the CPU."""
    settle_device("cpu")
    embedder = build(recipe)
    set_lanes(recipe.num_lanes(cores()), cores())
    return step_rate(
        recipe, embedder, TrainingData.of_recipe(recipe, open_records(data), embedder.input_shape[1:3]), seconds
    )


def step_rate(recipe: Recipe, embedder, data: TrainingData, seconds: float) -> float:
    """Images/s of the recipe's first stage on one batch; with constant vectors if the recipe has a teacher."""
    from face_loss_k import make_head
    from facelib.training.stage_setup import StageParts

    batch, teacher_size = next(data.batches()), recipe.model.embedding_size if recipe.teacher else 0
    parts = StageParts(
        recipe, embedder, make_head, data.records.num_classes, teacher_size, batch_size=recipe.data.batch_size
    )
    parts.begin(0)
    parts.optimizer.learning_rate = 1e-6
    targets, one = np.ones((len(batch.labels), teacher_size), np.float32), np.float32(1)

    def step(number: int) -> None:
        parts.step(batch.images, batch.labels, targets, one, one, np.int64(number))[0].numpy()

    for number in range(WARM_UP):
        step(number)
    count, start = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - start < seconds:
        step(WARM_UP + count)
        count += 1
    return count * len(batch.labels) / (time.perf_counter() - start)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("recipe", type=Path, metavar="RECIPE", help="TOML file")
    add(
        "--data",
        type=data_path,
        required=True,
        metavar="DIR",
        help="data directory (s3://, gs:// too) or older TFRecords",
    )
    add(
        "--seconds",
        type=float,
        default=5.0,
        metavar="S",
        help="length of each measurement in seconds (default: %(default)s)",
    )
    add("--threads", type=int, metavar="N", help="threads that read and decode images (default: all cores)")
    add_set_flag(parser, "data.shuffle=blocks")
    add("--step", action=argparse.BooleanOptionalAction, default=True, help="also measure the training step")
    add(
        "--parts",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="on a CPU, also measure the step on parts of the batch that run side by side",
    )
    add_device_flag(parser)
    args = parser.parse_args(argv)
    if args.threads is not None and args.threads < 1:
        raise FaceError(f"--threads must be at least 1. Received: {args.threads}.")
    if not 0 < args.seconds <= 3600:
        raise FaceError(f"--seconds must be above 0 and at most 3600. Received: {args.seconds:g}.")
    return args


if __name__ == "__main__":
    run_cli(main)
