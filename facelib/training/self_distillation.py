"""A changed copy of a trained net learns to embed as the net itself does: swap_activation.py and quantize_aware.py.

What these scripts have of layer 1 comes in `Tools`.
"""

import argparse
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from facelib.data.augment import make_augment
from facelib.data.readers.calibration_crops import load_crops
from facelib.data.readers.open_records import open_records
from facelib.errors import FaceError
from facelib.evaluation.results import report_path
from facelib.evaluation.verification_sets import find_sets
from facelib.files import require_file, sha256_of, write_json
from facelib.model_input import Io
from facelib.models.registry import ModelConfig
from facelib.runtimes.keras_h5 import KerasEmbedder
from facelib.sidecar import check_sidecar, parity_record, read_sidecar, sidecar_path, write_sidecar
from facelib.tensorflow_env import set_up_tensorflow
from facelib.training.recipe.rules import check_recipe
from facelib.training.recipe.schema import DataConfig, Recipe, Stage
from facelib.training.recipe.toml import load_recipe
from facelib.training.run_dir import RunDir
from facelib.training.stop_signals import exit_code
from facelib.training.teacher import open_teacher
from facelib.unit_vectors import row_cosines

NUM_CROPS = 256  # of DATA, to see how near the copy has come


@dataclass(frozen=True)
class Tools:
    """TrainingData of dataset.py, make_head of face_loss_k.py, check_sets and evaluate_sets of evaluate_data.py."""

    training_data: Callable
    make_head: Callable
    check_sets: Callable
    evaluate_sets: Callable


@dataclass(frozen=True)
class Change:
    """What is changed. name: in the recipe's name.   notes: for the sidecar.

    make: (original model, its path, crops uint8 [N, H, W, 3]) -> the copy, which shares no weight with it.
    """

    name: str
    make: Callable
    notes: dict[str, Any]
    activation: str | None = None


def add_flags(parser: argparse.ArgumentParser, *, learning_rate: float, data_help: str) -> None:
    """The flags of both scripts; `check_flags` looks at them."""
    add = parser.add_argument
    add("model", type=Path, metavar="EMBEDDER.h5", help="the trained net")
    add("out", type=Path, metavar="OUT", help="run directory of the copy; one that exists is resumed")
    add("--data", type=Path, metavar="DATA", help=data_help)
    add("--valid", type=Path, metavar="DIR_OR_BIN", help="verification sets to measure each epoch on (default: none)")
    add("--epochs", type=int, default=1, metavar="N", help="passes over DATA (default: %(default)s)")
    add("--batch-size", type=int, default=32, metavar="N", help="images a step (default: %(default)s)")
    rate_help = "of AdamW, at most (default: %(default)s)"
    add("--learning-rate", type=float, default=learning_rate, metavar="RATE", help=rate_help)
    add("--checkpoint-every", type=int, default=1000, metavar="STEPS", help="besides after each epoch (%(default)s)")
    add("--threads", type=int, metavar="N", help="that read and decode images (default: all cores)")


def check_flags(args: argparse.Namespace) -> None:
    """Raises for numbers below 1."""
    for flag in ("checkpoint_every", "threads"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise FaceError(f"--{flag.replace('_', '-')} is at least 1. Received: {value}.")


def distil_copy(args: argparse.Namespace, change: Change, tools: Tools) -> int:
    """Trains the copy on `args.data`, measures it, and names the next step; resumes a run that exists."""
    sidecar = check_sidecar(args.model)
    io = sidecar.io if sidecar else Io()
    recipe = make_recipe(args, change)
    sets = find_sets(args.valid) if args.valid else []
    tools.check_sets(sets)
    records = open_records(args.data)
    with closing(RunDir(args.out, recipe, args.data, records.fingerprint)) as run:
        set_up_tensorflow(recipe.seed, recipe.precision, recipe.deterministic)
        crops, described = load_crops(args.data, NUM_CROPS, recipe.seed, io.size)
        copy, original = make_copy(args.model, change, crops)
        before = cosines_between(copy, original, crops)
        data = tools.training_data(
            records,
            recipe.data.batch_size,
            seed=recipe.seed,
            augment=make_augment(recipe.data.augment, recipe.data.flip),
            num_threads=args.threads,
        )
        teacher = open_teacher(args.model, io, records, threads=args.threads)
        stopped_by = _train(args, recipe, copy, data, run, sets, tools, teacher)
        if stopped_by is None:
            _finish(run.path / "embedder.h5", original, crops, described, before, args, change)
    return exit_code(stopped_by)


def write_untrained(args: argparse.Namespace, change: Change) -> int:
    """The change alone."""
    from facelib.runtimes.keras_h5 import save_h5

    sidecar = check_sidecar(args.model)
    path = args.out / "embedder.h5"
    if path.exists():
        raise FaceError(f"OUT is a new folder or, with --data, a run to continue. '{path}' exists: choose another OUT.")
    recipe = make_recipe(args, change)
    set_up_tensorflow(recipe.seed, recipe.precision, recipe.deterministic)
    copy, _ = make_copy(args.model, change, None)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_h5(copy, path)
    io = replace(sidecar.io if sidecar else Io(), embedding_size=copy.outputs[0].shape[-1])
    write_sidecar(path, kind="h5", made_from=args.model, io=io, **change.notes)
    print(f"wrote {path}, which has learned nothing yet; next: the same with --data DATA and another OUT")
    return 0


def make_recipe(args: argparse.Namespace, change: Change) -> Recipe:
    """What the copy is trained by. Its name has the original's hash: a changed original is another training."""
    stage = Stage(
        loss="distill", distill="cosine", epochs=args.epochs, optimizer="adamw", learning_rate=args.learning_rate,
        warmup_steps=50, last_layer_decay=1.0,
    )  # fmt: skip
    beside = args.model.parent / "config.toml"
    model = load_recipe(beside).model if beside.is_file() else ModelConfig()
    recipe = Recipe(
        name=f"{change.name}_of_{sha256_of(require_file(args.model, 'model'))[:12]}",
        teacher=str(args.model),
        model=replace(model, activation=change.activation or model.activation),
        data=DataConfig(batch_size=args.batch_size),
        stage=(stage,),
    )
    check_recipe(recipe, "the flags")
    return recipe


def make_copy(path: Path, change: Change, crops: np.ndarray | None) -> tuple:
    """(The changed copy, the original), Keras models."""
    from facelib.runtimes.keras_h5 import check_model, in_float32, load_model

    original = in_float32(load_model(path))
    check_model(original, path)
    return change.make(original, str(path), crops), original


def cosines_between(model, original, crops: np.ndarray) -> np.ndarray:
    """float64 [N]: how alike two Keras models embed `crops`, uint8 [N, H, W, 3]."""
    vectors = [KerasEmbedder(which)(crops) for which in (model, original)]
    return row_cosines(*vectors)


def _train(args, recipe: Recipe, copy, data, run: RunDir, sets: list, tools: Tools, teacher) -> str | None:
    """Trains the copy towards the original. Returns what has stopped it, if anything."""
    from facelib.training.trainer import Trainer

    measured = KerasEmbedder(copy)
    trainer = Trainer(
        copy, data, run, make_head=tools.make_head, recipe=recipe, made_from=args.model,
        evaluate=(lambda _: tools.evaluate_sets(measured, sets)) if sets else None,
        teacher=teacher, checkpoint_every=args.checkpoint_every,
    )  # fmt: skip
    trainer.fit()
    return trainer.stopped_by


def _finish(path: Path, original, crops: np.ndarray, described: dict, before: np.ndarray, args, change: Change) -> None:
    """Measures the written copy, notes it in the sidecar, and names the next step."""
    from facelib.runtimes.keras_h5 import load_model

    after = cosines_between(load_model(path), original, crops)
    sidecar = read_sidecar(path).rest
    parity = {**parity_record(after), "mean_cosine_untrained": float(before.mean()), "crops": described}
    write_json(sidecar_path(path), {**sidecar, **change.notes, "parity": parity})
    print(
        f"cosine to the original on {len(after)} crops of {args.data}: changed alone mean {before.mean():.4f}, "
        f"distilled mean {after.mean():.4f}, worst {after.min():.4f}"
    )
    report = report_path(args.model)
    gate = f"python evaluate_data.py {path} --against {report}" if report.is_file() else f"python h5_2_pb.py {path}"
    print(f"wrote {path}\nnext: {gate}")
