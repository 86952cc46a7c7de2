"""Trains a changed copy of a network to give the embeddings of the original (swap_activation.py, quantize_aware.py).

`distil_copy` trains and measures the copy; `write_untrained` writes it as it is. The tools bring what this room may not
import: the batches of dataset.py and the evaluation of evaluate_data.py.
"""

import argparse
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from facelib.cli import add_pixel_flags, choose_io, print_notes
from facelib.data.curation.same_images import same_images_notes
from facelib.data.readers.calibration_crops import load_crops
from facelib.data.readers.open_records import open_records
from facelib.data.record_reader import Records
from facelib.devices import add_device_flag, device_notes, settle_device, training_on
from facelib.embedder import Embedder
from facelib.errors import FaceError
from facelib.extras import require
from facelib.files import make_folder, require_file, sha256_of, write_json
from facelib.model_input import Io
from facelib.models.registry import ModelConfig
from facelib.runtimes.keras_h5 import KerasEmbedder
from facelib.self_test import make_self_test
from facelib.sidecar import (
    Sidecar,
    check_raw_pixels,
    check_sidecar,
    keep_flags,
    parity_record,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)
from facelib.tensorflow_env import set_up_tensorflow
from facelib.training.protocols import Evaluation, TrainingBatches
from facelib.training.recipe.rules import check_recipe
from facelib.training.recipe.schema import DataConfig, Recipe, Stage
from facelib.training.recipe.toml import load_recipe
from facelib.training.run_dir import RunDir
from facelib.training.teacher import open_teacher
from facelib.unit_vectors import check_differ, row_cosines

NUM_CROPS = 256  # of DATA, on which the copy is compared with the original


class ChangeModel(Protocol):
    """Makes the changed copy of a Keras model; the copy shares no weight with it."""

    def __call__(self, original: Any, where: str, crops: np.ndarray | None) -> Any:
        """Makes the copy.

        Args:
            original: Keras model, raw pixels in, embeddings out.
            where: its path, for error messages.
            crops: uint8 [N, H, W, 3], RGB; None without data.
        """


class MakeData(Protocol):
    """Makes the training batches, as `dataset.TrainingData.of_recipe` does."""

    def __call__(
        self, recipe: Recipe, records: Records, image_size: tuple[int, int], num_threads: int | None
    ) -> TrainingBatches: ...


@dataclass(frozen=True)
class Change:
    """What is changed in the copy.

    Attributes:
        name: part of the name of the recipe.
        make: makes the copy.
        notes: for the sidecar.
        activation: of the copy, for the recipe; None if it does not change.
    """

    name: str
    make: ChangeModel
    notes: dict[str, Any]
    activation: str | None = None


def add_flags(parser: argparse.ArgumentParser, *, learning_rate: float, data_help: str) -> None:
    """Adds the flags that both tools share. `check_flags` checks their values."""
    add = parser.add_argument
    add("model", type=Path, metavar="EMBEDDER.h5", help="trained network")
    add("out", type=Path, metavar="OUT", help="run directory of the copy; an existing run is resumed")
    add("--data", type=Path, metavar="DATA", help=data_help)
    add("--valid", type=Path, metavar="DIR_OR_BIN", help="verification sets, tested after each epoch (default: none)")
    add("--epochs", type=int, default=1, metavar="N", help="passes over DATA (default: %(default)s)")
    add("--batch-size", type=int, default=32, metavar="N", help="images per step (default: %(default)s)")
    rate_help = "peak learning rate of AdamW (default: %(default)s)"
    add("--learning-rate", type=float, default=learning_rate, metavar="RATE", help=rate_help)
    add(
        "--checkpoint-every",
        type=int,
        default=1000,
        metavar="STEPS",
        help="steps between checkpoints; each epoch also ends with a checkpoint (default: %(default)s)",
    )
    add("--threads", type=int, metavar="N", help="threads that read and decode images (default: all cores)")
    add_device_flag(parser)
    add_pixel_flags(
        parser.add_argument_group("for a network without a sidecar (this network must take raw RGB pixels)")
    )


def check_flags(args: argparse.Namespace) -> None:
    """Raises for numbers below 1, and for packages that the training needs and that are not installed."""
    require("tensorflow", "keras", "h5py", "simplejpeg", "matplotlib")
    for flag in ("checkpoint_every", "threads"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise FaceError(f"--{flag.replace('_', '-')} must be at least 1. Received: {value}.")


def distil_copy(
    args: argparse.Namespace,
    change: Change,
    make_data: MakeData,
    evaluate: Callable[[Embedder], Evaluation] | None = None,
    on_epoch_end: Callable[[Path], object] | None = None,
    valid_images: Iterable[tuple[str, Iterable[bytes]]] = (),
) -> str | None:
    """Trains the copy on `args.data` and compares it with the original. Resumes a run that exists.

    Args:
        args: values of the flags of `add_flags`.
        change: makes the copy.
        make_data: makes the training batches.
        evaluate: measures the copy after each epoch; None to skip.
        on_epoch_end: called with the path of the run directory after each epoch.
        valid_images: (name, encoded images) of the verification sets that `evaluate` reads.

    Returns:
        What stopped the training, 'SIGTERM', 'SIGINT' or 'n + Enter'; None if it is complete.
    """
    sidecar, io = find_io(args)
    recipe = make_recipe(args, change, io)
    records = open_records(args.data)
    settle_device(args.device)
    crops, described = load_crops(args.data, NUM_CROPS, recipe.seed, io.size, fit=io.fit)
    set_up_tensorflow(recipe.seed, recipe.precision, recipe.deterministic)
    print(training_on())
    print_notes([*device_notes(recipe.precision), *same_images_notes(records, valid_images)])
    from facelib.training.trainer import Trainer

    copy, original = make_copy(args.model, change, crops)
    before = cosines_between(copy, original, crops, str(args.model))
    with closing(RunDir(args.out, recipe, args.data, records.fingerprint)) as run:
        keep_flags(args.model, "h5", replace(io, embedding_size=original.outputs[0].shape[-1]), sidecar)
        embedder = KerasEmbedder(copy, io)
        trainer = Trainer(
            copy, make_data(recipe, records, io.size, args.threads), run, make_head=_make_no_head, recipe=recipe,
            evaluate=(lambda _: evaluate(embedder)) if evaluate else None,
            teacher=open_teacher(args.model, io, records, threads=args.threads), made_from=args.model,
            checkpoint_every=args.checkpoint_every, on_epoch_end=on_epoch_end,
        )  # fmt: skip
        if trainer.fit():
            _compare(run.path / "embedder.h5", original, crops, described, before, args.data, change)
    return trainer.stopped_by


def _make_no_head(
    loss: str, num_classes: int, options: dict | None = None, warmup_scale: float | None = None
) -> NoReturn:
    raise ValueError(f"A copy learns from its original alone, without class centres. Received: loss={loss!r}")


def write_untrained(args: argparse.Namespace, change: Change) -> int:
    """Writes the changed copy without training it."""
    from facelib.runtimes.keras_h5 import save_h5

    path = args.out / "embedder.h5"
    if path.exists():
        raise FaceError(
            f"OUT must be a new folder or, with --data, the folder of a run to continue. '{path}' exists: choose a "
            "different OUT."
        )
    _, io = find_io(args)
    recipe = make_recipe(args, change, io)
    set_up_tensorflow(recipe.seed, recipe.precision, recipe.deterministic)
    copy, _ = make_copy(args.model, change, None)
    make_folder(path.parent)
    save_h5(copy, path)
    io = replace(io, embedding_size=copy.outputs[0].shape[-1])
    test = make_self_test(KerasEmbedder(copy, io), "h5")
    write_sidecar(path, kind="h5", made_from=args.model, io=io, **change.notes, self_test=test)
    print(f"wrote {path}, which is not trained; next: the same command with --data DATA and a different OUT")
    return 0


def find_io(args: argparse.Namespace) -> tuple[Sidecar | None, Io]:
    """(the sidecar of the original, how it and the copy are fed): as the sidecar says, or the flags.

    Raises:
        FaceError: neither says it, or the original does not take raw RGB pixels.
    """
    sidecar = check_sidecar(args.model)
    return sidecar, check_raw_pixels(choose_io(sidecar, args), args.model)


def make_recipe(args: argparse.Namespace, change: Change, io: Io) -> Recipe:
    """The recipe of the copy. Its name contains the hash of the original, so a changed original is not resumed."""
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
        data=DataConfig(batch_size=args.batch_size, fit="exact" if io.size == Io.size else io.fit),
        stage=(stage,),
    )
    check_recipe(recipe, "the flags")
    return recipe


def make_copy(path: Path, change: Change, crops: np.ndarray | None) -> tuple:
    """(the changed copy, the original), two Keras models. `crops` as for `ChangeModel`."""
    from facelib.runtimes.keras_h5 import check_model, in_float32, load_model

    original = in_float32(load_model(path))
    check_model(original, path)
    return change.make(original, str(path), crops), original


def cosines_between(model, original, crops: np.ndarray, where: str) -> np.ndarray:
    """Cosines between the embeddings of two Keras models.

    Args:
        model: the copy.
        original: the network that it learns from.
        crops: uint8 [N, H, W, 3], RGB.
        where: the path of the original, for errors.

    Returns:
        float64 [N].

    Raises:
        FaceError: an embedding is zero or not finite, or all those of one model are the same.
    """
    vectors = [KerasEmbedder(which, Io(size=crops.shape[1:3]))(crops) for which in (model, original)]
    for rows, what in zip(vectors, (f"The changed copy of '{where}'", f"'{where}'"), strict=True):
        check_differ(rows, what)
    return row_cosines(*vectors)


def _compare(
    path: Path, original, crops: np.ndarray, described: dict, before: np.ndarray, data: Path, change: Change
) -> None:
    """Compares the written copy with the original, and notes the result in the sidecar."""
    from facelib.runtimes.keras_h5 import load_model

    after = cosines_between(load_model(path), original, crops, str(path))
    sidecar = read_sidecar(path)
    parity = {**parity_record(after), "mean_cosine_untrained": float(before.mean()), "crops": described}
    write_json(sidecar_path(path), {**(sidecar.rest if sidecar else {}), **change.notes, "parity": parity})
    print(
        f"cosine to the original on {len(after)} crops of {data}: untrained copy mean {before.mean():.4f}, "
        f"distilled mean {after.mean():.4f}, worst {after.min():.4f}"
    )
