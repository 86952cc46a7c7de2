"""ArcFace against NumPy float64, geometry, and finite differences of the paper's equation 3."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from facelib.losses.fixed_margins import ArcFace, cos_plus_margin

POLICIES = ("mirror", "linear", "none")


def reference_margin(cos, margin, past_pi):
    """cos(theta + margin) by the angle itself, float64; what follows past pi as definitions of the policies say."""
    theta = np.arccos(np.clip(cos, -1.0, 1.0))
    with_margin = np.cos(theta + margin)
    if past_pi == "none":
        return with_margin
    beyond = -2.0 - with_margin if past_pi == "mirror" else np.cos(theta) - margin * np.sin(margin)
    return np.where(theta + margin < np.pi, with_margin, beyond)


def reference_logits(embeddings, centres, labels, margin, scale, past_pi):
    """Equation 3 of ArcFace before the softmax, float64."""
    x = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    w = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    cos = x @ w.T
    logits = cos.copy()
    for row, label in enumerate(labels):
        logits[row, label] = reference_margin(cos[row, label], margin, past_pi)
    return scale * logits


def reference_loss(*args):
    logits, labels = reference_logits(*args), args[2]
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels])


def made_head(centres, **options):
    head = ArcFace(len(centres), **options)
    head.build((None, centres.shape[1]), (None,))
    head.centres.assign(centres)
    return head


def head_at(theta, **options):
    """A head of two classes with centres along x and y, and one face at `theta` to the x axis."""
    face = np.array([[math.cos(theta), math.sin(theta)]], "float32")
    return made_head(np.eye(2), **options), face


def wide_case():
    """Embeddings at every angle to their centre, some beyond pi - margin."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(7, 5))
    labels = rng.integers(0, 7, 24)
    shares = np.linspace(-1, 1, 24)[:, None]
    embeddings = 3 * (shares * centres[labels] + 0.3 * rng.normal(size=(24, 5)))
    return embeddings, centres, labels


@pytest.mark.parametrize("past_pi", POLICIES)
@pytest.mark.parametrize("margin, scale", [(0.5, 64.0), (0.0, 1.0), (0.3, 32.0), (1.2, 16.0)])
def test_the_logits_are_equation_3(past_pi, margin, scale):
    embeddings, centres, labels = wide_case()
    head = made_head(centres, margin=margin, scale=scale, past_pi=past_pi)

    logits, cosines = head(embeddings.astype("float32"), labels)

    expected = reference_logits(embeddings, centres, labels, margin, scale, past_pi)
    np.testing.assert_allclose(logits, expected, atol=2e-6 * scale)
    np.testing.assert_allclose(cosines, reference_logits(embeddings, centres, labels, 0.0, 1.0, "none"), atol=1e-6)
    assert logits.dtype == cosines.dtype == tf.float32


def test_the_target_angle_grows_by_exactly_the_margin():
    theta, margin = 0.7, 0.5
    head, face = head_at(theta, margin=margin, scale=64.0)

    logits, _ = head(face, np.array([0]))

    np.testing.assert_allclose(logits, [[64 * math.cos(theta + margin), 64 * math.sin(theta)]], rtol=1e-5)


def test_the_margin_share_is_a_share_of_the_margin_and_of_the_way_to_the_scale():
    head, face = head_at(0.7, margin=0.5, scale=64.0, warmup_scale=16.0)

    for margin_share in (0.0, 0.4, tf.constant(0.4), 1.0):
        logits, _ = head(face, np.array([0]), margin_share=margin_share)
        scale = 16.0 + 48.0 * float(margin_share)
        assert logits[0, 0].numpy() == pytest.approx(scale * math.cos(0.7 + 0.5 * float(margin_share)), rel=1e-5)


# ------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("past_pi", POLICIES)
@pytest.mark.parametrize("theta", [0.2, 1.0, 2.0, 2.5, 2.8, 3.0])
def test_the_gradient_has_the_factor_of_the_sine_with_margin(past_pi, theta):
    margin = 0.5
    cos = tf.constant(math.cos(theta), tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(cos)
        with_margin = cos_plus_margin(cos, margin, past_pi)

    # d cos(theta + m) / d cos(theta) = sin(theta + m) / sin(theta)
    ratio = math.sin(theta + margin) / math.sin(theta)
    is_beyond = theta + margin > math.pi
    expected = {"none": ratio, "mirror": -ratio if is_beyond else ratio, "linear": 1.0 if is_beyond else ratio}
    assert tape.gradient(with_margin, cos).numpy() == pytest.approx(expected[past_pi], rel=1e-5)


@pytest.mark.parametrize("past_pi", POLICIES)
def test_the_loss_has_the_gradient_of_finite_differences(past_pi):
    embeddings, centres, labels = wide_case()
    head = made_head(centres, margin=0.4, scale=8.0, past_pi=past_pi)
    faces = tf.Variable(embeddings.astype("float32"))
    with tf.GradientTape() as tape:
        loss, _ = head.loss_and_accuracy(faces, tf.constant(labels, tf.int32))
    by_face, by_centre = tape.gradient(loss, [faces, head.trainable_variables[0].value])

    def slope(which, i, j, h=1e-6):
        values = []
        for sign in (1, -1):
            arrays = {"face": embeddings.copy(), "centre": centres.copy()}
            arrays[which][i, j] += sign * h
            values.append(reference_loss(arrays["face"], arrays["centre"], labels, 0.4, 8.0, past_pi))
        return (values[0] - values[1]) / (2 * h)

    assert float(loss) == pytest.approx(reference_loss(embeddings, centres, labels, 0.4, 8.0, past_pi), rel=1e-5)
    expected = [[slope("face", i, j) for j in range(5)] for i in range(24)]
    np.testing.assert_allclose(by_face, expected, atol=2e-5 * np.abs(expected).max())
    expected = [[slope("centre", i, j) for j in range(5)] for i in range(7)]
    np.testing.assert_allclose(by_centre, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("past_pi", POLICIES)
@pytest.mark.parametrize("margin", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("sign", [1, -1])
def test_value_and_gradient_are_finite_at_the_poles(past_pi, margin, sign):
    centres = np.array([[1, 0, 0], [0, 1, 0]], "float32")
    head = made_head(centres, margin=margin, past_pi=past_pi)
    faces = tf.Variable([[sign * 2.0, 0.0, 0.0], [0.0, sign * 0.5, 0.0]])
    with tf.GradientTape() as tape:
        loss, _ = head.loss_and_accuracy(faces, tf.constant([0, 1]))
    gradients = tape.gradient(loss, [faces, head.centres.value])

    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in gradients)


def test_a_zero_embedding_has_a_finite_loss_and_gradient():
    head = made_head(np.eye(3), margin=0.5)
    faces = tf.Variable(tf.zeros([2, 3]))
    with tf.GradientTape() as tape:
        loss, _ = head.loss_and_accuracy(faces, tf.constant([0, 2]))

    assert np.isfinite(loss)
    assert np.isfinite(tape.gradient(loss, faces)).all()


# --------------------------------------------------------------------------------------------- past theta + m = pi


@pytest.mark.parametrize("past_pi", ["mirror", "linear"])
@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 1.0, 1.5])
def test_the_target_falls_all_the_way_to_pi(past_pi, margin):
    theta = np.linspace(0.0, math.pi, 200_001)

    with_margin = cos_plus_margin(tf.constant(np.cos(theta)), margin, past_pi).numpy()

    assert np.all(np.diff(with_margin) < 0)


def test_without_a_policy_the_target_rises_again():
    with_margin = cos_plus_margin(tf.constant([math.cos(math.pi - 0.5), -1.0], tf.float64), 0.5, "none").numpy()

    assert with_margin[1] > with_margin[0] + 0.1


@pytest.mark.parametrize("past_pi, jump", [("mirror", 0.0), ("linear", -0.117), ("none", 0.0)])
def test_where_the_policy_sets_in_the_target_jumps_as_documented(past_pi, jump):
    theta = math.pi - 0.5 + np.array([-1e-6, 1e-6])

    before, after = cos_plus_margin(tf.constant(np.cos(theta)), 0.5, past_pi).numpy()

    assert after - before == pytest.approx(jump, abs=5e-4)


# ------------------------------------------------------------------------------------------- precision and graph


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_logits_are_float32_under_a_mixed_policy(policy):
    embeddings, centres, labels = wide_case()
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(policy)
    try:
        head = made_head(centres)
        logits, cosines = head(embeddings.astype("float32"), labels)
    finally:
        keras.mixed_precision.set_dtype_policy(before)

    assert (logits.dtype, cosines.dtype, head.centres.dtype) == (tf.float32, tf.float32, "float32")
    np.testing.assert_allclose(logits, reference_logits(embeddings, centres, labels, 0.5, 64.0, "mirror"), atol=2e-4)


def test_float16_embeddings_are_taken_to_float32_first():
    head, _ = head_at(0.0)
    face = np.array([[math.cos(1e-2), math.sin(1e-2)]], "float16")

    logits, _ = head(face, np.array([1]))

    expected = 64 * float(face[0, 0]) / math.hypot(*face[0].astype(float))
    assert logits[0, 0].numpy() == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_the_training_graph_makes_no_one_hot_matrix():
    head = made_head(np.random.default_rng(0).normal(size=(1000, 8)))

    @tf.function(input_signature=[tf.TensorSpec([None, 8]), tf.TensorSpec([None], tf.int32)])
    def step(faces, labels):
        with tf.GradientTape() as tape:
            tape.watch(faces)
            loss, accuracy = head.loss_and_accuracy(faces, labels)
        return loss, accuracy, tape.gradient(loss, [faces, head.centres.value])

    graph = step.get_concrete_function().graph
    kinds = {op.type for op in graph.get_operations()}
    assert "Softmax" in kinds
    assert "OneHot" not in kinds
    assert not any("one_hot" in op.name.lower() for op in graph.get_operations())


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_labels_of_either_integer_type_are_taken(dtype):
    embeddings, centres, labels = wide_case()
    head = made_head(centres)

    loss, _ = head.loss_and_accuracy(embeddings.astype("float32"), tf.constant(labels, dtype))

    assert float(loss) == pytest.approx(
        reference_loss(embeddings, centres, labels, 0.5, 64.0, "mirror"), rel=1e-5
    )  # fmt: skip


def test_the_accuracy_is_without_the_margin():
    head, face = head_at(0.6, margin=0.5, scale=64.0)  # nearer to x; with the margin, nearer to y: 1.1 > pi / 4

    logits, _ = head(face, np.array([0]))
    _, accuracy = head.loss_and_accuracy(face, tf.constant([0]))
    _, wrong = head.loss_and_accuracy(face, tf.constant([1]))

    assert np.argmax(logits) == 1
    assert (float(accuracy), float(wrong)) == (1.0, 0.0)


# ------------------------------------------------------------------------------------------------ as a Keras layer


def test_a_saved_head_is_the_same_head(tmp_path):
    embeddings, centres, labels = wide_case()
    inputs = [keras.Input((5,), name="embedding"), keras.Input((), dtype="int32", name="label")]
    head = ArcFace(7, margin=0.3, scale=24.0, past_pi="linear", name="head")
    model = keras.Model(inputs, head(*inputs))
    head.centres.assign(centres)
    given = [embeddings.astype("float32"), labels.astype("int32")]
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        again = keras.models.load_model(tmp_path / name)

        assert again.get_layer("head").get_config() == head.get_config()
        np.testing.assert_array_equal(again(given)[0], model(given)[0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_classes": 1}, r"num_classes is at least 2\. Received: num_classes=1"),
        ({"margin": 45}, r"margin is an angle in radians, in \[0, pi/2\)\. Received: margin=45"),
        ({"margin": -0.1}, "Received: margin=-0.1"),
        ({"margin": math.nan}, "Received: margin=nan"),
        ({"scale": 0}, "scale is a positive number. Received: scale=0"),
        ({"scale": math.nan}, "Received: scale=nan"),
        ({"past_pi": "wrap"}, "past_pi is one of mirror, linear, none. Received: past_pi='wrap'"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ArcFace(**{"num_classes": 10, **options})


def test_the_function_refuses_an_unknown_policy():
    with pytest.raises(ValueError, match="past_pi='wrap'"):
        cos_plus_margin(tf.constant([0.5]), 0.5, "wrap")
