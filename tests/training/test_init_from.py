"""Beginning with older weights: what is copied, what is new, and what is refused."""

import keras
import numpy as np
import pytest

from face_loss_k import make_head
from facelib.errors import FaceError
from facelib.models.layers import PixelScale
from facelib.runtimes.keras_h5 import load_head_centres, save_h5
from facelib.training.init_from import apply_init, class_map, write_classes
from tests.helpers.slow import slow_unless_quick

OLD, NEW = ["ann", "bob", "cid", "dan"], ["eve", "cid", "ann"]


def net(size=3, width=5):
    faces = keras.Input((4, 4, 3), name="input_1")
    x = keras.layers.Flatten(name="flat")(keras.layers.Conv2D(width, 3, name="stem_conv")(faces))
    x = keras.layers.Dense(size, name="embedding_conv")(x)
    return keras.Model(faces, keras.layers.Activation("linear", name="embeddings")(x), name="tiny")


def head_for(names, size=3, loss="arcface", **options):
    head = make_head(loss, len(names), options)
    head.build((None, size), (None,))
    return head


@pytest.fixture
def run(tmp_path):
    """A run directory with embedder.h5, epoch-001.h5 and classes.json; its model and its head."""
    model, head = net(), head_for(OLD)
    labels = keras.Input((), dtype="int32", name="labels")
    save_h5(model, tmp_path / "embedder.h5")
    save_h5(keras.Model([model.input, labels], head(model.output, labels)[0]), tmp_path / "epoch-001.h5")
    write_classes(tmp_path, OLD)
    return tmp_path, model, head


def kernels(model):
    return [np.array(w.numpy()) for w in model.weights]


def test_names_are_matched():
    assert class_map(OLD, NEW).tolist() == [-1, 2, 0]
    assert class_map([], ["a"]).tolist() == [-1]


def test_a_whole_model_gives_its_centres_to_the_identities_it_knows(run):
    path, old, old_head = run
    new, head = net(), head_for(NEW)
    fresh = np.array(head.centres.numpy())

    said = apply_init(new, head, path / "epoch-001.h5", NEW)

    for mine, theirs in zip(kernels(new), kernels(old), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    centres, known = head.centres.numpy(), old_head.centres.numpy()
    np.testing.assert_array_equal(centres, [fresh[0], known[2], known[0]])
    assert "class centres of 2 of 3 identities, the others re-initialised" in said


def test_a_backbone_alone_leaves_the_centres_new(run):
    path, old, _ = run
    new, head = net(), head_for(NEW)
    fresh = np.array(head.centres.numpy())

    said = apply_init(new, head, path / "embedder.h5", NEW)

    np.testing.assert_array_equal(kernels(new)[0], kernels(old)[0])
    np.testing.assert_array_equal(head.centres.numpy(), fresh)
    assert said.endswith("class centres re-initialised")


@pytest.mark.slow
def test_sub_centres_move_together(tmp_path):
    model, head = net(), head_for(OLD, sub_centres=2)
    labels = keras.Input((), dtype="int32", name="labels")
    save_h5(keras.Model([model.input, labels], head(model.output, labels)[0]), tmp_path / "epoch-001.h5")
    write_classes(tmp_path, OLD)
    mine, other = head_for(NEW, sub_centres=2), head_for(NEW)
    fresh = np.array(other.centres.numpy())

    apply_init(net(), mine, tmp_path / "epoch-001.h5", NEW)
    said = apply_init(net(), other, tmp_path / "epoch-001.h5", NEW)

    np.testing.assert_array_equal(mine.centres.numpy()[2:4], head.centres.numpy()[4:6])
    np.testing.assert_array_equal(other.centres.numpy(), fresh)
    assert "class centres re-initialised: the file has 8 centres for 4 identities" in said


@pytest.mark.parametrize(
    "loss",
    slow_unless_quick(
        ["softmax", "margin_softmax", "curricularface", "magface", "adaface", "adacos"], ["softmax", "adaface"]
    ),
)
def test_a_file_with_any_head_is_read(tmp_path, loss):
    model, head = net(), head_for(OLD, loss=loss)
    labels = keras.Input((), dtype="int32", name="labels")
    save_h5(keras.Model([model.input, labels], head(model.output, labels)[0]), tmp_path / "epoch-001.h5")
    write_classes(tmp_path, OLD)
    mine = head_for(NEW)

    apply_init(net(), mine, tmp_path / "epoch-001.h5", NEW)

    np.testing.assert_array_equal(mine.centres.numpy()[2], head.centres.numpy()[0])


def test_without_classes_json_the_centres_are_re_initialised_and_a_line_says_so(run):
    path, _, _ = run
    (path / "classes.json").unlink()

    assert "there is no classes.json beside the model with the names of their identities" in apply_init(
        net(), head_for(NEW), path / "epoch-001.h5", NEW
    )


def test_another_embedding_size_keeps_the_backbone(run):
    path, old, _ = run
    new = net(size=6)
    fresh = kernels(new)[2]

    said = apply_init(new, head_for(NEW, size=6), path / "epoch-001.h5", NEW)

    np.testing.assert_array_equal(kernels(new)[0], kernels(old)[0])
    np.testing.assert_array_equal(kernels(new)[2], fresh)
    assert "re-initialised: embedding_conv (embedding size 3 -> 6); class centres re-initialised" in said


@pytest.mark.parametrize("options", [{"width": 7}, {"width": 7, "size": 6}])
def test_another_structure_is_refused_and_nothing_is_changed(run, options):
    path, _, _ = run
    new = net(**options)
    before = kernels(new)

    with pytest.raises(FaceError, match="has no layer 'stem_conv' with the shape in tiny"):
        apply_init(new, None, path / "embedder.h5", NEW)

    for mine, value in zip(kernels(new), before, strict=True):
        np.testing.assert_array_equal(mine, value)


def test_other_identities_are_said_to_be_others(run):
    path, _, _ = run
    assert "class centres re-initialised: no identity is in both data sets" in apply_init(
        net(), head_for(["x", "y"]), path / "epoch-001.h5", ["x", "y"]
    )


def test_a_layer_too_many_in_the_old_model_is_refused(tmp_path):
    faces = keras.Input((4, 4, 3), name="input_1")
    x = keras.layers.PReLU(name="stem_act")(keras.layers.Conv2D(5, 3, name="stem_conv")(faces))
    x = keras.layers.Dense(3, name="embedding_conv")(keras.layers.Flatten(name="flat")(x))
    save_h5(keras.Model(faces, keras.layers.Activation("linear", name="embeddings")(x)), tmp_path / "x.h5")

    with pytest.raises(FaceError, match="tiny has no layer that matches 'stem_act'"):
        apply_init(net(), None, tmp_path / "x.h5", NEW)


@pytest.mark.parametrize("text", slow_unless_quick(["{}", '{"class_names": 3}', "nonsense"], ["{}"]))
def test_a_damaged_list_of_classes_is_one_line_and_nothing_is_changed(run, text):
    path, _, _ = run
    (path / "classes.json").write_text(text)
    new = net()
    before = kernels(new)

    with pytest.raises(FaceError, match=r"classes.json"):
        apply_init(new, head_for(NEW), path / "epoch-001.h5", NEW)

    for mine, value in zip(kernels(new), before, strict=True):
        np.testing.assert_array_equal(mine, value)


def test_a_file_without_centres_is_told_from_one_that_cannot_be_read(run, tmp_path):
    import h5py

    path, _, _ = run
    (tmp_path / "bad.h5").write_bytes(b"no model" * 100)
    h5py.File(tmp_path / "other.h5", "w").close()

    assert load_head_centres(path / "embedder.h5") is None
    for name in ("bad.h5", "other.h5"):
        with pytest.raises(FaceError, match="is not a Keras model"):
            load_head_centres(tmp_path / name)


def test_a_damaged_file_is_one_line(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"no model" * 100)
    with pytest.raises(FaceError, match="is not a Keras model"):
        apply_init(net(), None, tmp_path / "x.h5", NEW)


def scaled(mean, std):
    """The tiny net with a first layer that scales pixels."""
    faces = keras.Input((4, 4, 3), name="input_1")
    x = keras.layers.Conv2D(5, 3, name="stem_conv")(PixelScale(mean, std, name="pixel_scale")(faces))
    x = keras.layers.Dense(3, name="embedding_conv")(keras.layers.Flatten(name="flat")(x))
    return keras.Model(faces, x, name="tiny")


@pytest.mark.parametrize(
    "mean, std, is_same",
    [
        (127.5, 128.0, True),
        ([127.5] * 3, [128.0] * 3, True),
        (127.5, 127.5, False),
        ([124, 116, 104], [58, 57, 57], False),
    ],
)
def test_weights_of_another_pixel_scaling_are_refused_and_nothing_is_changed(tmp_path, mean, std, is_same):
    save_h5(scaled(mean, std), tmp_path / "embedder.h5")
    new = scaled(127.5, 128.0)
    before = kernels(new)

    if is_same:
        apply_init(new, None, tmp_path / "embedder.h5", NEW)
        return
    with pytest.raises(FaceError, match=r"pixel scaling.*'.*embedder\.h5' has.*tiny has") as caught:
        apply_init(new, None, tmp_path / "embedder.h5", NEW)

    assert "\n" not in str(caught.value)
    for mine, theirs in zip(kernels(new), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)
