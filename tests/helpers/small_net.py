"""A small random net of 112x112 raw pixels and 24 values, for tests of conversions."""

import numpy as np

from facelib.data.synthetic.faces import synthetic_face


def small_graph():
    """`small_model` as a frozen GraphDef. Needs TensorFlow."""
    from facelib.export.freeze import freeze

    return freeze(small_model())


def small_model():
    """A Keras model: raw RGB pixels `input_1`, scaled inside, -> `embeddings` [N, 24]."""
    import keras

    from facelib.models.layers import PixelScale

    keras.utils.set_random_seed(3)
    inputs = keras.Input((112, 112, 3), name="input_1")
    x = PixelScale(127.5, 128.0, name="pixel_scale")(inputs)
    x = keras.layers.Conv2D(12, 4, 4, activation="relu6", name="conv")(x)
    x = keras.layers.Conv2D(8, 4, 4, activation="relu6", name="conv2")(x)
    x = keras.layers.Dense(24, use_bias=False, name="dense")(keras.layers.Flatten(name="flat")(x))
    return keras.Model(inputs, keras.layers.Activation("linear", name="embeddings")(x), name="small")


def faces_of(num_faces, photo=0):
    """uint8 [N, 112, 112, 3]: one synthetic face of each of N identities."""
    return np.stack([synthetic_face(7, identity, photo) for identity in range(num_faces)])
