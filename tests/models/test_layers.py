"""FusedBatchNorm, PReLU, PixelScale against Keras's own layers, NumPy and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from facelib.distributed.workers import ONE_WORKER
from facelib.models.layers import AtMostOne, FusedBatchNorm, PixelScale, PReLU, activation

RNG = np.random.default_rng(0)
SHAPE = (6, 5, 4, 3)
X = (3 * RNG.normal(size=SHAPE) + [0, 5, -2]).astype("float32")
UPSTREAM = RNG.normal(size=SHAPE).astype("float32")
STATISTICS = {
    "gamma": np.array([0.5, 1.5, -2.0], "float32"),
    "beta": np.array([1.0, 0.0, -3.0], "float32"),
    "moving_mean": np.array([0.1, 4.0, -1.0], "float32"),
    "moving_variance": np.array([1.0, 9.0, 0.5], "float32"),
}


@pytest.fixture
def policy():
    """Sets a global dtype policy for one test."""
    before = keras.mixed_precision.dtype_policy()
    yield keras.mixed_precision.set_dtype_policy
    keras.mixed_precision.set_dtype_policy(before)


def filled(layer, shape=(None, *SHAPE[1:])):
    layer.build(shape)
    for name, value in STATISTICS.items():
        getattr(layer, name).assign(value)
    return layer


def ours_and_keras(momentum=0.9, epsilon=1e-3):
    theirs = keras.layers.BatchNormalization(momentum=momentum, epsilon=epsilon)
    return filled(FusedBatchNorm(momentum=momentum, epsilon=epsilon)), filled(theirs)


# ---------------------------------------------------------------------------------------------- FusedBatchNorm


@pytest.mark.parametrize("epsilon", [1e-3, 2e-5])
def test_inference_is_that_of_keras(epsilon):
    ours, theirs = ours_and_keras(epsilon=epsilon)

    np.testing.assert_allclose(ours(X, training=False), theirs(X, training=False), rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(ours(X), ours(X, training=False))


def test_training_output_and_gradients_are_those_of_keras():
    results = []
    for layer in ours_and_keras():
        x = tf.constant(X)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y * UPSTREAM)
        results.append([y, *tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])])

    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_moving_statistics_follow_the_batch_with_the_unbiased_variance():
    ours, theirs = ours_and_keras(momentum=0.8)
    ours(X, training=True)
    theirs(X, training=True)

    mean, variance = X.reshape(-1, 3).mean(0), X.reshape(-1, 3).var(0, ddof=1)  # the fused op applies Bessel's n/(n-1)
    np.testing.assert_allclose(ours.moving_mean, 0.8 * STATISTICS["moving_mean"] + 0.2 * mean, rtol=1e-5)
    np.testing.assert_allclose(ours.moving_variance, 0.8 * STATISTICS["moving_variance"] + 0.2 * variance, rtol=1e-5)
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-5)
    n = X.size // 3
    np.testing.assert_allclose(ours.moving_variance, theirs.moving_variance, rtol=1.0 / (n - 1))


def test_a_frozen_layer_uses_and_keeps_the_moving_statistics():
    ours, _ = ours_and_keras()
    ours.trainable = False

    np.testing.assert_array_equal(ours(X, training=True), ours(X, training=False))
    np.testing.assert_array_equal(ours.moving_mean, STATISTICS["moving_mean"])
    np.testing.assert_array_equal(ours.moving_variance, STATISTICS["moving_variance"])
    assert ours.trainable_variables == []


def test_inference_changes_no_statistics():
    ours, _ = ours_and_keras()
    ours(X, training=False)

    np.testing.assert_array_equal(ours.moving_mean, STATISTICS["moving_mean"])


@pytest.mark.parametrize("name, tolerance", [("mixed_float16", 4e-3), ("mixed_bfloat16", 3e-2)])
def test_a_mixed_policy_keeps_parameters_and_statistics_in_float32(policy, name, tolerance):
    reference = filled(FusedBatchNorm())
    expected = {training: reference(X, training=training).numpy() for training in (False, True)}
    policy(name)
    layer = filled(FusedBatchNorm())
    compute = name.removeprefix("mixed_")
    x = tf.cast(X, compute)

    for training in (False, True):
        y = layer(x, training=training)
        assert y.dtype == compute
        np.testing.assert_allclose(tf.cast(y, "float32"), expected[training], rtol=tolerance, atol=4 * tolerance)
    assert {v.dtype for v in layer.variables} == {"float32"}
    np.testing.assert_allclose(layer.moving_mean, reference.moving_mean, atol=tolerance)


@pytest.mark.parametrize("training", [True, False])
def test_it_lowers_to_the_fused_op(training):
    layer = filled(FusedBatchNorm())
    function = tf.function(lambda x: layer(x, training=training), input_signature=[tf.TensorSpec((None, *SHAPE[1:]))])

    kinds = [op.type for op in function.get_concrete_function().graph.get_operations()]

    assert kinds.count("FusedBatchNormV3") == 1
    assert "Rsqrt" not in kinds


# ----------------------------------------------------------------------------------------------------- PReLU

SLOPES = np.array([0.25, -0.5, 0.9], "float32")


def made_prelu(shape=(None, *SHAPE[1:])):
    layer = PReLU()
    layer.build(shape)
    layer.alpha.assign(SLOPES)
    return layer


def numpy_prelu(x):
    return np.where(x > 0, x, SLOPES * x)


@pytest.mark.parametrize("training", [True, False])
def test_a_slope_of_one_is_the_identity(training):
    layer = made_prelu()
    layer.alpha.assign(np.ones(3))

    np.testing.assert_array_equal(layer(X, training=training), X)


def test_a_slope_of_one_can_still_learn():
    layer = made_prelu()
    layer.alpha.assign(np.ones(3))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(X, training=True))

    expected = np.minimum(X, 0).sum(axis=(0, 1, 2))
    np.testing.assert_allclose(tape.gradient(loss, layer.alpha.value), expected, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_prelu_is_he_et_al_equation_1(training):
    np.testing.assert_allclose(made_prelu()(X, training=training), numpy_prelu(X), rtol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_prelu_has_the_gradients_of_finite_differences(training):
    layer, x = made_prelu(), tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x, training=training) * UPSTREAM)
    by_x, by_slope = tape.gradient(loss, [x, layer.alpha.value])

    def loss_at(x, slopes):
        return np.sum(np.where(x > 0, x, slopes * x) * UPSTREAM, dtype=np.float64)

    h = 1e-3
    x64, expected = X.astype(np.float64), np.empty(3)
    for channel in range(3):
        step = h * np.eye(3)[channel]
        expected[channel] = (loss_at(x64, SLOPES + step) - loss_at(x64, SLOPES - step)) / (2 * h)
    np.testing.assert_allclose(by_slope, expected, rtol=1e-4)
    assert np.abs(X).min() > 1e-6  # no element at the kink
    h = 1e-7
    slope_of_x = (numpy_prelu(x64 + h) - numpy_prelu(x64 - h)) / (2 * h)
    np.testing.assert_allclose(by_x, slope_of_x * UPSTREAM, rtol=1e-5)


def test_prelu_is_the_same_where_a_gpu_is(monkeypatch):
    """There it is not compiled by XLA."""
    monkeypatch.setattr("facelib.models.layers.has_gpu", lambda: True)

    test_prelu_is_he_et_al_equation_1(True)
    test_prelu_has_the_gradients_of_finite_differences(True)


def test_prelu_takes_flat_inputs():
    layer = made_prelu((None, 3))

    np.testing.assert_allclose(layer(X[:, 0, 0], training=True), numpy_prelu(X[:, 0, 0]), rtol=1e-6)


@pytest.mark.parametrize("compute", ["float16", "bfloat16"])
@pytest.mark.parametrize("training", [True, False])
def test_prelu_under_a_mixed_policy(policy, compute, training):
    policy(f"mixed_{compute}")
    layer = made_prelu()
    with tf.GradientTape() as tape:
        y = layer(X, training=training)
        loss = tf.reduce_sum(tf.cast(y, "float32") * UPSTREAM)

    assert (y.dtype, layer.alpha.dtype) == (compute, "float32")
    np.testing.assert_allclose(tf.cast(y, "float32"), numpy_prelu(X), rtol=1e-2)
    expected = np.sum(np.where(X < 0, X, 0) * UPSTREAM, axis=(0, 1, 2))
    by_slope = tape.gradient(loss, layer.alpha.value)
    assert by_slope.dtype == tf.float32
    np.testing.assert_allclose(by_slope, expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


def test_prelu_begins_at_a_quarter_and_has_one_slope_a_channel():
    layer = PReLU()
    layer.build((None, 9, 9, 7))

    np.testing.assert_array_equal(layer.alpha, np.full(7, 0.25))


def test_an_optimizer_step_cannot_take_a_slope_above_one():
    layer = made_prelu()
    optimizer = keras.optimizers.SGD(1.0)

    optimizer.apply([tf.constant([-3.0, -0.25, 0.5])], layer.trainable_variables)

    np.testing.assert_allclose(layer.alpha, [1.0, -0.25, 0.4], rtol=1e-6)


def test_inference_is_written_in_ops_that_xnnpack_has_in_int8():
    layer = made_prelu()
    function = tf.function(lambda x: layer(x, training=False), input_signature=[tf.TensorSpec((None, *SHAPE[1:]))])

    kinds = {op.type for op in function.get_concrete_function().graph.get_operations()}

    assert {"Mul", "Maximum"} <= kinds
    assert not {"Relu", "Neg", "LeakyRelu", "StatefulPartitionedCall"} & kinds


# --------------------------------------------------------------------------------------------------- PixelScale


def test_pixel_scale_maps_0_and_255():
    images = np.array([0.0, 127.5, 255.0], "float32").reshape(1, 1, 1, 3)

    y = PixelScale()(images)

    np.testing.assert_allclose(np.ravel(y), [-127.5 / 128, 0.0, 127.5 / 128], rtol=1e-6)


def test_pixel_scale_takes_a_mean_and_std_for_each_channel():
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    images = RNG.integers(0, 256, (2, 4, 4, 3)).astype("float32")

    y = PixelScale(mean, std)(images)

    np.testing.assert_allclose(y, (images - mean) / std, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compute", ["float16", "bfloat16"])
def test_pixel_scale_rounds_once_at_the_end(policy, compute):
    policy(f"mixed_{compute}")
    images = np.arange(256, dtype="float32")[None, :, None, None] * np.ones(3, "float32")

    y = PixelScale()(images)

    assert y.dtype == compute
    np.testing.assert_array_equal(y, tf.cast((images - np.float32(127.5)) / np.float32(128), compute))


# --------------------------------------------------------------------------------------------------- together


def test_a_saved_model_is_the_same_model(tmp_path):
    inputs = keras.Input(SHAPE[1:])
    x = PixelScale([1.0, 2.0, 3.0], 4.0)(inputs)
    x = FusedBatchNorm(momentum=0.7, epsilon=2e-3, name="bn")(x)
    model = keras.Model(inputs, PReLU(name="act")(x))
    for name, value in STATISTICS.items():
        getattr(model.get_layer("bn"), name).assign(value)
    model.get_layer("act").alpha.assign(SLOPES)

    for name in ("m.keras", "m.h5"):
        model.save(tmp_path / name)
        again = keras.models.load_model(tmp_path / name)
        np.testing.assert_array_equal(again(X), model(X))
        assert [x.get_config() for x in again.layers[2:]] == [x.get_config() for x in model.layers[2:]]
        assert (again.layers[1].mean, again.layers[1].std) == ([1.0, 2.0, 3.0], 4.0)
        assert isinstance(again.get_layer("act").alpha.constraint, AtMostOne)


@pytest.mark.parametrize(
    "kind, expected",
    [("prelu", [-0.5, 0, 3, 9]), ("relu", [0, 0, 3, 9]), ("relu6", [0, 0, 3, 6]), ("leaky_relu", [-0.2, 0, 3, 9])],
)
def test_activations_by_name(kind, expected):
    x = np.array([-2, 0, 3, 9], "float32").reshape(1, 1, 4, 1)

    np.testing.assert_allclose(np.ravel(activation(kind, "act")(x)), expected, rtol=1e-6)


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match=r"is one of prelu, relu, relu6, leaky_relu\. Received: .*'elu'"):
        activation("elu", "act")


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_batch_statistics_over_workers_are_those_of_the_formula(mean):
    rng = np.random.default_rng(2)
    x = rng.normal(mean, 1.5, (6, 5, 4, 3)).astype(np.float32)
    upstream = rng.normal(size=x.shape).astype(np.float32)
    layer = FusedBatchNorm(momentum=0.8, epsilon=1e-2)
    layer.build(x.shape)
    layer.workers = ONE_WORKER
    gamma, beta = rng.uniform(0.5, 2, 3).astype(np.float32), rng.normal(size=3).astype(np.float32)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    with tf.GradientTape() as tape:
        inputs = tf.constant(x)
        tape.watch(inputs)
        y = layer(inputs, training=True)
    by_x, by_gamma = tape.gradient(y, [inputs, layer.gamma.value], upstream)

    wide, up = x.astype(np.float64), upstream.astype(np.float64)
    axes, count = (0, 1, 2), x.size / 3
    centred, deviation = wide - wide.mean(axes), np.sqrt(wide.var(axes) + 1e-2)
    unit = centred / deviation
    np.testing.assert_allclose(y, unit * gamma + beta, rtol=1e-5, atol=1e-5)
    # Ioffe & Szegedy, section 3: the gradient through mean and variance
    expected = gamma / deviation * (up - up.mean(axes) - unit * (up * unit).mean(axes))
    np.testing.assert_allclose(by_x, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_gamma, (up * unit).sum(axes), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.2 * wide.mean(axes), rtol=1e-5, atol=1e-6)
    unbiased = wide.var(axes) * count / (count - 1)
    np.testing.assert_allclose(layer.moving_variance.numpy(), 0.8 + 0.2 * unbiased, rtol=1e-5)
