"""MobileNetV2 with a wider stem, PReLU and a global depthwise convolution, as older Keras face systems use it.

The structure is that of Linzmin1927/mobilenetV2-arcfaceloss-keras-tflite (for TensorFlow 1), but PReLU has one slope
per channel. In that system, PReLU has a separate slope for each pixel of each channel. At 112x112 these are 3.4 M
parameters, which only overfit.

Reference: Sandler et al., MobileNetV2, https://arxiv.org/abs/1801.04381, figure 4.
"""

import facelib  # noqa: F401  before keras: it settles the backend

# isort: split
import keras
from keras import layers

from facelib.models.blocks import Blocks, divisible, embedding_output
from facelib.models.layers import FusedBatchNorm, PixelScale
from facelib.models.layers import activation as activation_layer

# expansion t, channels c, repeats n, stride s; the very first block has no expansion.
BOTTLENECKS = ((1, 64, 1, 2), (2, 64, 4, 1), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


def my_mobilenet(
    embedding_size=512,
    activation="prelu",
    padding="same",
    width=1.0,
    dropout=0.0,
    pixel_mean=127.5,
    pixel_std=128.0,
    image_size=(112, 112),
):
    """Builds the embedder: a 56-channel stem (32 widened by 1.8), 15 inverted residuals, 512 features, GDConv.

    Args:
        embedding_size: length D of the output vector.
        activation: 'prelu', 'relu', 'relu6' or 'leaky_relu'.
        padding: 'same' or 'symmetric'; see `facelib.models.blocks.Blocks`.
        width: multiplies all channel counts except D; the results are multiples of 8.
        dropout: rate before the embedding convolution.
        pixel_mean: of the input scaling, in pixel units; one number, or three in RGB order.
        pixel_std: of the input scaling, in pixel units; one number, or three in RGB order.
        image_size: height and width, multiples of 16.

    Returns:
        `keras.Model`: float `[N, H, W, 3]` raw RGB 0..255 -> float32 `[N, D]`, *before* L2 normalisation.
    """
    if any(side % 16 for side in image_size):
        raise ValueError(f"image_size needs multiples of 16. Received: image_size={image_size!r}")
    net = Blocks(activation, padding)
    inputs = keras.Input((*image_size, 3), name="input_1")
    x = PixelScale(pixel_mean, pixel_std, name="pixel_scale")(inputs)
    x = net.conv(x, divisible(32 * 1.8 * width), 3, 2, "stem_conv")
    for group, (expansion, channels, repeats, stride) in enumerate(BOTTLENECKS):
        for block in range(1, repeats + 1):
            name = f"group{group}_block{block}"
            x = net.bottleneck(x, expansion, divisible(channels * width), stride if block == 1 else 1, name)
    x = net.conv(x, divisible(512 * width), 1, 1, "head_conv")
    # The order of the older network: activation before BN, and an activation after the embedding. Both have a bias.
    x = layers.DepthwiseConv2D((x.shape[1], x.shape[2]), name="gdc")(x)
    x = activation_layer(activation, "gdc_act")(x)
    x = FusedBatchNorm(name="gdc_bn")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Conv2D(embedding_size, 1, kernel_initializer="he_normal", name="embedding_conv")(x)
    x = activation_layer(activation, "embedding_act")(x)
    return keras.Model(inputs, embedding_output(x), name="my_mobilenet")
