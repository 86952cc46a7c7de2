"""GhostFaceNet V1: GhostNet with PReLU and a global depthwise convolution.

The structure is that of HamadYA/GhostFaceNets (backbones/ghost_model.py). A convolution computes half of the channels
of every feature map. A cheap depthwise convolution of this half gives the other half. Some blocks have
squeeze-and-excite. Where the shape changes, the shortcut has a depthwise and a 1x1 convolution.

References: Alansari et al., GhostFaceNets, IEEE Access 2023; Han et al., GhostNet, https://arxiv.org/abs/1911.11907.
"""

import facelib  # noqa: F401  before keras: it settles the backend

# isort: split
import keras
from keras import layers

from facelib.models.blocks import Blocks, embedding_output
from facelib.models.layers import FusedBatchNorm, PixelScale
from facelib.models.layers import activation as activation_layer

# Depthwise kernel, expansion, channels, squeeze-and-excite, stride of each block, before the width multiplier.
BLOCKS = (
    (3, 16, 16, False, 1), (3, 48, 24, False, 2), (3, 72, 24, False, 1), (5, 72, 40, True, 2), (5, 120, 40, True, 1),
    (3, 240, 80, False, 2), (3, 200, 80, False, 1), (3, 184, 80, False, 1), (3, 184, 80, False, 1),
    (3, 480, 112, True, 1), (3, 672, 112, True, 1), (5, 672, 160, True, 2), (5, 960, 160, False, 1),
    (5, 960, 160, True, 1), (5, 960, 160, False, 1), (5, 512, 160, True, 1),
)  # fmt: skip


def ghostfacenet_v1(embedding_size=512, activation="prelu", width=1.3, stem_stride=1, dropout=0.0, pixel_mean=127.5,
                    pixel_std=128.0, image_size=(112, 112)):  # fmt: skip
    """Builds the embedder: GhostFaceNetV1-1.3-1, or -1.3-2 with `stem_stride` 2, which takes a quarter of the work.

    Args:
        embedding_size: length D of the output vector.
        activation: 'prelu' (as in the paper), 'relu', 'relu6' or 'leaky_relu'.
        width: multiplies all channel counts except D; the results are multiples of 4.
        stem_stride: 1 or 2.
        dropout: rate before the embedding convolution.
        pixel_mean: of the input scaling, in pixel units; one number, or three in RGB order.
        pixel_std: of the input scaling, in pixel units; one number, or three in RGB order.
        image_size: height and width, multiples of 16.

    Returns:
        `keras.Model`: float `[N, H, W, 3]` raw RGB 0..255 -> float32 `[N, D]`, *before* L2 normalisation.
    """
    net = _Ghost(activation)
    inputs = keras.Input((*image_size, 3), name="input_1")
    x = PixelScale(pixel_mean, pixel_std, name="pixel_scale")(inputs)
    x = net.conv(x, _divisible(16 * width), 3, stem_stride, "stem")
    for number, (kernel, expansion, channels, has_squeeze, stride) in enumerate(BLOCKS, start=1):
        x = net.bottleneck(
            x,
            kernel,
            _divisible(expansion * width),
            _divisible(channels * width),
            has_squeeze,
            stride,
            f"block{number}",
        )
    x = net.conv(x, _divisible(512 * width), 1, 1, "head_conv")
    x = Blocks(activation, "same").global_depthwise(x, "gdc")
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = net.conv(x, embedding_size, 1, 1, "embedding_conv", linear=True)
    return keras.Model(inputs, embedding_output(x), name="ghostfacenet_v1")


class _Ghost:
    def __init__(self, activation):
        self.activation = activation

    def conv(self, x, filters, kernel, stride, name, linear=False):
        x = layers.Conv2D(
            filters, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
        )(x)
        return self._finish(x, name, linear)

    def depthwise(self, x, kernel, stride, name, linear=False):
        fan = keras.initializers.RandomNormal(stddev=(2.0 / kernel**2) ** 0.5)  # a depthwise filter sees one channel
        x = layers.DepthwiseConv2D(
            kernel, stride, padding="same", use_bias=False, depthwise_initializer=fan, name=name
        )(x)  # fmt: skip
        return self._finish(x, name, linear)

    def ghost(self, x, channels, name, linear=False):
        """Half of the channels from a 1x1 convolution, the other half from a 3x3 depthwise convolution of those."""
        primary = self.conv(x, channels // 2, 1, 1, f"{name}_primary", linear)
        cheap = self.depthwise(primary, 3, 1, f"{name}_cheap", linear)
        return layers.Concatenate(name=f"{name}_concat")([primary, cheap])

    def squeeze(self, x, name):
        channels = x.shape[-1]
        y = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
        y = layers.Conv2D(_divisible(channels * 0.25), 1, kernel_initializer="he_normal", name=f"{name}_down")(y)
        y = activation_layer(self.activation, f"{name}_down_act")(y)
        y = layers.Conv2D(channels, 1, kernel_initializer="he_normal", name=f"{name}_up")(y)
        y = layers.Activation("hard_sigmoid", name=f"{name}_gate")(y)
        return layers.Multiply(name=f"{name}_scale")([x, y])

    def bottleneck(self, x, kernel, expansion, channels, has_squeeze, stride, name):
        y = self.ghost(x, expansion, f"{name}_expand")
        if stride > 1:
            y = self.depthwise(y, kernel, stride, f"{name}_dw", linear=True)
        if has_squeeze:
            y = self.squeeze(y, f"{name}_se")
        y = self.ghost(y, channels, f"{name}_project", linear=True)
        if stride > 1 or x.shape[-1] != channels:
            x = self.depthwise(x, kernel, stride, f"{name}_short_dw", linear=True)
            x = self.conv(x, channels, 1, 1, f"{name}_short", linear=True)
        return layers.Add(name=f"{name}_add")([x, y])

    def _finish(self, x, name, linear):
        x = FusedBatchNorm(name=f"{name}_bn")(x)
        return x if linear else activation_layer(self.activation, f"{name}_act")(x)


def _divisible(channels):
    rounded = max(4, int(channels + 2) // 4 * 4)
    return rounded + 4 if rounded < 0.9 * channels else rounded
