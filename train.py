"""Train an embedder: recipe + data -> RUN/embedder.h5. The same command again resumes.

python train.py                                            toy faces that it draws itself, a few minutes
python train.py recipes/small_mobilefacenet.toml --data DATA --valid lfw.bin --out runs/small
python train.py recipes/small_mobilefacenet.toml --data DATA --out runs/x --set model.activation=relu

Ctrl-C or SIGTERM writes a checkpoint and ends; `n` + Enter ends after this epoch.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from dataset import TrainingData, random_flip
from evaluate_data import DEFAULT_VALID, check_sets, evaluate_sets
from facelib.cli import FaceError, run_cli
from facelib.convert import convert
from facelib.data_dir import open_records
from facelib.quiet import quiet_tensorflow
from facelib.recipe import ModelConfig, Recipe, load_recipe
from facelib.run_dir import RunDir
from facelib.runtimes import KerasEmbedder
from facelib.toy_data import ToySet, write_folders, write_pairs
from facelib.valid_sets import find_sets

TOY_RECIPE = Path(__file__).parent / "recipes" / "toy.toml"
TOY_TRAIN, TOY_VALID = ToySet(160, 15), ToySet(100, 8, first_identity=1_000_000)
TOY_PAIRS = 2400


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    recipe = load_recipe(args.recipe, args.set)
    out = args.out or Path("runs") / recipe.name
    if args.data is None:
        args.data, toy_valid = draw_toy_data(Path("runs") / "toy_data")
        args.valid = args.valid or toy_valid
    sets = find_valid(args.valid)
    check_sets(sets)
    records = open_records(args.data)
    if records.num_classes < 2:
        raise FaceError(f"Training needs at least 2 identities. '{args.data}' has {records.num_classes}.")
    run = RunDir(out, recipe, args.data, records.fingerprint)
    prepare_tensorflow(recipe)
    from facelib.trainer import Trainer  # TensorFlow comes with it: only now that all arguments are right

    embedder, head, last_layers = build(recipe, records.num_classes)
    print(
        f"{len(records):,} images, {records.num_classes:,} identities, {len(sets)} verification sets; "
        f"{recipe.model.backbone} of {embedder.count_params():,} parameters, head of {head.count_params():,}"
    )
    data = TrainingData(
        records,
        recipe.data.batch_size,
        seed=recipe.seed,
        shuffle=recipe.data.shuffle,
        augment=random_flip if recipe.data.flip else None,
        num_threads=args.threads,
    )
    measured = KerasEmbedder(embedder)
    trainer = Trainer(
        recipe, embedder, head, last_layers, data,
        evaluate=(lambda _: evaluate_sets(measured, sets)) if sets else None,
        run=run, checkpoint_every=args.checkpoint_every, log_every=args.log_every,
    )  # fmt: skip
    if trainer.fit():
        best = run.path / "embedder.h5"
        print(f"wrote {best}\nnext: python h5_2_pb.py {best}")
    return 0


def prepare_tensorflow(recipe: Recipe) -> None:
    """Seeds and precision; the environment must be set before TensorFlow is imported."""
    # Without it every activation is fresh memory from the system: a quarter of a CPU training step goes to page faults.
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    quiet_tensorflow()
    import keras
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy(recipe.precision)


def build(recipe: Recipe, num_classes: int):
    """The embedder, its head, and the embedder's variables after the global operator."""
    from face_loss_k import ArcFace

    embedder = build_embedder(recipe.model)
    stage = recipe.stage[0]
    head = ArcFace(num_classes, stage.margin, stage.scale, stage.past_pi, name="head")
    head.build((None, recipe.model.embedding_size), (None,))
    return embedder, head, embedder.get_layer("embedding_conv").trainable_variables


def build_embedder(model: ModelConfig):
    """The backbone that a recipe's [model] table describes."""
    from mobilefacenet import mobilefacenet
    from my_mobilenet import my_mobilenet

    options = {key: value for key, value in vars(model).items() if key != "backbone"}
    if model.backbone == "my_mobilenet":
        stem = options.pop("stem")
        if stem != ModelConfig.stem:
            raise FaceError(f"model.stem is an option of mobilefacenet. Received: stem='{stem}' for my_mobilenet.")
        return my_mobilenet(**options)
    return mobilefacenet(**options)


def find_valid(valid: Path | None) -> list:
    """The verification sets; none at all is allowed only where nobody named a folder."""
    if valid is None and not any(DEFAULT_VALID.glob("*.bin")):
        return []
    return find_sets(valid or DEFAULT_VALID)


def draw_toy_data(folder: Path) -> tuple[Path, Path]:
    """Draws toy faces once: (data directory, folder with toy.bin)."""
    data, valid = folder / "data", folder / "valid"
    if not (valid / "toy.bin").exists():
        write_pairs(valid / "toy.bin", TOY_VALID, TOY_PAIRS)
    if not (folder / "faces").exists():
        write_folders(folder / "faces", TOY_TRAIN)
    convert(folder / "faces", data)
    return data, valid


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "recipe", type=Path, nargs="?", default=TOY_RECIPE, metavar="RECIPE", help="TOML file (default: the toy recipe)"
    )
    add("--data", type=Path, metavar="DIR", help="data directory or older TFRecords (default: toy faces, drawn)")
    add("--valid", type=Path, metavar="DIR_OR_BIN", help=f"verification sets (default: {DEFAULT_VALID}/*.bin)")
    add("--out", type=Path, metavar="RUN", help="run directory; one that exists is resumed (default: runs/<name>)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe key: stage.0.epochs=2")
    add("--checkpoint-every", type=int, default=1000, metavar="STEPS", help="besides after each epoch (%(default)s)")
    add("--log-every", type=int, default=20, metavar="STEPS", help="to metrics.jsonl and TensorBoard (%(default)s)")
    add("--threads", type=int, metavar="N", help="that read and decode images (default: all cores)")
    args = parser.parse_args(argv)
    for flag in ("checkpoint_every", "log_every", "threads"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise FaceError(f"--{flag.replace('_', '-')} is at least 1. Received: {value}.")
    if args.data is None and args.recipe.resolve() != TOY_RECIPE.resolve():
        raise FaceError("A recipe of your own needs data. Give --data DIR, as prepare_data.py writes it.")
    return args


if __name__ == "__main__":
    run_cli(main)
