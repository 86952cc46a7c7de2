"""Scripts that take a model: it is fed as its sidecar or the flags say, and one that tells nobody apart is refused."""

import check_overlap
import clean_data
import cv2
import h5py
import keras
import numpy as np
import pytest
import quantize_aware
import swap_activation

import evaluate_data
import h5_2_pb
import onnx_test
import predict
import train
from backbones import build_backbone
from facelib.data.conversion.job import convert
from facelib.data.synthetic.files import SyntheticSet, write_folders, write_pairs
from facelib.errors import FaceError
from facelib.export.parity import check_parity
from facelib.model_input import Io
from facelib.models.layers import PixelScale
from facelib.models.registry import ModelConfig
from facelib.runtimes.keras_h5 import load_model, save_h5
from facelib.sidecar import read_sidecar, write_sidecar
from facelib.training.init_from import apply_init
from tests.helpers.patches_onnx import write_model

FED = ("--color", "bgr", "--layout", "nchw")  # raw pixels


def small_net(bias_alone=False, scaled=True):
    keras.utils.set_random_seed(0)
    faces = keras.Input((112, 112, 3), name="input_1")
    x = PixelScale(name="pixel_scale")(faces) if scaled else faces
    x = keras.layers.ReLU(name="act")(keras.layers.Conv2D(4, 3, 8, name="conv")(x))
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    model = keras.Model(faces, keras.layers.Dense(8, name="embeddings")(x), name="small")
    if bias_alone:  # as a net whose last layer has died
        model.get_layer("embeddings").set_weights([np.zeros((4, 8)), np.arange(8.0)])
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Faces, data, a verification set, a photo of each of two people, and an .h5 without a sidecar."""
    folder = tmp_path_factory.mktemp("fed")
    write_folders(folder / "faces", SyntheticSet(5, 4))
    write_folders(folder / "others", SyntheticSet(12, 3, first_identity=500))
    convert(folder / "faces", folder / "data", progress=False)
    write_pairs(folder / "toy.bin", SyntheticSet(20, 4, first_identity=1000), 20)
    for name, shade in (("a", 40), ("b", 200)):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((112, 112, 3), (shade, 128, 90), np.uint8))
    save_h5(small_net(), folder / "net.h5")
    return folder


def commands(folder, out, model):
    """{script: (its main, its arguments)} of those that embed faces."""
    return {
        "test": (onnx_test.main, [model, "--valid", folder / "toy.bin", "--far", "0.1"]),
        "compare": (predict.main, [folder / "a.png", folder / "b.png", "--model", model, "--threshold", "1"]),
        "enroll": (predict.main, ["enroll", folder / "faces", out / "g.npy", "--model", model]),
        "clean": (clean_data.main, [folder / "faces", out / "cleaned", "--model", model]),
        "overlap": (
            check_overlap.main,
            [folder / "faces", folder / "others", "--model", model, "--threshold", "1", "--out", out / "o.csv"],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("script", ["test", "compare", "enroll", "clean", "overlap"])
def test_the_flags_are_kept_and_serve_the_next_command(folder, tmp_path, script):
    model, out = write_model(tmp_path / "m.onnx"), tmp_path / "out"
    out.mkdir()
    main, words = commands(folder, out, model)[script]

    with pytest.raises(FaceError, match=r"has no sidecar 'm\.onnx\.json' .* --color rgb\|bgr --pixels raw"):
        main([str(word) for word in words])
    assert main([str(word) for word in (*words, *FED)]) == 0

    sidecar = read_sidecar(model)
    assert sidecar.is_from_flags and (sidecar.io.colour, sidecar.io.layout) == ("bgr", "nchw")
    assert sidecar.kind == "onnx"
    main, words = commands(folder, out, model)["compare"]
    assert main([str(word) for word in words]) == 0


@pytest.mark.parametrize("script", ["test", "compare", "enroll", "clean", "overlap"])
@pytest.mark.parametrize(
    ("offset", "match"), [(1e12, "(gives|returns) .*for all"), (np.nan, "The model returned a non-finite embedding")]
)
def test_a_model_that_tells_nobody_apart_is_one_line_and_nothing_is_written(folder, tmp_path, script, offset, match):
    model, out = write_model(tmp_path / "m.onnx", offset), tmp_path / "out"
    out.mkdir()
    main, words = commands(folder, out, model)[script]

    with pytest.raises(FaceError, match=match) as caught:
        main([str(word) for word in (*words, *FED)])

    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir() if path != out] == ["m.onnx"] and not list(out.iterdir())


class NoTrainer:
    """Stands for a training that was stopped before its first step."""

    stopped_by = None

    def __init__(self, *args, **options):
        pass

    def fit(self):
        return False


@pytest.mark.parametrize(("tool", "more"), [(quantize_aware, []), (swap_activation, ["--to", "relu6"])])
class TestToolsThatTrainACopy:
    def words(self, folder, model, out, more):
        return [str(word) for word in (model, out, "--data", folder / "data", "--batch-size", "10", *more)]

    def test_a_net_without_a_sidecar_needs_a_flag_which_is_kept(self, folder, tmp_path, monkeypatch, tool, more):
        model = tmp_path / "net.h5"
        model.write_bytes((folder / "net.h5").read_bytes())
        words = self.words(folder, model, tmp_path / "out", more)

        with pytest.raises(FaceError, match=r"has no sidecar 'net\.h5\.json' .* --pixels raw"):
            tool.main(words)
        for flags in (["--pixels", "pm1"], ["--color", "bgr"]):
            with pytest.raises(FaceError, match=r"Training passes raw RGB pixels.*import the net first"):
                tool.main([*words, *flags])
        assert not (tmp_path / "out").exists()

        monkeypatch.setattr("facelib.training.trainer.Trainer", NoTrainer)
        assert tool.main([*words, "--pixels", "raw"]) == 0
        assert read_sidecar(model).is_from_flags and read_sidecar(model).io == Io(embedding_size=8)

    def test_a_net_that_tells_nobody_apart_is_not_copied(self, folder, tmp_path, tool, more):
        save_h5(small_net(bias_alone=True), tmp_path / "net.h5")

        with pytest.raises(FaceError, match="returns the same embedding for all 20 faces"):
            tool.main([*self.words(folder, tmp_path / "net.h5", tmp_path / "out", more), "--pixels", "raw"])

        assert [path.name for path in tmp_path.iterdir()] == ["net.h5"]


def test_a_weight_that_is_not_a_number_is_named(folder, tmp_path):
    path = tmp_path / "net.h5"
    path.write_bytes((folder / "net.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file["model_weights/conv"].visititems(
            lambda name, item: item.__setitem__(0, np.nan) if name.endswith("bias") else None
        )

    for main, words in ((evaluate_data.main, ["--valid", folder / "toy.bin"]), (h5_2_pb.main, [])):
        with pytest.raises(FaceError, match=r"has 1 weights that are not finite, in 'conv/bias': use an earlier epoch"):
            main([str(word) for word in (path, *words, "--pixels", "raw")])
    assert [each.name for each in tmp_path.iterdir()] == ["net.h5"]


def test_an_export_that_gives_one_embedding_for_all_is_refused():
    def constant(pixels):
        return np.ones((len(pixels), 4), np.float32)

    with pytest.raises(FaceError, match=r"model returns the same embedding for all 3 faces"):
        check_parity("'a' and 'b'", "tflite_int8", constant, constant, np.zeros((3, 8, 8, 3), np.uint8))


def test_a_net_that_is_trained_on_says_what_it_takes(folder, tmp_path):
    net = small_net(scaled=False)
    save_h5(net, tmp_path / "bare.h5")

    with pytest.raises(FaceError, match=r"has no sidecar .* import_model\.py bare\.h5 OUT\.h5 --pixels raw\|pm1"):
        build_backbone(ModelConfig(backbone="imported", source=str(tmp_path / "bare.h5")))
    with pytest.raises(FaceError, match="has no sidecar that describes its input"):
        apply_init(small_net(), None, tmp_path / "bare.h5", [])
    assert "weights loaded" in apply_init(load_model(folder / "net.h5"), None, folder / "net.h5", [])
    write_sidecar(tmp_path / "bare.h5", kind="h5", made_from=None, io=Io(colour="bgr"))
    with pytest.raises(FaceError, match="needs raw bgr pixels"):
        apply_init(net, None, tmp_path / "bare.h5", [])


RECIPE = """
name = "pupil"
[model]
backbone = "mobilefacenet"
width = 0.25
embedding_size = 8
[data]
batch_size = 10
[[stage]]
loss = "distill"
epochs = 1
"""


def test_a_teacher_without_a_sidecar_is_fed_as_the_recipe_says_or_not_at_all(folder, tmp_path):
    (tmp_path / "recipe.toml").write_text(f'teacher = "{folder / "net.h5"}"\n{RECIPE}')
    words = [tmp_path / "recipe.toml", "--data", folder / "data", "--out", tmp_path / "run"]
    args = train.parse_args([str(word) for word in words])

    with pytest.raises(FaceError, match=r"teacher '.*net\.h5' has no sidecar .* --set teacher_io\.pixels=raw\|pm1"):
        train.main([str(word) for word in words])
    assert not (tmp_path / "run").exists()

    args.set = ["teacher_io.pixels=pm1"]
    assert train.find_teacher_io(train.load_recipe(args.recipe, args.set), args) == Io(pixels="pm1")
