"""MobileFaceNet as in the paper, with options for phones and the K210, and InsightFace's larger variant (`mbf`).

Reference: Chen et al., MobileFaceNets, https://arxiv.org/abs/1804.07573, table 1.
"""

import facelib  # noqa: F401  before keras: it settles the backend

# isort: split
import keras
from keras import layers

from facelib.models.blocks import Blocks, divisible, embedding_output
from facelib.models.layers import PixelScale

# Table 1: expansion t, channels c, repeats n, stride s of each bottleneck group.
BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


def mobilefacenet(
    embedding_size=128,
    activation="prelu",
    stem="paper",
    padding="same",
    width=1.0,
    dropout=0.0,
    pixel_mean=127.5,
    pixel_std=128.0,
    image_size=(112, 112),
):
    """Builds the embedder.

    With the defaults: 1,003,136 trainable and 1,022,720 total parameters, 221.0 M multiply-adds at 112x112.

    Args:
        embedding_size: length D of the output vector.
        activation: 'prelu' (as in the paper), 'relu', 'relu6' or 'leaky_relu'.
        stem: 'paper' is a convolution and a depthwise convolution; 'separable' adds a 1x1 convolution, as sirius-ai,
            foamliu and others do.
        padding: 'same' or 'symmetric'; see `facelib.models.blocks.Blocks`.
        width: multiplies all channel counts except D; the results are multiples of 8.
        dropout: rate before the embedding convolution.
        pixel_mean: of the input scaling, in pixel units; one number, or three in RGB order.
        pixel_std: of the input scaling, in pixel units; one number, or three in RGB order.
        image_size: height and width, multiples of 16.

    Returns:
        `keras.Model`: float `[N, H, W, 3]` raw RGB 0..255 -> float32 `[N, D]`, *before* L2 normalisation.
    """
    if stem not in ("paper", "separable"):
        raise ValueError(f"stem is 'paper' or 'separable'. Received: stem={stem!r}")
    net = Blocks(activation, padding)
    inputs, x = _scaled_pixels(image_size, pixel_mean, pixel_std)
    x = net.conv(x, divisible(64 * width), 3, 2, "stem_conv")
    x = net.depthwise(x, 1, "stem_dw")
    if stem == "separable":
        x = net.conv(x, divisible(64 * width), 1, 1, "stem_pw")
    for group, (expansion, channels, repeats, stride) in enumerate(BOTTLENECKS, start=1):
        for block in range(1, repeats + 1):
            name = f"group{group}_block{block}"
            x = net.bottleneck(x, expansion, divisible(channels * width), stride if block == 1 else 1, name)
    x = net.conv(x, divisible(512 * width), 1, 1, "head_conv")
    return _with_embedding(net, inputs, x, embedding_size, dropout, "mobilefacenet")


# Channels and stride of each block of the small net.
SMALL_BLOCKS = ((64, 1), (64, 2), *((64, 1),) * 4, (128, 2), *((128, 1),) * 5, (128, 2), *((128, 1),) * 2)


def mobilefacenet_s(
    embedding_size=128,
    activation="prelu",
    padding="symmetric",
    width=1.0,
    dropout=0.0,
    pixel_mean=127.5,
    pixel_std=127.5,
    image_size=(112, 112),
):
    """Builds the small net for the K210, MobileFaceNet-S: 15 blocks of a 3x3 depthwise and a 1x1 convolution.

    It has no residual sums and no layer of 512 channels. 214,784 parameters in all, 59.9 M multiply-adds at 112x112.
    See AIWintermuteAI/MobileFaceNet-Keras-K210, backend/MobileFaceNet.py. That net has two biases more, before batch
    normalisation, which removes them.

    Args:
        embedding_size: length D of the output vector.
        activation: 'prelu', 'relu', 'relu6' or 'leaky_relu' (there, with slope 0.3).
        padding: 'same' or 'symmetric' (there).
        width: multiplies all channel counts except D; the results are multiples of 8.
        dropout: rate before the embedding convolution; 0.1 there.
        pixel_mean: of the input scaling, in pixel units; one number, or three in RGB order.
        pixel_std: of the input scaling, in pixel units; one number, or three in RGB order.
        image_size: height and width, multiples of 16.

    Returns:
        `keras.Model`: as `mobilefacenet`.
    """
    net = Blocks(activation, padding)
    inputs, x = _scaled_pixels(image_size, pixel_mean, pixel_std)
    x = net.conv(x, divisible(64 * width), 3, 2, "stem_conv")
    for block, (channels, stride) in enumerate(SMALL_BLOCKS):
        x = net.depthwise(x, stride, f"block{block}_dw")
        x = net.conv(x, divisible(channels * width), 1, 1, f"block{block}_pw")
    return _with_embedding(net, inputs, x, embedding_size, dropout, "mobilefacenet_s")


# InsightFace's get_mbf, for each group: channels between the 1x1 convolutions of the first block, channels out, number
# of blocks with a shortcut. The first block has stride 2 and no shortcut. InsightFace's `scale` 2 is multiplied in.
MBF_GROUPS = ((128, 128, 4), (256, 256, 6), (512, 256, 2))
MBF_MIDDLE = (128, 256, 256)


def mbf(
    embedding_size=512,
    activation="prelu",
    padding="symmetric",
    dropout=0.0,
    pixel_mean=127.5,
    pixel_std=127.5,
    image_size=(112, 112),
):
    """Builds InsightFace's `mbf`: 2.06 M parameters, 437.5 M multiply-adds at embedding size 512.

    See deepinsight/insightface, recognition/arcface_torch/backbones/mobilefacenet.py, get_mbf with blocks (1, 4, 6, 2).
    Its second layer is a 3x3 convolution in 64 groups of 2 channels. Here the two channels of a group are c and c + 64,
    and the layer is the sum of two depthwise convolutions, which every runtime and chip supports. The function is the
    same except for the order of channels; so are the number of parameters and of multiply-adds.

    Args:
        embedding_size: length D of the output vector.
        activation: 'prelu' (as in InsightFace), 'relu', 'relu6' or 'leaky_relu'.
        padding: 'same' or 'symmetric' (as in InsightFace).
        dropout: rate before the embedding convolution.
        pixel_mean: of the input scaling, in pixel units; one number, or three in RGB order.
        pixel_std: of the input scaling, in pixel units; one number, or three in RGB order.
        image_size: height and width, multiples of 16.

    Returns:
        `keras.Model`: as `mobilefacenet`.
    """
    net = Blocks(activation, padding)
    inputs, x = _scaled_pixels(image_size, pixel_mean, pixel_std)
    x = net.conv(x, 128, 3, 2, "stem_conv")
    x = net.paired_depthwise(x, "stem_dw")
    for group, ((first, channels, repeats), middle) in enumerate(zip(MBF_GROUPS, MBF_MIDDLE, strict=True), start=1):
        x = net.inverted(x, first, channels, 2, f"group{group}_block0")
        for block in range(1, repeats + 1):
            x = net.inverted(x, middle, channels, 1, f"group{group}_block{block}")
    x = net.conv(x, 512, 1, 1, "head_conv")
    return _with_embedding(net, inputs, x, embedding_size, dropout, "mbf")


def _scaled_pixels(image_size, pixel_mean, pixel_std):
    """(the input, its scaled pixels) of a net that halves the image four times."""
    if any(side % 16 for side in image_size):
        raise ValueError(f"image_size needs multiples of 16. Received: image_size={image_size!r}")
    inputs = keras.Input((*image_size, 3), name="input_1")
    return inputs, PixelScale(pixel_mean, pixel_std, name="pixel_scale")(inputs)


def _with_embedding(net, inputs, x, embedding_size, dropout, name):
    """The model that ends in the paper's global depthwise convolution and a linear 1x1 convolution."""
    x = net.global_depthwise(x, "gdc")
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = net.conv(x, embedding_size, 1, 1, "embedding_conv", linear=True)
    return keras.Model(inputs, embedding_output(x), name=name)
