"""Give a trained net another activation: EMBEDDER.h5 -> OUT/embedder.h5, its ReLU, ReLU6 or LeakyReLU twin.

python swap_activation.py runs/ms1m/embedder.h5 runs/ms1m_relu --to relu --data data/ms1m --valid lfw.bin

PReLU is more accurate to train with; a K210 has none, and an int8 ReLU is faster. The twin begins with the same weights
and learns the embeddings of EMBEDDER.h5 on DATA, without labels. Without --data the activations are swapped and nothing
is learned: a start for train.py --init-from. The same command again resumes.
"""

import argparse
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataset import TrainingData
from evaluate_data import check_sets, evaluate_sets
from facelib.augment import make_augment
from facelib.calibration import load_crops
from facelib.cli import FaceError, run_cli
from facelib.data_dir import open_records
from facelib.files import require_file, sha256_of, write_json
from facelib.parity import parity_record, row_cosines
from facelib.prepare import prepare_tensorflow
from facelib.recipe import DataConfig, ModelConfig, Recipe, load_recipe
from facelib.recipe_rules import check_recipe
from facelib.report import report_path
from facelib.run_dir import RunDir
from facelib.runtimes import KerasEmbedder
from facelib.sidecar import Io, check_sidecar, read_sidecar, sidecar_path, write_sidecar
from facelib.stage import Stage
from facelib.teacher import open_teacher
from facelib.valid_sets import find_sets

ACTIVATIONS = ("relu", "leaky_relu", "relu6")
NUM_CROPS = 256  # of DATA, to see how near the twin has come


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, metavar="EMBEDDER.h5", help="the trained net")
    add("out", type=Path, metavar="OUT", help="run directory of the twin; one that exists is resumed")
    add("--to", choices=ACTIVATIONS, required=True, help="leaky_relu has slope 0.1")
    add("--data", type=Path, metavar="DATA", help="faces to learn on, as train.py takes them; labels are not used")
    add("--valid", type=Path, metavar="DIR_OR_BIN", help="verification sets to measure each epoch on (default: none)")
    add("--epochs", type=int, default=1, metavar="N", help="passes over DATA (default: %(default)s)")
    add("--batch-size", type=int, default=32, metavar="N", help="images a step (default: %(default)s)")
    add("--learning-rate", type=float, default=1e-3, metavar="RATE", help="of AdamW, at most (default: %(default)s)")
    add("--checkpoint-every", type=int, default=1000, metavar="STEPS", help="besides after each epoch (%(default)s)")
    add("--threads", type=int, metavar="N", help="that read and decode images (default: all cores)")
    args = parser.parse_args(argv)
    for flag in ("checkpoint_every", "threads"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise FaceError(f"--{flag.replace('_', '-')} is at least 1. Received: {value}.")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    sidecar = check_sidecar(args.model)
    recipe = make_recipe(args)
    check_recipe(recipe, "the flags")
    io = sidecar.io if sidecar else Io()
    if args.data is None:
        prepare_tensorflow(recipe)
        return write_untrained(args, io)
    sets = find_sets(args.valid) if args.valid else []
    check_sets(sets)
    records = open_records(args.data)
    with closing(RunDir(args.out, recipe, args.data, records.fingerprint)) as run:
        prepare_tensorflow(recipe)
        embedder, original = make_twin(args)
        crops, described = load_crops(args.data, NUM_CROPS, recipe.seed, io.size)
        before = cosines_between(embedder, original, crops)
        if distil(args, recipe, embedder, io, records, run, sets):
            finish(run.path / "embedder.h5", original, crops, described, before, args)
    return 0


def make_recipe(args: argparse.Namespace) -> Recipe:
    """What the twin is trained by. Its name has the original's hash: a changed original is another training."""
    stage = Stage(
        loss="distill", distill="cosine", epochs=args.epochs, optimizer="adamw", learning_rate=args.learning_rate,
        warmup_steps=50, last_layer_decay=1.0,
    )  # fmt: skip
    beside = args.model.parent / "config.toml"
    model = load_recipe(beside).model if beside.is_file() else ModelConfig()
    return Recipe(
        name=f"{args.to}_twin_of_{sha256_of(require_file(args.model, 'model'))[:12]}",
        teacher=str(args.model),
        model=replace(model, activation=args.to),
        data=DataConfig(batch_size=args.batch_size),
        stage=(stage,),
    )


def make_twin(args: argparse.Namespace) -> tuple:
    """(The twin with the original's weights, the original), Keras models."""
    from facelib.freezing import check_model
    from facelib.keras_files import load_model
    from facelib.twin import swap_activations

    original = load_model(args.model)
    check_model(original, args.model)
    twin, num_swapped = swap_activations(original, args.to, str(args.model))
    print(f"{num_swapped} activations of {args.model} are {args.to} now; {twin.count_params():,} parameters")
    return twin, original


def distil(args: argparse.Namespace, recipe: Recipe, embedder, io: Io, records, run: RunDir, sets: list) -> bool:
    """Trains the twin towards the original; whether to the end."""
    from face_loss_k import make_head
    from facelib.trainer import Trainer

    data = TrainingData(
        records,
        recipe.data.batch_size,
        seed=recipe.seed,
        augment=make_augment(recipe.data.augment, recipe.data.flip),
        num_threads=args.threads,
    )
    measured = KerasEmbedder(embedder)
    trainer = Trainer(
        embedder, data, run, make_head=make_head, recipe=recipe, made_from=args.model,
        evaluate=(lambda _: evaluate_sets(measured, sets)) if sets else None,
        teacher=open_teacher(args.model, io, records, threads=args.threads), checkpoint_every=args.checkpoint_every,
    )  # fmt: skip
    return trainer.fit()


def finish(path: Path, original, crops: np.ndarray, described: dict, before: np.ndarray, args) -> None:
    """Measures the written twin, notes it in the sidecar, and names the next step."""
    from facelib.keras_files import load_model

    after = cosines_between(load_model(path), original, crops)
    sidecar = read_sidecar(path).rest
    parity = {**parity_record(after), "mean_cosine_untrained": float(before.mean()), "crops": described}
    write_json(sidecar_path(path), {**sidecar, "activation": args.to, "parity": parity})
    print(
        f"cosine to the original on {len(after)} crops of {args.data}: swapped alone mean {before.mean():.4f}, "
        f"distilled mean {after.mean():.4f}, worst {after.min():.4f}"
    )
    report = report_path(args.model)
    gate = f"python evaluate_data.py {path} --against {report}" if report.is_file() else f"python h5_2_pb.py {path}"
    print(f"wrote {path}\nnext: {gate}")


def write_untrained(args: argparse.Namespace, io: Io) -> int:
    """The swap alone."""
    from facelib.keras_files import save_h5

    path = args.out / "embedder.h5"
    if path.exists():
        raise FaceError(f"OUT is a new folder or, with --data, a run to continue. '{path}' exists: choose another OUT.")
    twin, _ = make_twin(args)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_h5(twin, path)
    size = twin.outputs[0].shape[-1]
    write_sidecar(path, kind="h5", made_from=args.model, io=replace(io, embedding_size=size), activation=args.to)
    print(f"wrote {path}, which has learned nothing yet; next: the same with --data DATA and another OUT")
    return 0


def cosines_between(model, original, crops: np.ndarray) -> np.ndarray:
    """float64 [N]: how alike two Keras models embed `crops`, uint8 [N, H, W, 3]."""
    vectors = [KerasEmbedder(which)(crops) for which in (model, original)]
    return row_cosines(*vectors)


if __name__ == "__main__":
    run_cli(main)
