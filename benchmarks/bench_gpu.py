"""Measure the images per second of trainings on the GPUs of this machine, as a Markdown table.

    python benchmarks/bench_gpu.py [--small] [--batch-size 128] [--steps 50]

Each row is a training with ArcFace and SGD on synthetic faces, in its own processes. "step alone" repeats one batch in
the memory of the device. "with input" reads, decodes and copies batches as train.py does. A row is input-bound if it is
more than a twentieth slower "with input" than "step alone". A row that fails shows the reason, and the next row
follows. On a CPU, and with --small, the table has only a few rows with small batches. These rows show only that
everything runs: their figures are not real speeds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from time import strftime

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import machine  # noqa: E402
from facelib.child_processes import ends_with_parent  # noqa: E402
from facelib.cli import run_cli  # noqa: E402
from facelib.devices import settle_device, visible_gpus  # noqa: E402
from facelib.errors import FaceError  # noqa: E402
from facelib.nvidia import find_nvidia  # noqa: E402
from facelib.sidecar import git_commit  # noqa: E402

EMBEDDING_SIZE = {"mobilefacenet": 128, "mbf": 512, "iresnet50": 512}
IDENTITIES = (85_742, 1_000_000)  # of MS1M-ArcFace, and the size of Glint360K and WebFace
SMALL_BATCH, SMALL_STEPS, SMALL_IDENTITIES = 8, 3, (1000, 20_000)
INPUT_BOUND = 0.95  # of the speed of the step alone
MINUTES = 30  # for one row
RESULT = "RESULT "
HEADS = (
    "GPUs", "net", "identities", "precision", "compile", "augment", "images a GPU", "step alone, images/s",
    "with input, images/s", "input-bound", "first step, s", "memory, GB",
)  # fmt: skip
_OUT_OF_MEMORY = ("ResourceExhausted", "RESOURCE_EXHAUSTED", "OOM when", "out of memory", "OUT_OF_MEMORY", "bad_alloc")


@dataclass(frozen=True)
class Row:
    """What is measured.

    Attributes:
        workers: processes, one for each GPU; those of a CPU share its cores.
        backbone: of the recipe.
        identities: number of class centres; the faces are of fewer people.
        precision: of the recipe.
        compile: 'none' or 'xla'; XLA compiles no step of several workers.
        augment: preset of the recipe.
        batch_size: images of one worker in a step.
    """

    workers: int
    backbone: str
    identities: int
    precision: str
    compile: str
    augment: str
    batch_size: int


@dataclass(frozen=True)
class Speeds:
    """The measurements of a row; of all workers together.

    Attributes:
        alone: images/s of the step on one batch.
        whole: images/s with the input.
        first_seconds: of the first step, which compiles.
        memory: peak bytes of one GPU, or of one process on a CPU.
    """

    alone: float
    whole: float
    first_seconds: float
    memory: int


def main(argv=None) -> int:
    args = parse_args(argv)
    if args.row:
        measure(Row(**json.loads(args.row)), args.data, args.steps)
        return 0
    settle_device("auto")
    gpus = len(visible_gpus())
    is_small = args.small or not gpus
    rows = small_rows(gpus) if is_small else all_rows(gpus, args.batch_size)
    steps = SMALL_STEPS if is_small else args.steps
    print(f"{conditions()}; {steps} steps a row{', small' if is_small else ''}\n\n{head()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder), is_small)
        for row in rows:
            print(line(row, run(row, data, steps)), flush=True)
    return 0


def all_rows(gpus: int, batch_size: int) -> list[Row]:
    """Every combination on one GPU; on 2, 4, 8 and all of them those without XLA."""
    rows = []
    for count in sorted({1, *(n for n in (2, 4, 8) if n <= gpus), gpus}):
        compiles = ("none", "xla") if count == 1 else ("none",)
        kinds = product(EMBEDDING_SIZE, IDENTITIES, ("float32", "mixed_float16"), compiles)
        rows += [
            Row(count, net, ids, precision, compiled, "none", batch_size) for net, ids, precision, compiled in kinds
        ]
        # The fastest step with the slowest input: whether data.augment should be computed on the GPU.
        rows.append(Row(count, "mobilefacenet", IDENTITIES[0], "mixed_float16", "none", "strong", batch_size))
    return rows


def small_rows(gpus: int) -> list[Row]:
    """One row for each value, in place of each combination."""
    few, more = SMALL_IDENTITIES
    first = Row(1, "mobilefacenet", few, "float32", "none", "none", SMALL_BATCH)
    rows = [first, replace(first, identities=more), replace(first, precision="mixed_float16")]
    rows += [replace(first, compile="xla"), replace(first, augment="strong")]
    rows += [replace(first, backbone=net) for net in ("mbf", "iresnet50")]
    return rows if gpus == 1 else [*rows, replace(first, workers=2)]


# ----------------------------------------------------------------------------------------------- the table


def conditions() -> str:
    """Driver, GPUs or processor, TensorFlow, day and commit, in one line."""
    nvidia, gpus = find_nvidia(), visible_gpus()
    names = ", ".join(dict.fromkeys(gpu.name for gpu in nvidia.gpus)) or "GPU"
    devices = f"{len(gpus)} x {names}, driver {nvidia.driver or 'unknown'}" if gpus else f"no GPU, {machine()}"
    commit = git_commit() or "unknown"
    return f"{devices}; TensorFlow {version('tensorflow')}; {strftime('%F')}; commit {commit[:12]}{commit[40:]}"


def head() -> str:
    """The first two lines of the table."""
    return f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}"


def line(row: Row, found: Speeds | str) -> str:
    """The line of a row.

    Args:
        row: what was measured.
        found: its speeds, or why there are none.
    """
    what = [row.workers, row.backbone, f"{row.identities:,}", row.precision, row.compile, row.augment, row.batch_size]
    if isinstance(found, str):
        values = [found, "-", "-", "-", "-"]
    else:
        is_bound = found.whole < INPUT_BOUND * found.alone
        speeds = [f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}" for speed in (found.alone, found.whole)]
        values = [*speeds, "yes" if is_bound else "no", f"{found.first_seconds:.0f}", f"{found.memory / 1e9:.1f}"]
    return f"| {' | '.join(map(str, [*what, *values]))} |"


def why_failed(code: int, output: str) -> str:
    """Why a row has no speeds, for its line.

    Args:
        code: exit code of the process; negative, or above 128, after a signal.
        output: what it printed.
    """
    if code in (-9, 137) or any(sign in output for sign in _OUT_OF_MEMORY):
        return "out of memory"
    last = next((text.strip() for text in reversed(output.splitlines()) if text.strip()), "")
    return f"failed ({code}): {last.replace('|', '/')[:120]}"


# ------------------------------------------------------------------------------------------ a row, from outside


def run(row: Row, data: Path, steps: int) -> Speeds | str:
    """Measures a row in processes of its own: its speeds, or why there are none."""
    words = [sys.executable, __file__, "--row", json.dumps(asdict(row)), "--data", str(data), "--steps", str(steps)]
    if row.workers > 1:
        words[1:1] = [str(ROOT / "launch.py"), "-n", str(row.workers)]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=60 * MINUTES, preexec_fn=ends_with_parent()
        )
    except subprocess.TimeoutExpired:
        return f"not finished after {MINUTES} minutes"
    results = [text.removeprefix(RESULT) for text in done.stdout.splitlines() if text.startswith(RESULT)]
    return Speeds(**json.loads(results[-1])) if results else why_failed(done.returncode, done.stdout + done.stderr)


def write_data(folder: Path, is_small: bool) -> Path:
    """A data directory of synthetic faces."""
    from benchmarks.bench_input_pipeline import FACES, write_synthetic_data
    from facelib.data.synthetic.files import SyntheticSet

    return write_synthetic_data(folder, SyntheticSet(20, 10) if is_small else FACES)


# ------------------------------------------------------------------------------------------- a row, from inside


class OneBatch:
    """Training data that yield one batch again and again; on a GPU it stays in its memory."""

    def __init__(self, data):
        from facelib.training.device_batches import copied_ahead

        self.records, self.batch_size, self.steps_per_epoch = data.records, data.batch_size, data.steps_per_epoch
        with closing(copied_ahead(data.stream(last_epoch=0))) as batches:
            self.batch = next(batches)

    def stream(self, epoch: int, step: int, *, last_epoch: int) -> Iterator:
        while True:
            yield self.batch


def measure(row: Row, path: Path, steps: int) -> None:
    """Measures a row in this process, and the other workers in theirs. Worker 0 prints the result."""
    from dataset import TrainingData
    from facelib.data.augment import AugmentConfig
    from facelib.data.readers.open_records import open_records
    from facelib.distributed.cluster import JOIN_SECONDS, cores_of_worker, find_cluster
    from facelib.models.registry import ModelConfig
    from facelib.tensorflow_env import set_up_tensorflow
    from facelib.training.recipe.schema import DataConfig, Recipe, Stage

    cluster = find_cluster()
    threads = cores_of_worker(cluster)
    model = ModelConfig(backbone=row.backbone, embedding_size=EMBEDDING_SIZE[row.backbone])
    config = DataConfig(batch_size=row.batch_size * row.workers, augment=AugmentConfig(preset=row.augment))
    stage = Stage(loss="arcface", optimizer="sgd", learning_rate=1e-3)
    recipe = Recipe(precision=row.precision, compile=row.compile, model=model, data=config, stage=(stage,))
    set_up_tensorflow(recipe.seed, recipe.precision, recipe.deterministic)
    from backbones import build_backbone
    from face_loss_k import make_head
    from facelib.distributed.rendezvous import open_workers
    from facelib.training.measured_steps import measure_steps
    from facelib.training.stage_setup import StageParts

    workers = open_workers(cluster, JOIN_SECONDS)
    data = TrainingData.of_recipe(recipe, open_records(path), model.size, threads)
    data = data.shard(workers.rank, workers.count) if workers.count > 1 else data
    parts = StageParts(
        recipe, build_backbone(model), make_head, row.identities, 0, workers, config.batch_size, lambda text: None
    )
    parts.begin(0)
    alone, whole = measure_steps(parts, OneBatch(data), steps), measure_steps(parts, data, steps)
    workers.close()
    if workers.is_chief:
        rates = (workers.count * found.images_per_s for found in (alone, whole))
        speeds = Speeds(*rates, alone.first_seconds, whole.device_bytes or whole.host_bytes)
        print(f"{RESULT}{json.dumps(asdict(speeds))}", flush=True)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--small", action="store_true", help="measure only a few rows with small batches; on a CPU this is always so")
    add("--batch-size", type=int, default=128, metavar="N", help="images per GPU and step (%(default)s)")
    add("--steps", type=int, default=50, metavar="N", help="steps measured for each speed (%(default)s)")
    add("--row", help=argparse.SUPPRESS)
    add("--data", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for flag, least in (("batch_size", 2), ("steps", 1)):
        if getattr(args, flag) < least:
            name = f"--{flag.replace('_', '-')}"
            raise FaceError(f"{name} must be at least {least}. Received: {getattr(args, flag)}.")
    return args


if __name__ == "__main__":
    run_cli(main)
