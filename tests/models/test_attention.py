"""ChannelNorm, ChannelScale, FourierPositions, CrossCovariance and ChannelSlice against Keras and NumPy."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from facelib.models.attention import ChannelNorm, ChannelScale, CrossCovariance, FourierPositions, position_waves
from facelib.models.layers import ChannelSlice

RNG = np.random.default_rng(0)
X = (3 * RNG.normal(size=(2, 4, 3, 8)) + 1).astype("float32")


def filled(layer, *inputs):
    """`layer`, built, with weights away from their first values."""
    layer(*inputs)
    for weight in layer.weights:
        weight.assign(RNG.normal(size=weight.shape))
    return layer


def test_channel_norm_and_its_gradients_are_those_of_keras():
    ours, theirs = filled(ChannelNorm(), X), keras.layers.LayerNormalization(epsilon=1e-6)
    theirs.build(X.shape)
    theirs.set_weights(ours.get_weights())
    upstream, results = RNG.normal(size=X.shape).astype("float32"), []

    for layer in (ours, theirs):
        x = tf.constant(X)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        results.append((y, *tape.gradient(y, [x, layer.gamma.value, layer.beta.value], upstream)))

    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_channel_scale_multiplies_each_channel():
    layer = ChannelScale(0.5)
    np.testing.assert_allclose(layer(X), 0.5 * X)

    layer.gamma.assign(np.arange(8))

    np.testing.assert_allclose(layer(X), X * np.arange(8))


def test_a_wave_of_a_position_is_the_sine_or_the_cosine_of_its_phase():
    waves = position_waves(5, 3, 4)

    assert waves.shape == (5, 3, 8)
    for row, column in ((0, 0), (2, 1), (4, 2)):
        phases = [2 * math.pi * (row + 1) / 5, 2 * math.pi * (column + 1) / 3]
        expected = [f(phase / rate) for phase in phases for rate in (1, 100) for f in (math.sin, math.cos)]
        np.testing.assert_allclose(waves[row, column], expected, atol=1e-5)


def test_positions_are_a_linear_map_of_the_waves():
    layer = filled(FourierPositions(num_waves=4), X)

    expected = X + position_waves(4, 3, 4) @ layer.kernel.numpy() + layer.bias.numpy()

    np.testing.assert_allclose(layer(X), expected, rtol=1e-5, atol=1e-5)


def test_attention_is_that_of_each_face_and_head_by_itself():
    maps = [RNG.normal(size=X.shape).astype("float32") for _ in range(3)]
    layer = filled(CrossCovariance(num_heads=2), maps)

    found = layer(maps).numpy()

    for face in range(2):
        for head, temperature in enumerate(layer.temperature.numpy()):
            channels = slice(4 * head, 4 * head + 4)
            q, k, v = (part[face, ..., channels].reshape(12, 4).T for part in maps)  # [channels, positions]
            q, k = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (q, k))
            weights = np.exp(temperature * q @ k.T)
            weights /= weights.sum(1, keepdims=True)
            expected = (weights @ v).T.reshape(4, 3, 4)
            np.testing.assert_allclose(found[face, ..., channels], expected, rtol=1e-4, atol=1e-5)


def test_attention_of_an_empty_map_is_finite():
    zeros = np.zeros_like(X)

    assert np.isfinite(CrossCovariance(num_heads=2)([zeros, zeros, X])).all()


def test_a_slice_holds_its_channels():
    np.testing.assert_array_equal(ChannelSlice(2, 5)(X), X[..., 2:5])


@pytest.mark.parametrize(
    "layer", [ChannelNorm(1e-5), ChannelScale(0.1), FourierPositions(8), ChannelSlice(1, 3)], ids=lambda x: x.name
)
def test_the_configuration_and_the_shape_are_known(layer):
    copy = type(layer).from_config(layer.get_config())

    assert copy.get_config() == layer.get_config()
    assert layer.compute_output_shape(X.shape) == tuple(layer(X).shape)


@pytest.mark.parametrize("make", [ChannelNorm, ChannelScale, FourierPositions], ids=lambda x: x.__name__)
def test_half_precision_gives_half_precision_of_the_same(make):
    whole = filled(make(), X)
    half = make(dtype="mixed_float16")
    half.build(X.shape)
    half.set_weights(whole.get_weights())

    found = half(X)

    assert found.dtype == "float16" and all(weight.dtype == "float32" for weight in half.weights)
    np.testing.assert_allclose(found, whole(X), rtol=0.02, atol=0.02)


def test_attention_in_half_precision_is_nearly_the_same():
    maps = [RNG.normal(size=X.shape).astype("float32") for _ in range(3)]

    found = CrossCovariance(2, dtype="mixed_float16")(maps)

    assert found.dtype == "float16"
    np.testing.assert_allclose(found, CrossCovariance(2)(maps), rtol=0.02, atol=0.02)
