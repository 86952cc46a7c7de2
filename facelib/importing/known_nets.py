"""Nets of other systems whose structure is not in their weights files: `import_model.py --as`.

They are those of bubbliiiing/arcface-keras, which publishes weights alone. Its mobilefacenet is ours, layer by layer.
Its iresnet50 pads as TensorFlow does, so that it is another function than InsightFace's with the same weights.
"""

from collections.abc import Callable

import keras
from keras import layers

EPSILON = 1e-5  # of every normalisation in them
PIXELS = "pm1_exact"  # x / 255, minus 0.5, divided by 0.5


def mobilenet(embedding_size: int) -> keras.Model:
    """MobileNetV1 with a 1x1 convolution and a dense layer at its end."""
    inputs = keras.Input((112, 112, 3))
    x = _relu6(layers.Conv2D(32, 3, padding="same", use_bias=False, name="conv1")(inputs), "conv1")
    widths = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    for block, width in enumerate(widths, start=1):
        strides = 2 if block in (2, 4, 6, 12) else 1
        name = f"conv_dw_{block}"
        x = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False, name=name)(x)
        x = layers.Conv2D(width, 1, use_bias=False, name=f"conv_pw_{block}")(_relu6(x, name))
        x = _relu6(x, f"conv_pw_{block}")
    x = layers.Conv2D(512, 1, use_bias=False, name="sep")(x)
    return _end(_prelu(_norm(x, "sep_bn"), "sep_prelu"), inputs, embedding_size, "mobilenet")


def iresnet50(embedding_size: int) -> keras.Model:
    """IResNet-50 with TensorFlow's padding at stride 2."""
    inputs = keras.Input((112, 112, 3))
    x = layers.Conv2D(64, 3, padding="same", use_bias=False, name="conv1")(inputs)
    x = _prelu(_norm(x, "bn_conv1"), "conv1_prelu")
    for stage, (width, repeats) in enumerate(((64, 3), (128, 4), (256, 14), (512, 3)), start=2):
        for block in range(repeats):
            x = _residual(x, width, f"{stage}{'abcdefghijklmn'[block]}", 2 if block == 0 else 1)
    return _end(x, inputs, embedding_size, "iresnet50")


KNOWN: dict[str, Callable[[int], keras.Model]] = {"mobilenet": mobilenet, "iresnet50": iresnet50}


def _residual(x, width: int, name: str, strides: int):
    y = _norm(x, f"bn{name}_branch2")
    y = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"res{name}_branch2a")(y)
    y = _prelu(_norm(y, f"bn{name}_branch2a"), f"res{name}_prelu")
    y = layers.Conv2D(width, 3, strides, padding="same", use_bias=False, name=f"res{name}_branch2b")(y)
    y = _norm(y, f"bn{name}_branch2b")
    if strides == 2:
        x = layers.Conv2D(width, 1, strides, use_bias=False, name=f"res{name}_branch1")(x)
        x = _norm(x, f"bn{name}_branch1")
    return layers.Add(name=f"res{name}_add")([y, x])


def _end(x, inputs, embedding_size: int, name: str) -> keras.Model:
    x = layers.Flatten()(layers.Dropout(0.5)(_norm(x, "bn2")))
    x = layers.Dense(embedding_size, name="linear")(x)
    return keras.Model(inputs, _norm(x, "features"), name=name)


def _norm(x, name: str):
    return layers.BatchNormalization(epsilon=EPSILON, name=name)(x)


def _relu6(x, name: str):
    return layers.ReLU(6.0, name=f"{name}_relu")(_norm(x, f"{name}_bn"))


def _prelu(x, name: str):
    return layers.PReLU(shared_axes=[1, 2], name=name)(x)
