"""1x1 convolutions as products: values and gradients against the convolution, and what stays as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from facelib.models.layers import PixelScale
from facelib.models.pointwise import use_products

RNG = np.random.default_rng(0)


def net():
    """A 3x3, two 1x1 of stride 1 (one with a bias), one of stride 2 and one in groups."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 6, 3), name="input_1")
    x = PixelScale(name="scale")(x)
    x = keras.layers.Conv2D(8, 3, padding="same", name="wide")(x)
    x = keras.layers.Conv2D(16, 1, use_bias=False, name="plain")(x)
    x = keras.layers.Conv2D(16, 1, activation="relu", name="bias")(x)
    x = keras.layers.Conv2D(16, 1, 2, name="stride")(x)
    x = keras.layers.Conv2D(16, 1, groups=4, name="groups")(x)
    return keras.Model(inputs, keras.layers.Flatten(name="embeddings")(x))


def values_and_gradients(model, images):
    with tf.GradientTape() as tape:
        outputs = model(images, training=True)
        loss = tf.reduce_mean(tf.square(tf.cast(outputs, tf.float32)))
    return [outputs, *tape.gradient(loss, model.trainable_variables)]


@pytest.mark.parametrize("count", [1, 5])
def test_values_and_gradients_are_those_of_the_convolutions(count):
    images = RNG.integers(0, 256, (count, 8, 6, 3)).astype("float32")
    model = net()
    expected = values_and_gradients(model, images)

    use_products(model)

    for ours, theirs in zip(values_and_gradients(model, images), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def test_only_1x1_convolutions_of_stride_1_without_groups_change():
    model = net()
    use_products(model)

    graph = tf.function(model).get_concrete_function(tf.TensorSpec((None, 8, 6, 3)), training=True).graph
    operations = [operation.type for operation in graph.get_operations()]
    assert operations.count("MatMul") == 2
    assert operations.count("Conv2D") == 2  # Keras compiles the grouped one


def test_the_saved_net_has_convolutions(tmp_path):
    model = net()
    use_products(model)
    model.save(tmp_path / "net.keras")

    read = keras.models.load_model(tmp_path / "net.keras")
    graph = tf.function(read).get_concrete_function(tf.TensorSpec((None, 8, 6, 3))).graph
    assert not [operation for operation in graph.get_operations() if operation.type == "MatMul"]


def test_under_mixed_precision_the_products_are_in_float16():
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        model = net()
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    images = RNG.integers(0, 256, (2, 8, 6, 3)).astype("float32")
    expected = model(images, training=True)

    use_products(model)

    found = model(images, training=True)
    assert found.dtype == expected.dtype == tf.float16
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)
