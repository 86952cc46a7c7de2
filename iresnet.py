"""IResNet-18, -34, -50 and -100: the residual networks of most published face models.

The structure is that of deepinsight/insightface, recognition/arcface_torch/backbones/iresnet.py. A block has batch
normalisation before its first convolution and after each one, PReLU in the middle, and the stride in its second
convolution. The last layer is fully connected over the whole 7x7 map. Here this layer is a 7x7 convolution with the
kernel [7, 7, 512, D], in the order height, width, channel. InsightFace flattens the map in the order channel, height,
width.

References: He et al., https://arxiv.org/abs/1512.03385; Deng et al., https://arxiv.org/abs/1801.07698, section 3.1.
"""

import facelib  # noqa: F401  before keras: it settles the backend

# isort: split
import keras
from keras import layers

from facelib.models.blocks import embedding_output
from facelib.models.layers import FusedBatchNorm, PixelScale, activation
from facelib.models.registry import IRESNET_DEPTHS

_CHANNELS = (64, 128, 256, 512)


def iresnet(depth, embedding_size=512, activation="prelu", dropout=0.0, pixel_mean=127.5, pixel_std=127.5,
            image_size=(112, 112)):  # fmt: skip
    """Builds the embedder: 24.0, 34.1, 43.6 or 65.2 M parameters at embedding size 512.

    Args:
        depth: 18, 34, 50 or 100.
        embedding_size: length D of the output vector.
        activation: 'prelu' (as in InsightFace), 'relu', 'relu6' or 'leaky_relu'.
        dropout: rate before the fully connected layer; 0 in InsightFace.
        pixel_mean: of the input scaling, in pixel units; one number, or three in RGB order.
        pixel_std: of the input scaling, in pixel units; one number, or three in RGB order.
        image_size: height and width, multiples of 16.

    Returns:
        `keras.Model`: float `[N, H, W, 3]` raw RGB 0..255 -> float32 `[N, D]`, *before* L2 normalisation.
    """
    if depth not in IRESNET_DEPTHS:
        raise ValueError(f"depth is one of {', '.join(map(str, IRESNET_DEPTHS))}. Received: depth={depth}")
    if any(side % 16 for side in image_size):
        raise ValueError(f"image_size needs multiples of 16. Received: image_size={image_size!r}")
    inputs = keras.Input((*image_size, 3), name="input_1")
    x = PixelScale(pixel_mean, pixel_std, name="pixel_scale")(inputs)
    x = _conv(x, 64, 3, 1, "stem_conv")
    x = _act(_bn(x, "stem_bn"), activation, "stem_act")
    for group, (channels, repeats) in enumerate(zip(_CHANNELS, IRESNET_DEPTHS[depth], strict=True), start=1):
        for block in range(1, repeats + 1):
            x = _block(x, channels, 2 if block == 1 else 1, activation, f"group{group}_block{block}")
    x = _bn(x, "head_bn")
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    kernel = (x.shape[1], x.shape[2])
    x = layers.Conv2D(embedding_size, kernel, kernel_initializer="glorot_normal", name="embedding_conv")(x)
    x = _bn(x, "embedding_bn")
    return keras.Model(inputs, embedding_output(x), name=f"iresnet{depth}")


def _block(x, channels, stride, activation, name):
    y = _conv(_bn(x, f"{name}_bn1"), channels, 3, 1, f"{name}_conv1")
    y = _act(_bn(y, f"{name}_bn2"), activation, f"{name}_act")
    y = _bn(_conv(y, channels, 3, stride, f"{name}_conv2"), f"{name}_bn3")
    if stride != 1 or x.shape[-1] != channels:
        x = _bn(_conv(x, channels, 1, stride, f"{name}_short"), f"{name}_short_bn")
    return layers.Add(name=f"{name}_add")([x, y])


def _conv(x, filters, kernel, stride, name):
    if kernel == 3:  # symmetric, as PyTorch pads; TensorFlow's 'same' would pad one side at stride 2
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    he_normal = keras.initializers.HeNormal()
    return layers.Conv2D(filters, kernel, stride, use_bias=False, kernel_initializer=he_normal, name=name)(x)


def _bn(x, name):
    return FusedBatchNorm(epsilon=1.001e-5, name=name)(x)


def _act(x, kind, name):
    return activation(kind, name)(x)
