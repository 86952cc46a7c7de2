"""Train an embedder from a recipe and data, and write RUN/embedder.h5. To resume, run the same command again.

python train.py                                            creates synthetic faces and trains in a few minutes
python train.py recipes/small_mobilefacenet.toml --data DATA --valid lfw.bin --out runs/small
python train.py recipes/small_mobilefacenet.toml --data DATA --out runs/x --set model.activation=relu
python train.py RECIPE --data DATA --dry-run               schedule, memory and time of the training; trains nothing
python launch.py -n 2 train.py RECIPE ...                  two workers on this machine; for clusters: docs/scaling.md

Ctrl-C or SIGTERM writes a checkpoint and ends the training with exit code 130 or 143. `n` + Enter ends the training
after the current epoch, with exit code 0.
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dataset import TrainingData
from evaluate_data import check_sets, evaluate_sets
from facelib.cli import DEFAULT_VALID, add_set_flag, print_next, print_notes, run_cli, script_parser
from facelib.data.conversion.job import convert
from facelib.data.curation.same_images import same_images_notes
from facelib.data.readers.open_records import open_records
from facelib.data.record_reader import Records
from facelib.data.storage import data_path
from facelib.data.synthetic.files import SyntheticSet, write_folders, write_pairs
from facelib.devices import add_device_flag, device_notes, settle_device, training_on
from facelib.distributed.cluster import JOIN_SECONDS, cores_of_worker, find_cluster
from facelib.errors import FaceError
from facelib.evaluation.results import format_text_table
from facelib.evaluation.verification_sets import find_sets, named_images
from facelib.extras import require
from facelib.files import require_file, write_bytes
from facelib.machine import cores, free_bytes
from facelib.model_input import PIXEL_SCALINGS, Io
from facelib.models.registry import IMPORTED
from facelib.reports.schedule_plot import plot_schedule
from facelib.reports.training_plots import write_training_plots
from facelib.runtimes.keras_h5 import KerasEmbedder
from facelib.sidecar import check_sidecar
from facelib.tensorflow_env import set_lanes, set_up_tensorflow
from facelib.training.recipe.schema import Recipe
from facelib.training.recipe.toml import load_recipe, says_table, to_toml
from facelib.training.run_dir import open_run
from facelib.training.schedule_view import HEADS, schedule_curves, schedule_warnings, stage_rows
from facelib.training.stop_signals import exit_code
from facelib.training.stored_teacher import is_stored, open_stored_teacher
from facelib.training.teacher import Teacher, open_teacher
from facelib.training.trackers import TRACKERS, check_tracker
from facelib.wording import counted

TOY_RECIPE = Path(__file__).parent / "recipes" / "toy.toml"
TOY_TRAIN, TOY_VALID = SyntheticSet(160, 15), SyntheticSet(100, 8, first_identity=1_000_000)
TOY_PAIRS = 2400


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    require("tensorflow", "keras", "h5py", "simplejpeg", "matplotlib")
    check_tracker(args.track)
    recipe = load_recipe(args.recipe, args.set)
    if recipe.model.backbone == IMPORTED and not recipe.model.source and args.init_from:
        recipe = replace(recipe, model=replace(recipe.model, source=str(args.init_from)))
    out = args.out or Path("runs") / recipe.name
    if args.data is None:
        args.data, toy_valid = draw_toy_data(Path("runs") / "toy_data")
        args.valid = args.valid or toy_valid
    sets = find_valid(args.valid)
    check_sets(sets)
    stored = bool(recipe.teacher) and is_stored(Path(recipe.teacher))
    for model in filter(None, (args.init_from, None if stored else recipe.teacher, recipe.model.source)):
        require_file(Path(model), "model")
    teacher_io = find_teacher_io(recipe, args) if recipe.teacher and not stored else None
    records = open_records(args.data)
    if records.num_classes < 2:
        raise FaceError(
            f"Training needs at least 2 identities. '{args.data}' has {records.num_classes}. Use different data."
        )
    cluster = find_cluster()
    worker_cores = cores_of_worker(cluster)  # open_workers changes the environment
    threads = args.threads or worker_cores
    settle_device(args.device)
    if args.dry_run:
        if cluster.count > 1:
            raise FaceError(
                f"--dry-run works only with one process. Received: {cluster.count} workers. Run train.py without "
                "launch.py."
            )
        return dry_run(recipe, records, sets, Path(f"{out}.schedule.png"), threads)
    run = open_run(out, recipe, args.data, records.fingerprint, cluster.rank == 0)
    set_up_tensorflow(recipe.seed, recipe.precision, recipe.deterministic)
    set_lanes(recipe.num_lanes(worker_cores, cluster.count), worker_cores)
    from backbones import build_backbone
    from face_loss_k import make_head  # TensorFlow comes with these: only now that all arguments are right
    from facelib.distributed.rendezvous import open_workers
    from facelib.training.progress import ProfileSteps
    from facelib.training.trainer import Trainer

    workers = open_workers(cluster, args.join_seconds)
    workers.check_same(recipe=to_toml(recipe), data=records.fingerprint)
    embedder = build_backbone(recipe.model)
    size = tuple(embedder.input_shape[1:3])
    if workers.is_chief:
        print(training_on())
        print_notes([*device_notes(recipe.precision, recipe.train.batch_norm == "part"), *model_notes(recipe)])
        print(
            f"{len(records):,} images, {records.num_classes:,} identities, "
            f"{len(sets)} verification set{'s' * (len(sets) != 1)}; {recipe.model.backbone} of "
            f"{embedder.count_params():,} parameters" + (f"; {workers.count} workers" if workers.count > 1 else "")
        )
        print_notes(same_images_notes(records, named_images(sets)))
    parent = args.init_from or (Path(recipe.model.source) if recipe.model.source else None)
    data = TrainingData.of_recipe(recipe, records, size, threads)
    measured = KerasEmbedder(embedder, recipe.face_io(size))
    trainer = Trainer(
        embedder, data, run, make_head=make_head, recipe=recipe,
        evaluate=(lambda _: evaluate_sets(measured, sets)) if sets else None,
        teacher=open_recipe_teacher(recipe, teacher_io, records, args.threads, workers) if recipe.teacher else None,
        initialise=make_initialise(args.init_from, records.class_names) if args.init_from else None,
        made_from=parent, workers=workers, on_epoch_end=write_training_plots,
        checkpoint_every=args.checkpoint_every, log_every=args.log_every, max_steps=args.steps, track=args.track,
        callbacks=[ProfileSteps(run.path / "profile", args.profile)] if args.profile and workers.is_chief else [],
    )  # fmt: skip
    with workers.naming_losses():
        is_complete = trainer.fit()
        workers.close()
    if is_complete and workers.is_chief:
        best = run.path / "embedder.h5"
        if not trainer.was_finished:
            print(f"wrote {best}")
        print_next("python", "h5_2_pb.py", best)
    return exit_code(trainer.stopped_by)


def dry_run(recipe: Recipe, records: Records, sets: list, picture: Path, threads: int) -> int:
    """Prints what the training would do, draws its schedule, and measures some steps of its longest stage."""
    set_up_tensorflow(recipe.seed, recipe.precision, recipe.deterministic)
    set_lanes(recipe.num_lanes(cores()), cores())
    from backbones import build_backbone
    from face_loss_k import make_head
    from facelib.distributed.workers import ONE_WORKER
    from facelib.training.head_memory import check_memory
    from facelib.training.measured_steps import measure_steps
    from facelib.training.stage_setup import StageParts

    embedder, stages = build_backbone(recipe.model), recipe.stage
    height, width = embedder.input_shape[1:3]
    data = TrainingData.of_recipe(recipe, records, (height, width), threads)
    of_stages = [data.balanced(s.images_per_identity) if s.images_per_identity > 1 else data for s in stages]
    steps = [each.steps_per_epoch for each in of_stages]
    totals = [stage.epochs * per_epoch for stage, per_epoch in zip(stages, steps, strict=True)]
    print(training_on())
    print_notes([*device_notes(recipe.precision, recipe.train.batch_norm == "part"), *model_notes(recipe)])
    print(
        f"data:   {len(records):,} images, {records.num_classes:,} identities; {data.batch_size} images a step, "
        f"{', '.join(f'{n:,}' for n in dict.fromkeys(steps))} steps an epoch; "
        f"{counted(len(sets), 'verification set')}\n"
        f"model:  {recipe.model.backbone}, {embedder.count_params():,} parameters, {height}x{width} pixels -> "
        f"{embedder.output_shape[-1]}, {recipe.precision}\n"
    )
    print(format_text_table([HEADS, *stage_rows(recipe, steps)], 3), end="\n\n")
    for warning in schedule_warnings(recipe, steps):
        print(f"warning: {warning}")
    firsts = [sum(totals[:number]) + 1 for number in range(len(stages))]
    curves = schedule_curves(recipe, steps)
    write_bytes(picture, plot_schedule(curves, list(zip(firsts, (s.loss for s in stages), strict=True))))
    print(f"wrote {picture}: {', '.join(curves)} by step", flush=True)
    heads = check_memory(recipe, records.num_classes, embedder.output_shape[-1], ONE_WORKER)
    longest = max(range(len(stages)), key=totals.__getitem__)
    teacher_size = recipe.model.embedding_size if recipe.teacher else 0
    parts = StageParts(recipe, embedder, make_head, records.num_classes, teacher_size, batch_size=data.batch_size)
    parts.begin(longest)
    found = measure_steps(parts, of_stages[longest])
    images = sum(stage.epochs * len(each) for stage, each in zip(stages, of_stages, strict=True))
    print("\n".join(filter(None, [heads, *measured_lines(found, longest, sum(totals), images / found.images_per_s)])))
    return 0


def measured_lines(found, stage: int, num_steps: int, seconds: float) -> list[str]:
    """The lines of a dry run about memory and time.

    Args:
        found: `facelib.training.measured_steps.Measured`.
        stage: number of the stage that they are of.
        num_steps: of the whole training.
        seconds: of the whole training, without evaluation.
    """
    free = free_bytes()
    device = "the same" if found.device_bytes is None else f"{found.device_bytes / 1e9:.2f} GB"
    is_long = seconds >= 5400
    total = f"{seconds / 3600:.1f} hours" if is_long else f"{seconds / 60:.1f} minutes"
    return [
        f"memory: host {found.host_bytes / 1e9:.2f} GB at most so far"
        + (f" ({free / 1e9:.1f} GB more are free)" if free else "")
        + f"; device {device}",
        f"time:   {found.seconds:.3f} s a step, {found.images_per_s:,.1f} images/s ({found.count} steps of stage "
        f"{stage}, loss {found.loss:.2f}); all {num_steps:,} steps {total}, without evaluation",
    ]


def model_notes(recipe: Recipe) -> list[str]:
    """What the user should know of the [model] table."""
    unused = recipe.model.without_effect
    if not unused:
        return []
    return [f"the net of '{recipe.model.source}' is not changed: [model] {', '.join(unused)} has no effect"]


def find_teacher_io(recipe: Recipe, args: argparse.Namespace) -> Io:
    """How the teacher is fed: as its sidecar says, or [teacher_io] if it has none.

    Raises:
        FaceError: neither says it.
    """
    sidecar = check_sidecar(Path(recipe.teacher))
    if sidecar is not None:
        return sidecar.io
    if not says_table("teacher_io", args.recipe, args.set):
        raise FaceError(
            f"The teacher '{recipe.teacher}' has no sidecar that describes its input. Describe the input: --set "
            f"teacher_io.pixels={'|'.join(PIXEL_SCALINGS)} --set teacher_io.colour=rgb|bgr."
        )
    return Io(**vars(recipe.teacher_io))


def open_recipe_teacher(recipe: Recipe, io: Io | None, records: Records, threads: int | None, workers) -> Teacher:
    """The recipe's teacher on these records, fed as `io` says; None for one whose embeddings are stored."""
    if not workers.is_chief:
        workers.wait()  # worker 0 computes the embeddings; the others read them from the data directory
    path = Path(recipe.teacher)
    teacher = open_stored_teacher(path, records) if io is None else open_teacher(path, io, records, threads=threads)
    if workers.is_chief:
        workers.wait()
    return teacher


def make_initialise(path: Path, class_names: Sequence[str]):
    """The function that loads the weights of --init-from into a new run; see `facelib.training.init_from`."""
    from facelib.training.init_from import apply_init

    return lambda embedder, head: apply_init(embedder, head, path, class_names)


def find_valid(valid: Path | None) -> list:
    """The verification sets. Without --valid there may be none."""
    if valid is None and not any(DEFAULT_VALID.glob("*.bin")):
        return []
    return find_sets(valid or DEFAULT_VALID)


def draw_toy_data(folder: Path) -> tuple[Path, Path]:
    """Creates synthetic faces, once: (data directory, folder with toy.bin)."""
    data, valid = folder / "data", folder / "valid"
    if not (valid / "toy.bin").exists():
        write_pairs(valid / "toy.bin", TOY_VALID, TOY_PAIRS)
    if not (folder / "faces").exists():
        write_folders(folder / "faces", TOY_TRAIN)
    convert(folder / "faces", data)
    return data, valid


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add(
        "recipe",
        type=Path,
        nargs="?",
        default=TOY_RECIPE,
        metavar="RECIPE",
        help="TOML file (default: recipes/toy.toml)",
    )
    add(
        "--data",
        type=data_path,
        metavar="DIR",
        help="data directory (s3://, gs:// too) or older TFRecords (default: synthetic faces)",
    )
    add(
        "--valid",
        type=Path,
        metavar="DIR_OR_BIN",
        help=f"verification sets, tested after each epoch (default: {DEFAULT_VALID}/*.bin)",
    )
    add(
        "--out",
        type=Path,
        metavar="RUN",
        help="run directory; if it holds a run, this run is resumed (default: runs/<name>)",
    )
    add(
        "--init-from",
        type=Path,
        metavar="H5",
        help="start with the weights of an embedder.h5. An epoch-NNN.h5 also gives the class centres, for identities "
        "that are in both data sets",
    )
    add(
        "--steps",
        type=int,
        metavar="N",
        help="end after N steps and write a checkpoint; the schedules stay those of the full training",
    )
    add(
        "--dry-run",
        action="store_true",
        help="print data, model, schedule, memory and expected time, draw OUT.schedule.png, and train nothing",
    )
    add_set_flag(parser, "stage.0.epochs=2 data.batch_size=64")
    add(
        "--checkpoint-every",
        type=int,
        default=1000,
        metavar="STEPS",
        help="steps between checkpoints; each epoch also ends with a checkpoint (default: %(default)s)",
    )
    add(
        "--log-every",
        type=int,
        default=20,
        metavar="STEPS",
        help="steps between two entries in metrics.jsonl and in the tracker (default: %(default)s)",
    )
    add(
        "--track",
        choices=TRACKERS,
        default=TRACKERS[0],
        help=(
            "also send the curves to this tracker; mlflow and wandb also get recipe, plots and embedder (default: "
            "%(default)s)"
        ),
    )
    add(
        "--profile",
        type=int,
        metavar="N",
        help="write a TensorFlow profile of N steps",
    )
    add(
        "--join-seconds",
        type=int,
        default=JOIN_SECONDS,
        metavar="S",
        help="seconds to wait for the other workers at the start (default: %(default)s)",
    )
    add(
        "--threads",
        type=int,
        metavar="N",
        help="threads that read and decode images (default: one per core, shared by the workers of a host)",
    )
    add_device_flag(parser)
    args = parser.parse_args(argv)
    for flag in ("checkpoint_every", "log_every", "threads", "join_seconds", "profile", "steps"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise FaceError(f"--{flag.replace('_', '-')} must be at least 1. Received: {value}.")
    if args.data is None and args.recipe.resolve() != TOY_RECIPE.resolve():
        raise FaceError(
            "Only the toy recipe can train without --data. Pass --data DIR with a data directory made by "
            "prepare_data.py."
        )
    return args


if __name__ == "__main__":
    run_cli(main)
