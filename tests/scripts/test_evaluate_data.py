"""The shared main of all test scripts, with a runtime of a few lines, and the Keras embedder."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import evaluate_data
from facelib.data.verification.bins import load_bin
from facelib.errors import FaceError
from facelib.evaluation.embed_images import embed_images
from facelib.evaluation.metrics import pair_distances
from facelib.evaluation.verification_sets import find_sets
from facelib.model_input import Io
from facelib.runtimes.keras_h5 import KerasEmbedder, load_model
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.sidecar import write_sidecar
from tests.helpers.mean_colour import MeanColour, read, run_main

ROOT = Path(__file__).parents[2]
PRETRAINED = ROOT.parent / "shared" / "data" / "pretrained" / "mobilefacenet_relu6_128.onnx"


class Fours(MeanColour):
    """The same, in a runtime that takes four faces or eight."""

    def __init__(self):
        super().__init__(None, Io(), 1)
        self.batch_size, self.unit = 8, 4


@pytest.mark.parametrize(("num_faces", "sizes"), [(1, [4]), (4, [4]), (8, [8]), (11, [8, 4]), (13, [8, 8])])
def test_only_a_runtime_that_takes_multiples_is_padded(num_faces, sizes):
    faces = np.random.default_rng(0).integers(0, 256, (num_faces, 112, 112, 3), np.uint8)
    free, fours = MeanColour(None, Io(), 1), Fours()

    np.testing.assert_array_equal(fours(faces), free(faces))

    assert [shape[0] for shape in fours.shapes] == sizes
    assert [shape[0] for shape in free.shapes] == [num_faces]


def test_a_test_script_prints_the_table_and_writes_the_report(shades, capsys):
    code = run_main(shades / "model.fake", "--valid", shades, "--far", "0.1", "0.001", "--threads", "1")

    printed = capsys.readouterr().out.rstrip().split("\n")
    report = read(shades)
    assert code == 0
    assert printed[0].startswith("data set | AUC")
    assert "model.fake.report.json" in printed[-1] and "next:" in printed[-1]
    assert list(report["sets"]) == ["shades"] and report["kind"] == "fake"
    assert list(report["sets"]["shades"]["vr"]) == ["0.1", "0.001"]
    assert report["threads"] == 1 and report["size_bytes"] == 7
    assert report["images_per_s"] > 0 and report["ms_single"] > 0 and report["mean_norm"] > 100


def test_the_numbers_are_those_of_embedding_every_entry_by_itself(shades):
    pairs = load_bin(shades / "shades.bin")
    pixels = [cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1] for image in pairs.images]
    embed = MeanColour(None, Io(), 1)

    for flip in (False, True):
        rows = [embed.run(face[None])[0] + (embed.run(face[None, :, ::-1])[0] if flip else 0) for face in pixels]
        embeddings = embed_images(MeanColour(None, Io(), 1), pairs.images, where=pairs.path, flip=flip).rows
        np.testing.assert_allclose(embeddings, rows, rtol=1e-5, atol=1e-3)

    run_main(shades / "model.fake", "--valid", shades / "shades.bin")
    from sklearn.metrics import roc_auc_score

    distances = pair_distances(np.array([embed.run(face[None])[0] for face in pixels]))
    assert read(shades)["sets"]["shades"]["auc"] == pytest.approx(roc_auc_score(pairs.is_same, -distances), abs=1e-12)


def test_each_distinct_image_is_embedded_once_in_batches_of_one_size(shades):
    pairs = load_bin(shades / "shades.bin")
    embedder = MeanColour(None, Io(), 1)

    embed_images(embedder, pairs.images, where=pairs.path)

    num_distinct = len(set(pairs.images))
    assert num_distinct == 91
    sizes = [16] * (num_distinct // 16) + [num_distinct % 16] * (num_distinct % 16 > 0)
    assert embedder.shapes == [(n, 112, 112, 3) for n in (1, *sizes)]  # one to warm up


def test_an_embedder_without_raw_vectors_serves_too(shades):
    pairs = load_bin(shades / "shades.bin")
    whole = MeanColour(None, Io(), 1)

    unit = embed_images(lambda images: whole(images), pairs.images, where=pairs.path).rows

    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        pair_distances(unit), pair_distances(embed_images(whole, pairs.images, where=pairs.path).rows), atol=1e-6
    )


def test_the_gate_passes_the_same_model_and_stops_a_worse_one(shades, capsys):
    run_main(shades / "model.fake", "--valid", shades, "--far", "0.1", "--report", shades / "reference.json")
    run_main(
        shades / "model.fake",
        "--valid",
        shades,
        "--far",
        "0.1",
        "--against",
        shades / "reference.json",
        "--max-acc-drop",
        "0",
    )
    assert "no worse than" in capsys.readouterr().out

    class Blind(MeanColour):
        def run(self, pixels):
            return super().run(pixels)[:, :1] + [[0, 1e5]]

    with pytest.raises(FaceError, match=r"shades: VR@FAR=0.1 [\d.]+ % against [\d.]+ %: [\d.]+ points lost, 2 allowed"):
        run_main(
            shades / "model.fake",
            "--valid",
            shades,
            "--far",
            "0.1",
            "--against",
            shades / "reference.json",
            open_embedder=Blind,
        )


@pytest.mark.parametrize("value, words", [(0, "a zero embedding"), (np.nan, "non-finite"), (np.inf, "non-finite")])
def test_an_embedding_without_direction_names_its_image(shades, value, words):
    pairs = load_bin(shades / "shades.bin")

    class Broken(MeanColour):
        def run(self, pixels):
            output = super().run(pixels)
            output[np.abs(pixels - target).max((1, 2, 3)) == 0] = value
            return output

    target = cv2.imdecode(np.frombuffer(pairs.images[7], np.uint8), cv2.IMREAD_COLOR_RGB).astype(np.float32)
    with pytest.raises(FaceError, match=words) as error:
        embed_images(Broken(None, Io(), 1), pairs.images, where=pairs.path)
    assert "record 7 of" in str(error.value)


def test_a_third_party_model_is_fed_as_the_flags_say(shades, tmp_path):
    (tmp_path / "other.fake").write_bytes(b"x")
    seen = []

    def open_embedder(path, io, threads):
        seen.append(io)
        return MeanColour(path, replace(io, layout="nhwc"), threads)

    flags = ["--color", "bgr", "--pixels", "pm1", "--layout", "nchw", "--input", "data", "--output", "fc1"]
    run_main(tmp_path / "other.fake", "--valid", shades, *flags, "--crop", "112,112", open_embedder=open_embedder)

    assert seen == [Io("data", "fc1", layout="nchw", colour="bgr", pixels="pm1")]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--color", "bgr"], "--color bgr contradicts the sidecar"),
        (["--crop", "112,96"], "--crop .* contradicts"),
        (["--far", "0"], "rate above 0"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--max-acc-drop", "-1"], "percentage points"),
        (["--against", "nope.json"], r"No report at 'nope\.json'"),
        (["--valid", "nowhere"], "verification set at 'nowhere'"),
    ],
)
def test_a_wrong_flag_gets_one_line(shades, flags, words):
    with pytest.raises(FaceError, match=words):
        run_main(shades / "model.fake", "--valid", shades, *flags)


def test_flags_that_agree_with_the_sidecar_are_welcome(shades):
    assert run_main(shades / "model.fake", "--valid", shades, "--color", "rgb", "--crop", "112,112") == 0


def test_without_sidecar_and_flags_it_says_which_flags_are_needed(shades, tmp_path):
    (tmp_path / "other.fake").write_bytes(b"x")

    with pytest.raises(FaceError, match=r"no sidecar 'other\.fake\.json'.*--pixels raw"):
        run_main(tmp_path / "other.fake", "--valid", shades)


def test_an_artefact_changed_after_its_sidecar_is_refused(shades, tmp_path, monkeypatch):
    artefact = tmp_path / "model.fake"
    artefact.write_bytes(b"weights")
    write_sidecar(artefact, kind="fake", made_from=None, io=Io())
    artefact.write_bytes(b"other weights")
    monkeypatch.setattr("facelib.sidecar.RENAME_SECONDS", 0.1)

    with pytest.raises(FaceError, match="was changed after"):
        run_main(artefact, "--valid", shades)


@pytest.mark.parametrize("has_new_sidecar", [False, True])
def test_a_model_that_is_replaced_during_its_test_leaves_no_result(shades, tmp_path, has_new_sidecar):
    artefact = tmp_path / "model.fake"
    artefact.write_bytes(b"weights")
    write_sidecar(artefact, kind="fake", made_from=None, io=Io())
    run_main(artefact, "--valid", shades)

    class Replaced(MeanColour):
        def run(self, pixels):
            artefact.write_bytes(b"newer weights")
            if has_new_sidecar:
                write_sidecar(artefact, kind="fake", made_from=None, io=Io())
            before.update({file: file.read_bytes() for file in tmp_path.iterdir()})
            return super().run(pixels)

    before = {}
    with pytest.raises(FaceError, match=r"model.fake' was replaced while this command ran.*Run the command again"):
        run_main(artefact, "--valid", shades, "--report", tmp_path / "new.json", open_embedder=Replaced)

    assert before == {file: file.read_bytes() for file in tmp_path.iterdir()}


def test_an_output_that_is_no_embedding_is_refused(shades):
    images = load_bin(shades / "shades.bin").images

    class Strange(MeanColour):
        def run(self, pixels):
            return np.zeros((3, 4))

    with pytest.raises(FaceError, match="--output"):
        embed_images(Strange(None, Io(), 1), images, where="shades")
    with pytest.raises(FaceError, match="embedding_size=128, but the model returns 6"):
        embed_images(MeanColour(None, Io(embedding_size=128), 1), images, where="shades")


def test_help_needs_no_tensorflow():
    code = "import sys, evaluate_data\ntry: evaluate_data.main(['--help'])\nfinally: print('tensorflow' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert "--max-vr-drop" in done.stdout and done.stdout.rstrip().endswith("False")


@pytest.fixture(scope="module")
def keras_model():
    import keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input((112, 112, 3), name="input_1")
    x = keras.layers.AveragePooling2D(28)(inputs)
    x = keras.layers.Dense(8, name="embeddings")(keras.layers.Flatten()(x))
    return keras.Model(inputs, x)


def test_an_h5_is_tested_and_gives_the_vectors_of_keras_itself(shades, tmp_path, keras_model):
    path = tmp_path / "embedder.h5"
    keras_model.save(path)
    write_sidecar(path, kind="h5", made_from=None, io=Io(embedding_size=8))

    assert evaluate_data.main([str(path), "--valid", str(shades)]) == 0

    faces = np.random.default_rng(1).integers(0, 256, (70, 112, 112, 3), np.uint8)
    embedder = KerasEmbedder(path)
    expected = keras_model.predict(faces.astype("float32"), verbose=0)
    np.testing.assert_allclose(embedder.raw(faces), expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(embedder(faces), axis=1), 1, rtol=1e-5)
    assert embedder.embedding_size == 8


def test_a_live_model_is_followed_through_its_training(keras_model):
    embedder = KerasEmbedder(keras_model)
    faces = np.full((1, 112, 112, 3), 9, np.uint8)
    before, dense = embedder.raw(faces), keras_model.get_layer("embeddings")

    dense.bias.assign_add(np.ones(8))

    np.testing.assert_allclose(embedder.raw(faces), before + 1, atol=1e-3)


def test_a_file_that_is_no_keras_model_and_one_with_code_inside_get_one_line(tmp_path):
    import keras

    broken, hostile = tmp_path / "broken.h5", tmp_path / "hostile.h5"
    broken.write_bytes(b"\x89HDF\r\n\x1a\n and nothing more")
    inputs = keras.Input((112, 112, 3))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x, name="any_code")(inputs)).save(hostile)

    for path, match in ((broken, "is not a Keras model"), (hostile, "Lambda 'any_code'")):
        with pytest.raises(FaceError, match=match):
            load_model(path)


def test_a_model_with_its_training_head_is_refused():
    import keras

    inputs = [keras.Input((112, 112, 3)), keras.Input((), dtype="int32")]
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs[0]))

    with pytest.raises(FaceError, match="one input and one output"):
        KerasEmbedder(model)


def test_what_a_training_should_say_of_its_sets_is_said_before_it_begins(shades, tmp_path, capsys):
    images = load_bin(shades / "shades.bin").images
    for k in range(40):
        photo = tmp_path / f"p{k // 2}" / "frontal" / f"{k}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.write_bytes(images[k])

    evaluate_data.check_sets(find_sets(tmp_path))

    assert re.match("note: .*each folder", capsys.readouterr().out)


def test_pairs_may_come_from_memory(shades):
    pairs = load_bin(shades / "shades.bin")

    rows = embed_images(MeanColour(None, Io(), 1), pairs.images[:4], where="few").rows

    assert rows.shape == (4, 6)


@pytest.mark.slow
@pytest.mark.needs_data(PRETRAINED)
@pytest.mark.parametrize("flip, acc, acc_std, vr", [(False, 0.9938, 0.0029, 0.9873), (True, 0.9940, 0.0028, 0.9883)])
def test_the_pretrained_model_scores_on_lfw_what_its_notes_say(flip, acc, acc_std, vr):
    io = Io(layout="nchw", pixels="imagenet", embedding_size=128)
    embedder = OnnxEmbedder(PRETRAINED, io, threads=2)
    lfw = find_sets(PRETRAINED.parents[1] / "faces_mix" / "lfw.bin")

    result = evaluate_data.evaluate_sets(embedder, lfw, protocol="insightface", flip=flip, progress=False).results[0]

    assert (result.accuracy.mean, result.accuracy.std) == pytest.approx((acc, acc_std), abs=6e-5)
    assert result.vr_all_pairs[0].tar == pytest.approx(vr, abs=5e-5)
    assert flip or result.auc == pytest.approx(0.99909, abs=5e-6)
