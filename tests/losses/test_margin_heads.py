"""Every margin head against a NumPy float64 formula written from its paper, gradients against finite differences."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from face_loss_k import make_head
from facelib.losses.registry import LOSSES

NUM_CLASSES, SIZE, BATCH, SCALE = 6, 4, 8, 8.0
HEADS = [name for name, spec in LOSSES.items() if spec.kind == "margin"]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def case(seed=0, spread=1.2):
    """Embeddings near their centres and far from them, with norms about 25; nobody at a kink of a formula."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(NUM_CLASSES, SIZE))
    labels = rng.integers(0, NUM_CLASSES, BATCH)
    x = unit(unit(centres[labels]) + spread * rng.normal(size=(BATCH, SIZE))) * rng.uniform(12, 40, (BATCH, 1))
    return x, centres, labels


def far_case():
    """What `case` has not: faces past pi - margin, norms beyond the bounds of MagFace and AdaFace, a small median."""
    rng = np.random.default_rng(3)
    centres = np.eye(NUM_CLASSES, SIZE + 3)
    labels = np.arange(BATCH) % NUM_CLASSES
    theta = np.radians([170, 165, 20, 30, 25, 40, 15, 175])
    sideways = rng.normal(size=(BATCH, SIZE + 3))
    sideways[np.arange(BATCH), labels] = 0
    x = np.cos(theta)[:, None] * centres[labels] + np.sin(theta)[:, None] * unit(sideways)
    return x * np.array([5, 150, 30, 400, 12, 60, 7, 110.5])[:, None], centres, labels


def cos_continued(theta):
    """cos, continued past every multiple k of pi as (-1)^k cos - 2k (SphereFace, eq. 7)."""
    k = np.floor(theta / math.pi)
    return (-1.0) ** k * np.cos(theta) - 2 * k


def cos_then_linear(theta, margin):
    """cos(theta + m), past pi the original code's cos(theta) - m sin(m)."""
    return np.where(theta + margin < math.pi, np.cos(theta + margin), np.cos(theta) - margin * np.sin(margin))


def logits_of(name, x, centres, labels, constant):
    """Logits [B, C] and what is added to the loss, by the paper of `name`."""
    rows, cos = np.arange(len(labels)), unit(x) @ unit(centres).T
    target_cos = cos[rows, labels]
    theta, out, extra, scale = np.arccos(target_cos), cos.copy(), 0.0, SCALE
    if name in ("softmax", "margin_softmax"):
        logits = x @ centres.T
        if name == "softmax":
            return logits, 0.0
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[rows, labels] = (p[rows, labels] ** 2 + 0.4 * p[rows, labels]) / 2  # Keras_insightface, margin_softmax
        return np.log(p), 0.0
    if name == "arcface":  # ArcFace, eq. 3
        out[rows, labels] = cos_continued(theta + 0.5)
    elif name == "cosface":  # CosFace, eq. 4
        out[rows, labels] = target_cos - 0.35
    elif name == "combined":  # ArcFace, eq. 4
        out[rows, labels] = cos_continued(1.2 * theta + 0.3) - 0.2
    elif name == "airface":  # AirFace, eq. 4
        out = (math.pi - 2 * np.arccos(cos)) / math.pi
        out[rows, labels] = (math.pi - 2 * (theta + 0.4)) / math.pi
    elif name == "curricularface":  # CurricularFace, eq. 8 to 10; t is a running mean from 0
        target = cos_then_linear(theta, 0.5)
        out = np.where(cos > target[:, None], cos * (constant["t"] + cos), cos)
        out[rows, labels] = target
    elif name == "magface":  # MagFace, eq. 3 and its m and g
        a = np.clip(np.linalg.norm(x, axis=1), 10, 110)
        out[rows, labels] = cos_then_linear(theta, 0.45 + (0.8 - 0.45) * (a - 10) / (110 - 10))
        extra = 35.0 * np.mean(a / 110**2 + 1 / a)
    elif name == "adaface":  # AdaFace, eq. 13 to 15
        z = np.clip(
            (constant["norms"].clip(1e-3, 100) - constant["mean"]) / (constant["deviation"] + 1e-3) * 0.333, -1, 1
        )
        out[rows, labels] = np.cos(np.clip(theta - 0.4 * z, 1e-3, math.pi - 1e-3)) - (0.4 * z + 0.4)
    elif name == "adacos":  # AdaCos, eq. 15
        scale = constant["scale"]
    return scale * out, extra


def constants(name, x, centres, labels):
    """Running statistics after one step from their start, and norms, which some heads take no gradient through."""
    cos, rows = unit(x) @ unit(centres).T, np.arange(len(labels))
    target_cos, norms = cos[rows, labels], np.linalg.norm(x, axis=1)
    bounded = norms.clip(1e-3, 100)  # as AdaFace's code bounds them
    first = math.sqrt(2) * math.log(NUM_CLASSES - 1)
    others = np.exp(first * cos)
    others[rows, labels] = 0
    return {
        "norms": norms,
        "t": 0.01 * target_cos.mean(),
        "mean": 0.99 * 20 + 0.01 * bounded.mean(),
        "deviation": 0.99 * 100 + 0.01 * bounded.std(ddof=1),
        "scale": np.log(others.sum(1).mean()) / math.cos(min(math.pi / 4, np.median(np.arccos(target_cos)))),
    }


def loss_of(name, x, centres, labels, constant, smoothing=0.0):
    logits, extra = logits_of(name, x, centres, labels, constant)
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    target = (1 - smoothing) * np.eye(NUM_CLASSES)[labels] + smoothing / NUM_CLASSES
    return -np.mean((target * log_p).sum(1)) + extra


def head_for(name, centres, **options):
    changed = {"combined": {"margin1": 1.2}}.get(name, {})
    scale = {"scale": SCALE} if "scale" in LOSSES[name].options else {}
    head = make_head(name, len(centres) // options.get("sub_centres", 1), {**scale, **changed, **options})
    head.build((None, centres.shape[1]), (None,))
    head.centres.assign(centres)
    return head


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", HEADS)
def test_loss_and_gradients_are_the_papers(name, smoothing):
    x, centres, labels = case()
    constant = constants(name, x, centres, labels)
    head, faces = head_for(name, centres), tf.Variable(x.astype("float32"))

    with tf.GradientTape() as tape:
        loss, accuracy = head.loss_and_accuracy(faces, tf.constant(labels, tf.int32), 1.0, smoothing)
    by_face, by_centre = tape.gradient(loss, [faces, head.centres.value])

    assert float(loss) == pytest.approx(loss_of(name, x, centres, labels, constant, smoothing), rel=2e-5)
    plain = x @ centres.T if name in ("softmax", "margin_softmax") else unit(x) @ unit(centres).T
    assert float(accuracy) == pytest.approx(np.mean(plain.argmax(1) == labels))

    def slopes(which):
        found, h = np.zeros_like(which), 1e-6
        for index in np.ndindex(*which.shape):
            values = []
            for sign in (1, -1):
                arrays = [x.copy(), centres.copy()]
                arrays[0 if which is x else 1][index] += sign * h
                values.append(loss_of(name, *arrays, labels, constant, smoothing))
            found[index] = (values[0] - values[1]) / (2 * h)
        return found

    for ours, expected in ((by_face, slopes(x)), (by_centre, slopes(centres))):
        np.testing.assert_allclose(ours, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", HEADS)
def test_far_faces_and_extreme_norms_are_the_papers_too(name):
    x, centres, labels = far_case()
    constant = constants(name, x, centres, labels)
    if name in ("softmax", "margin_softmax"):
        x = x / 100  # unscaled products: a probability must not round to 0
    head = head_for(name, centres)

    loss, _ = head.loss_and_accuracy(x.astype("float32"), tf.constant(labels, tf.int32))

    assert float(loss) == pytest.approx(loss_of(name, x, centres, labels, constant), rel=1e-4)
    if name == "adaface":
        z = (constant["norms"].clip(1e-3, 100) - constant["mean"]) / (constant["deviation"] + 1e-3) * 0.333
        assert np.ptp(z) > 0.2


@pytest.mark.parametrize("num_classes", [2, 3])
def test_adacos_of_few_classes_keeps_a_positive_scale(num_classes):
    head = head_for("adacos", np.eye(num_classes))
    for _ in range(5):
        head.loss_and_accuracy(np.eye(num_classes, dtype="float32"), tf.range(num_classes))
        assert float(head.scale_now.numpy()) >= 1.0


def test_the_margin_of_margin_softmax_is_in_margin_logits():
    x, centres, labels = case()
    head = head_for("margin_softmax", centres)
    products = (x @ centres.T).astype("float32")

    found = head.margin_logits(products, labels, None)

    np.testing.assert_allclose(found, head(x.astype("float32"), labels)[0], rtol=1e-4, atol=1e-4)
    assert np.abs(found - products).max() > 0.1


@pytest.mark.parametrize("name", [name for name in HEADS if name not in ("softmax", "adacos", "magface", "airface")])
def test_at_margin_share_0_there_is_no_margin(name):
    x, centres, labels = case()
    if name == "curricularface":  # with all margins 0 and t = 0, its hard classes still count as cos^2
        x, centres, labels = case(spread=0.1)
    head = head_for(name, centres)

    logits, _ = head(x.astype("float32"), labels, margin_share=0.0)

    if name == "margin_softmax":
        raw = x @ centres.T
        expected = raw - np.log(np.exp(raw).sum(1, keepdims=True))
    else:
        expected = SCALE * unit(x) @ unit(centres).T
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("name", HEADS)
def test_value_and_gradient_are_finite_at_the_poles_and_for_a_zero_embedding(name):
    centres = np.eye(3, 4)
    head = head_for(name, centres)
    faces = tf.Variable([[9.0, 0, 0, 0], [0, -9.0, 0, 0], [0, 0, 0, 0]])
    with tf.GradientTape() as tape:
        loss, _ = head.loss_and_accuracy(faces, tf.constant([0, 1, 2]))
    gradients = tape.gradient(loss, [faces, head.centres.value])

    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("name", ["arcface", "combined", "cosface", "airface"])
def test_the_target_logit_falls_all_the_way_from_0_to_pi(name):
    theta = np.linspace(1e-3, math.pi - 2e-3, 2001)
    faces = np.stack([np.cos(theta), np.sin(theta)], axis=1).astype("float32")
    head = head_for(name, np.eye(2), **({"margin1": 3.0} if name == "combined" else {}))

    logits, _ = head(faces, np.zeros(len(theta), int))

    assert np.all(np.diff(logits[:, 0]) < 0)


# --------------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize("name, weight", [("curricularface", "t"), ("adaface", "mean"), ("adaface", "deviation"),
                                          ("adacos", "scale")])  # fmt: skip
def test_running_statistics_change_in_training_only_and_no_gradient_reaches_them(name, weight):
    x, centres, labels = case()
    head = head_for(name, centres)
    state = {v.name: v for v in head.non_trainable_variables}
    before = float(state[weight].numpy())

    head(x.astype("float32"), labels)
    untouched = float(state[weight].numpy())
    head.loss_and_accuracy(x.astype("float32"), tf.constant(labels, tf.int32))

    assert untouched == before
    expected = constants(name, x, centres, labels)[weight]
    assert float(state[weight].numpy()) == pytest.approx(expected, rel=1e-4)
    assert [v.name for v in head.trainable_variables] == ["centres"]


def test_a_fixed_adacos_keeps_its_scale():
    x, centres, labels = case()
    head = head_for("adacos", centres, is_dynamic=False)
    head.loss_and_accuracy(x.astype("float32"), tf.constant(labels, tf.int32))

    logits, cosines = head(x.astype("float32"), labels)

    np.testing.assert_allclose(logits, math.sqrt(2) * math.log(NUM_CLASSES - 1) * cosines, rtol=1e-5)


# ------------------------------------------------------------------------------- sub-centres and filtering


def test_the_nearest_of_several_sub_centres_counts():
    x, centres, labels = case()
    head = head_for(
        "cosface", np.concatenate([centres, centres[::-1]])[[0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]], sub_centres=2
    )

    _, cosines = head(x.astype("float32"), labels)

    cos = unit(x) @ unit(centres).T
    expected = np.maximum(cos, cos[:, ::-1])  # class c has centres c and 5 - c
    np.testing.assert_allclose(cosines, expected, atol=1e-6)


def test_a_class_that_is_probably_the_same_person_counts_as_cosine_0():
    x, centres, labels = case()
    head = head_for("arcface", centres, interclass_filtering=0.3)

    logits, cosines = head(x.astype("float32"), labels)

    rows, cos = np.arange(BATCH), unit(x) @ unit(centres).T
    expected = np.where(cos > 0.3, 0.0, cos)
    expected[rows, labels] = cos_continued(np.arccos(cos[rows, labels]) + 0.5)
    np.testing.assert_allclose(logits, SCALE * expected, atol=1e-4)
    np.testing.assert_allclose(cosines, cos, atol=1e-6)
    assert ((cos > 0.3).sum(1) > 1).any()


# ------------------------------------------------------------------------------------------- as Keras layers


@pytest.mark.parametrize("name", HEADS)
def test_a_saved_head_is_the_same_head(tmp_path, name):
    x, centres, labels = case()
    inputs = [keras.Input((SIZE,), name="embedding"), keras.Input((), dtype="int32", name="label")]
    head = make_head(name, NUM_CLASSES, {}, warmup_scale=None if name.endswith("softmax") else 16.0)
    model = keras.Model(inputs, head(*inputs))
    head.centres.assign(centres)
    head.loss_and_accuracy(x.astype("float32"), tf.constant(labels, tf.int32))
    given = [x.astype("float32"), labels.astype("int32")]
    model.save(tmp_path / "model.h5")

    again = keras.models.load_model(tmp_path / "model.h5")

    assert again.get_layer("head").get_config() == head.get_config()
    np.testing.assert_array_equal(again(given)[0], model(given)[0])


@pytest.mark.parametrize("name", HEADS)
def test_a_mixed_policy_changes_nothing(name):
    x, centres, labels = case()
    expected, _ = head_for(name, centres)(x.astype("float32"), labels)
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        logits, _ = head_for(name, centres)(x.astype("float32"), labels)
    finally:
        keras.mixed_precision.set_dtype_policy(before)

    assert logits.dtype == tf.float32
    np.testing.assert_array_equal(logits, expected)


def test_a_head_goes_on_from_the_centres_of_another():
    first, second = head_for("softmax", case()[1]), make_head("arcface", NUM_CLASSES, {})

    second.build_on(first)
    second.centres.assign_add(np.ones((NUM_CLASSES, SIZE)))

    np.testing.assert_array_equal(first.centres.numpy(), second.centres.numpy())
    assert [v.name for v in second.trainable_variables] == ["centres"]


@pytest.mark.parametrize("loss", ["arcface", "curricularface", "softmax"])
def test_equal_logits_for_all_classes_are_never_right(loss):
    head = make_head(loss, 4)
    head.build((None, 3))
    _, accuracy = head.loss_and_accuracy(np.zeros((5, 3), "float32"), tf.constant([0, 0, 1, 2, 3]))
    assert float(accuracy) == 0
