"""A copy of a network with another activation: the same weights, an output by hand, a distillation."""

import os
import signal

import keras
import numpy as np
import pytest
import swap_activation

from facelib.data.conversion.job import convert
from facelib.data.synthetic.files import SyntheticSet, write_folders, write_pairs
from facelib.errors import FaceError
from facelib.files import sha256_of
from facelib.model_input import Io
from facelib.models.layers import FusedBatchNorm, PixelScale, PReLU
from facelib.models.swap_activation import swap_activations
from facelib.runtimes.keras_h5 import load_model, save_h5
from facelib.sidecar import check_sidecar, write_sidecar
from facelib.training.self_distillation import Change, make_recipe
from mobilefacenet import mbf


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A small PReLU net with steep slopes, and faces."""
    folder = tmp_path_factory.mktemp("toy")
    write_folders(folder / "faces", SyntheticSet(8, 6))
    convert(folder / "faces", folder / "data")
    write_pairs(folder / "toy.bin", SyntheticSet(30, 4, first_identity=100), 20)
    (folder / "run").mkdir()
    save_h5(small_net(), folder / "run" / "embedder.h5")
    write_sidecar(folder / "run" / "embedder.h5", kind="h5", made_from=None, io=Io(), licence="Apache-2.0")
    return folder


def small_net():
    keras.utils.set_random_seed(0)
    faces = keras.Input((112, 112, 3), name="input_1")
    x = PixelScale(name="scale")(faces)
    for number, filters in enumerate((8, 16)):
        x = keras.layers.Conv2D(filters, 3, 4, use_bias=False, name=f"conv{number}")(x)
        x = PReLU(name=f"act{number}")(FusedBatchNorm(name=f"bn{number}")(x))
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    model = keras.Model(faces, keras.layers.Dense(16, name="embeddings", use_bias=False)(x), name="small")
    for number in range(2):
        model.get_layer(f"act{number}").alpha.assign(np.linspace(-0.5, 0.9, 8 * (number + 1)))
    return model


def words(toy, out, *more, to="relu"):
    data = ("--data", str(toy / "data"), "--epochs", "2", "--batch-size", "12")
    return [str(toy / "run" / "embedder.h5"), str(out), "--to", to, *data, *more]


def two_layers():
    faces = keras.Input((2, 2, 3), name="input_1")
    x = keras.layers.Conv2D(2, 1, name="conv", use_bias=False)(faces)
    x = PReLU(name="conv_act")(x)
    model = keras.Model(faces, keras.layers.Dense(2, name="embeddings")(keras.layers.Flatten(name="flatten")(x)))
    model.get_layer("conv_act").alpha.assign([0.5, 0.9])
    return model


@pytest.mark.parametrize(
    "kind, formula",
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("relu6", lambda x: np.clip(x, 0, 6)),
        ("leaky_relu", lambda x: np.where(x > 0, x, 0.1 * x)),
    ],
)
def test_the_copy_computes_the_other_activation_with_the_same_weights(kind, formula):
    model = two_layers()
    faces = np.random.default_rng(0).uniform(-30, 30, (4, 2, 2, 3)).astype(np.float32)

    copy, num_swapped = swap_activations(model, kind, "m.h5")

    kernel, weights, bias = (w.numpy().astype(np.float64) for w in copy.weights)
    expected = formula(faces @ kernel[0, 0]).reshape(4, -1) @ weights + bias
    np.testing.assert_allclose(copy(faces), expected, rtol=1e-4, atol=1e-4)
    assert num_swapped == 1
    for mine, theirs in zip(copy.weights, (w for w in model.weights if w.name != "alpha"), strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert not {id(w) for w in copy.weights} & {id(w) for w in model.weights}  # the original can be the teacher


@pytest.mark.slow
def test_the_layers_of_the_copy_keep_their_names():
    model = mbf(embedding_size=16)

    copy, num_swapped = swap_activations(model, "leaky_relu", "m.h5")

    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
    assert num_swapped == sum(isinstance(layer, PReLU) for layer in model.layers) > 10
    assert not any(isinstance(layer, PReLU) for layer in copy.layers)


def test_a_net_without_anything_to_swap_is_refused():
    copy, _ = swap_activations(two_layers(), "relu", "m.h5")

    with pytest.raises(FaceError, match=r"'relu.h5' has no activation to change to relu .found: ReLU"):
        swap_activations(copy, "relu", "relu.h5")
    assert swap_activations(copy, "relu6", "m.h5")[1] == 1  # ReLU with another ceiling is another activation


@pytest.mark.slow
def test_the_distilled_copy_is_nearer_and_a_stopped_run_resumes_to_the_same_copy(toy, tmp_path, monkeypatch, capsys):
    """Ended by an error before its second step, by a signal in it, and run again: the uninterrupted training."""
    from facelib.training.trainer import Trainer

    out, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert swap_activation.main(words(toy, out, "--valid", str(toy / "toy.bin"))) == 0
    said = capsys.readouterr().out
    take_step = Trainer._take_step

    def failing(self, *args):
        if self.position.global_step == 1:
            raise OSError("the power fails")
        take_step(self, *args)

    def signalled(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        take_step(self, *args)

    monkeypatch.setattr(Trainer, "_take_step", failing)
    flags = ("--checkpoint-every", "1", "--valid", str(toy / "toy.bin"))
    with pytest.raises(OSError, match="the power fails"):
        swap_activation.main(words(toy, stopped, *flags))
    monkeypatch.setattr(Trainer, "_take_step", signalled)
    assert swap_activation.main(words(toy, stopped, *flags)) == 143
    monkeypatch.undo()
    assert swap_activation.main(words(toy, stopped, *flags)) == 0

    assert "resuming at epoch 1, step 2" in capsys.readouterr().out
    for one, other in zip(
        load_model(out / "embedder.h5").weights, load_model(stopped / "embedder.h5").weights, strict=True
    ):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-6)
    sidecar = check_sidecar(out / "embedder.h5")
    parity = sidecar.rest["parity"]
    assert parity["mean_cosine"] > parity["mean_cosine_untrained"] and parity["faces"] == 48
    assert sidecar.licence == "Apache-2.0" and sidecar.rest["activation"] == "relu"
    assert sidecar.rest["made_from"]["sha256"] == sha256_of(toy / "run" / "embedder.h5")
    assert f"distilled mean {parity['mean_cosine']:.4f}" in said and "next: python h5_2_pb.py" in said
    assert "toy" in sidecar.rest["acc"]


def test_without_data_the_swap_alone_is_written(toy, tmp_path, capsys):
    out = tmp_path / "copy"
    command = [str(toy / "run" / "embedder.h5"), str(out), "--to", "leaky_relu"]

    assert swap_activation.main(command) == 0

    copy = load_model(out / "embedder.h5")
    slopes = {layer.negative_slope for layer in copy.layers if isinstance(layer, keras.layers.LeakyReLU)}
    assert len(slopes) == 1 and slopes.pop() == pytest.approx(0.1)
    sidecar = check_sidecar(out / "embedder.h5")
    assert sidecar.licence == "Apache-2.0" and sidecar.io.embedding_size == 16
    assert "which is not trained" in capsys.readouterr().out
    with pytest.raises(FaceError, match="exists: choose a different OUT"):
        swap_activation.main(command)


def test_bad_input_is_one_line_and_leaves_nothing(toy, tmp_path):
    out = tmp_path / "out"
    other = tmp_path / "other.h5"
    save_h5(two_layers(), other)
    h5, data = str(toy / "run" / "embedder.h5"), str(toy / "data")
    cases = [
        (["nothing.h5", str(out), "--to", "relu"], "No model at 'nothing.h5'"),
        ([h5, str(out), "--to", "relu", "--data", "nowhere"], "nowhere"),
        ([h5, str(out), "--to", "relu", "--data", data, "--epochs", "0"], "epochs must be at least 1. Received: 0"),
        ([h5, str(out), "--to", "relu", "--data", data, "--threads", "0"], "--threads must be at least 1. Received: 0"),
        ([h5, str(out), "--to", "relu", "--data", data, "--learning-rate", "-1"], "learning_rate must be above 0"),
        ([h5, str(tmp_path), "--to", "relu", "--data", data], "holds other files"),
    ]
    for command, message in cases:
        with pytest.raises(FaceError, match=message) as caught:
            swap_activation.main(command)
        assert "\n" not in str(caught.value)
    assert not out.exists()


def test_a_changed_original_is_another_training(toy, tmp_path):
    copy = tmp_path / "embedder.h5"
    copy.write_bytes((toy / "run" / "embedder.h5").read_bytes())
    command = [str(copy), str(tmp_path / "out"), "--to", "relu"]
    change = Change("relu_twin", None, {}, "relu")
    before = make_recipe(swap_activation.parse_args(command), change, Io()).name

    copy.write_bytes(copy.read_bytes() + b"more")

    assert make_recipe(swap_activation.parse_args(command), change, Io()).name != before


def test_a_net_that_does_not_take_raw_pixels_is_refused(toy, tmp_path):
    copy = tmp_path / "embedder.h5"
    copy.write_bytes((toy / "run" / "embedder.h5").read_bytes())
    write_sidecar(copy, kind="h5", made_from=None, io=Io(pixels="pm1"))

    for more in ([], ["--data", str(toy / "data")]):
        with pytest.raises(FaceError, match=r"needs pm1 rgb pixels, nhwc: import the net first"):
            swap_activation.main([str(copy), str(tmp_path / "out"), "--to", "relu", *more])
    assert not (tmp_path / "out").exists()
