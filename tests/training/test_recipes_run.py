"""Every recipe of another system trains two short epochs on synthetic faces, and so does each way to begin."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from facelib.data.conversion.job import convert
from facelib.data.synthetic.files import SyntheticSet, write_folders, write_pairs
from facelib.errors import FaceError
from facelib.training.recipe.toml import load_recipe
from facelib.training.schedules import learning_rate_at
from train import main

ROOT = Path(__file__).parents[2]
TOY = ROOT / "recipes" / "toy.toml"
TINY = ROOT / "tests" / "helpers" / "tiny_train.py"  # train.py with a small net
SEEDS = sorted((ROOT / "recipes").glob("seed_*.toml"))
PAPERS = [
    ROOT / "recipes" / f"{name}.toml" for name in ("paper_mobilefacenet", "insightface_mbf_ms1mv3", "mcu_mobilefacenet")
]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_folders(folder / "faces", SyntheticSet(6, 4))
    convert(folder / "faces", folder / "data")
    write_pairs(folder / "toy.bin", SyntheticSet(30, 4, first_identity=100), 20)
    return folder


def words(toy, out, recipe, *sets):
    """The arguments of train.py."""
    flags = ["--data", str(toy / "data"), "--valid", str(toy / "toy.bin"), "--out", str(out), "--log-every", "1"]
    return [str(recipe), *flags, *(word for s in sets for word in ("--set", s))]


def run(toy, out, recipe, *sets, flags=(), script="train.py"):
    """train.py as a user runs it."""
    command = [sys.executable, str(script), *words(toy, out, recipe, *sets), *flags]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=environment)


def train(toy, out, recipe, *sets, script="train.py"):
    """The lines of metrics.jsonl after a whole training."""
    done = run(toy, out, recipe, *sets, script=script)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def short(recipe):
    """Two epochs in all at least: one a stage, or two of a single one; float32 and few channels for the CPU."""
    loaded = load_recipe(recipe)
    epochs = 1 if len(loaded.stage) > 1 else 2
    sets = ["precision=float32", "data.batch_size=12"]
    sets += [f"stage.{i}.epochs={epochs}" for i in range(len(loaded.stage))]
    sets += [f"stage.{i}.micro_batches=2" for i, stage in enumerate(loaded.stage) if stage.micro_batches > 1]
    return sets + (
        ["model.width=0.25"] if loaded.model.backbone in ("mobilefacenet", "mobilefacenet_s", "my_mobilenet") else []
    )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [*SEEDS, *PAPERS], ids=lambda path: path.stem)
def test_the_recipe_trains_from_its_file(toy, tmp_path, recipe):
    lines = train(toy, tmp_path / "run", recipe, *short(recipe))

    stages = load_recipe(recipe).stage
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert len(epochs) == max(2, len(stages))
    assert [line["loss"] for line in lines if line["kind"] == "stage"] == [stage.loss for stage in stages]
    assert all(set(line["sets"]) == {"toy"} for line in epochs)
    assert (tmp_path / "run" / "embedder.h5").is_file()


def test_there_is_a_recipe_of_each_seed():
    assert len(SEEDS) == 5


def test_the_rate_of_the_seven_stages_is_one_curve_through_all_of_them():
    """scheduler(epoch) of Keras_insightface in 2020: lr if epoch < 10 else lr * exp(0.05 * (10 - epoch))."""
    stages = load_recipe(ROOT / "recipes" / "seed_seven_stages.toml").stage

    rates = [
        learning_rate_at(stage, 4 * epoch + k, 4) for stage in stages for epoch in range(stage.epochs) for k in (0, 3)
    ]

    expected = [0.001 * math.exp(0.05 * min(0, 10 - epoch)) for epoch in range(99) for _ in (0, 3)]
    assert rates == pytest.approx(expected, rel=1e-5)


def test_the_rate_of_the_cosine_recipe_is_that_of_its_code():
    """yolox_warm_cos_lr of bubbliiiing/arcface-keras for 100 epochs, where its own whole epochs begin."""
    stage = load_recipe(ROOT / "recipes" / "seed_cosine_s32.toml").stage[0]
    peak, least, steps = 0.01, 1e-4, 1000

    rates = [learning_rate_at(stage, max(0, epoch * steps - 1), steps) for epoch in range(101)]

    assert rates[:4] == pytest.approx([peak * (0.1 + 0.9 * (epoch / 3) ** 2) for epoch in range(4)], rel=1e-3)
    cosine = [least + (peak - least) * (1 + math.cos(math.pi * (epoch - 3) / 82)) / 2 for epoch in range(4, 85)]
    assert rates[4:85] == pytest.approx(cosine, rel=1e-3)
    assert rates[86:] == pytest.approx([least] * 15)


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """A small run, to begin others with."""
    out = tmp_path_factory.mktemp("first") / "run"
    train(toy, out, TOY, "stage.0.epochs=1", "data.batch_size=12", script=TINY)
    return out


@pytest.mark.slow
def test_a_teacher_is_one_switch_on_any_recipe(toy, trained, tmp_path):
    sets = ["model.width=0.25", "stage.0.epochs=2", "data.batch_size=12", f"teacher={trained / 'embedder.h5'}"]
    plain = train(toy, tmp_path / "plain", TOY, *sets[:3])
    taught = train(toy, tmp_path / "taught", TOY, *sets)
    alone = train(toy, tmp_path / "alone", ROOT / "recipes" / "small_distill.toml", *sets)

    first = [next(line["loss"] for line in lines if line["kind"] == "step") for lines in (plain, taught)]
    assert first[1] > first[0] + 0.1  # the same start, and the distance to the teacher on top
    assert all(0 <= line["loss"] <= 2 for line in alone if line["kind"] == "step")
    assert len(list((toy / "data" / "teachers").glob("*.npy"))) == 1  # computed once for both


@pytest.mark.slow
def test_a_run_begins_with_an_older_one(toy, trained, tmp_path):
    flags = ("--init-from", str(trained / "epoch-001.h5"))
    done = run(toy, tmp_path / "run", TOY, "stage.0.epochs=1", flags=flags, script=TINY)

    assert done.returncode == 0, done.stderr[-2000:]
    assert "class centres of 6 of 6 identities\n" in done.stdout


@pytest.mark.parametrize(
    "sets, message",
    [
        (["teacher=nothing.h5"], "No model at 'nothing.h5'"),
        (["stage.0.freeze_layers=['stam']"], "prefixes of layer names. No layer begins with 'stam'"),
        (["model.stem=separable", "model.backbone=mbf"], "model.stem is an option only of mobilefacenet"),
    ],
)
def test_bad_input_is_one_line(toy, tmp_path, sets, message):
    with pytest.raises(FaceError) as error:
        main(words(toy, tmp_path / "run", TOY, *sets))

    assert message in str(error.value) and "\n" not in str(error.value)
