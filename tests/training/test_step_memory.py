"""How much memory a step takes, before it runs."""

import keras
import pytest

from facelib.training import step_memory
from facelib.training.recipe.schema import DataConfig, Recipe, Stage
from facelib.training.step_memory import check_step, step_bytes


@pytest.fixture(scope="module")
def net():
    """A net whose layers give 112 x 112 x 3 twice, 56 x 56 x 8 and 8 values."""
    faces = keras.Input((112, 112, 3), name="input_1")
    x = keras.layers.Rescaling(1 / 255, name="scaled")(faces)
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="conv")(x)
    return keras.Model(faces, keras.layers.GlobalAveragePooling2D(name="embeddings")(x), name="step_memory_net")


def recipe(batch_size=64, **options):
    return Recipe(data=DataConfig(batch_size=batch_size), stage=(Stage(optimizer="sgd", **options),))


def test_the_memory_grows_with_the_outputs_of_the_layers(net):
    outputs = 4 * (2 * 112 * 112 * 3 + 56 * 56 * 8 + 8)
    more = step_bytes(recipe(128), net, 10) - step_bytes(recipe(64), net, 10)
    assert outputs * 64 < more < 1.3 * outputs * 64
    half = step_bytes(recipe(128), net, 10, 2) - step_bytes(recipe(64), net, 10, 2)
    assert half == pytest.approx(more / 2, rel=0.01)


def test_micro_batches_take_less(net):
    assert step_bytes(recipe(128, micro_batches=2), net, 10) < step_bytes(recipe(128), net, 10)


def test_a_batch_that_does_not_fit_gets_one_that_does(net, monkeypatch):
    monkeypatch.setattr(step_memory, "free_bytes", lambda: 1 << 30)
    line, problem = check_step(recipe(4096), net, 10)
    assert "with data.batch_size = 4096; 1.1 GB are free" in line
    fits = int(problem.split("--set data.batch_size=")[1].split(",")[0])
    assert 0 < fits < 4096 and fits % 8 == 0
    assert check_step(recipe(fits), net, 10)[1] == ""
    assert check_step(recipe(2 * fits), net, 10)[1] != ""


def test_where_nothing_fits_the_net_is_named(net, monkeypatch):
    monkeypatch.setattr(step_memory, "free_bytes", lambda: 1000)
    assert "Use a smaller net or fewer classes" in check_step(recipe(), net, 10)[1]
    monkeypatch.setattr(step_memory, "free_bytes", lambda: None)
    assert check_step(recipe(), net, 10)[1] == ""


def test_a_gpu_has_memory_of_its_own(net, monkeypatch):
    monkeypatch.setattr(step_memory, "gpu_names", lambda: ["X"])
    monkeypatch.setattr(step_memory, "free_gpu_bytes", lambda: 2_000_000_000)
    assert check_step(recipe(), net, 10)[0].endswith("; 2.0 GB are free")
