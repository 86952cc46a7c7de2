"""MixFaceNet: MixNet with PReLU at the start and at the end, and a global depthwise convolution.

A depthwise convolution has kernels of several sizes, each for a part of the channels. Many 1x1 convolutions are in two
parts too, which halves their work. Most blocks have squeeze-and-excite. Here each part has its own batch normalisation,
which is the same function and which freezing can fold.

The structure is that of fdbtrs/mixfacenets, backbones/mixnetm.py, without the shuffle of channels. There, the scale of
the last normalisation is fixed at 1; here it is trained.

References: Boutros et al., MixFaceNets, https://arxiv.org/abs/2107.13046; Tan & Le, MixConv,
https://arxiv.org/abs/1907.09595.
"""

from itertools import accumulate, pairwise

import facelib  # noqa: F401  before keras: it settles the backend

# isort: split
import keras
from keras import layers

from facelib.models.blocks import Blocks, divisible, embedding_output
from facelib.models.layers import ChannelSlice, FusedBatchNorm, PixelScale
from facelib.models.layers import activation as activation_layer

# Width and channels before the global depthwise convolution.
SIZES = {"mixfacenet_xs": (0.5, 512), "mixfacenet_s": (1.0, 1024)}
STEM = 16
# For each group of blocks: channels; parts of the first 1x1, the depthwise and the last 1x1 convolution; expansion;
# reduction of squeeze-and-excite, 0 for none; stride.
GROUPS = (
    ((24, 2, 1, 2, 6, 0, 1), (24, 2, 1, 2, 3, 0, 1)),
    ((40, 1, 3, 1, 6, 2, 2), *((40, 2, 2, 2, 6, 2, 1),) * 3),
    ((80, 1, 3, 2, 6, 4, 2), *((80, 1, 2, 2, 6, 4, 1),) * 2),
    ((120, 2, 3, 2, 6, 2, 1), *((120, 2, 4, 2, 3, 2, 1),) * 2,
     (200, 1, 5, 1, 6, 2, 2), *((200, 1, 4, 2, 6, 2, 1),) * 2),
)  # fmt: skip
EPSILON = 1.001e-5  # PyTorch's, as near as cuDNN allows


def mixfacenet(name, embedding_size=512, activation="own", padding="symmetric", dropout=0.0, pixel_mean=127.5,
               pixel_std=127.5, image_size=(112, 112)):  # fmt: skip
    """Builds the embedder: MixFaceNet-XS or MixFaceNet-S.

    With 'own' and embedding size 512: 1,040,866 or 3,073,110 parameters without the statistics of the normalisations;
    76.6 or 218.1 M multiply-adds. The paper counts two FLOPs for each multiply-add and adds those of all other layers:
    161.9 and 451.7 MFLOPs.

    Args:
        name: a key of `SIZES`.
        embedding_size: length D of the output vector.
        activation: 'own' is PReLU at the start, in the first group and at the end, and swish in the other groups, as in
            the paper; 'prelu', 'relu', 'relu6' or 'leaky_relu' replaces both.
        padding: 'same' or 'symmetric' (as in PyTorch); see `facelib.models.blocks.Blocks`.
        dropout: rate before the embedding convolution.
        pixel_mean: of the input scaling, in pixel units; one number, or three in RGB order.
        pixel_std: of the input scaling, in pixel units; one number, or three in RGB order.
        image_size: height and width, multiples of 16.

    Returns:
        `keras.Model`: float `[N, H, W, 3]` raw RGB 0..255 -> float32 `[N, D]`, *before* L2 normalisation.
    """
    if name not in SIZES:
        raise ValueError(f"name is one of {', '.join(SIZES)}. Received: name={name!r}")
    if padding not in ("same", "symmetric"):
        raise ValueError(f"padding is 'same' or 'symmetric'. Received: padding={padding!r}")
    if any(side % 16 for side in image_size):
        raise ValueError(f"image_size needs multiples of 16. Received: image_size={image_size!r}")
    width, last = SIZES[name]
    net = _Mix(activation, padding == "symmetric")
    inputs = keras.Input((*image_size, 3), name="input_1")
    x = PixelScale(pixel_mean, pixel_std, name="pixel_scale")(inputs)
    x = net.conv(x, divisible(STEM * width), 3, 2, "stem_conv")
    x = net.block(x, x.shape[-1], (1, 1, 1), 1, 0, 1, "stem_block")
    for group, blocks in enumerate(GROUPS, start=1):
        net.is_start = group == 1
        for block, (channels, *parts, expansion, reduction, stride) in enumerate(blocks, start=1):
            block_name = f"group{group}_block{block}"
            x = net.block(x, divisible(channels * width), parts, expansion, reduction, stride, block_name)
    net.is_start = True
    x = net.conv(x, last, 1, 1, "head_conv")
    x = Blocks("relu", "same").global_depthwise(x, "gdc")
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = net.conv(x, embedding_size, 1, 1, "embedding_conv", is_linear=True)
    return keras.Model(inputs, embedding_output(x), name=name)


class _Mix:
    """Attributes:
    is_start: whether 'own' is PReLU now, not swish.
    """

    def __init__(self, activation, is_symmetric):
        self.activation = activation
        self.is_symmetric = is_symmetric
        self.is_start = True

    def block(self, x, channels, num_parts, expansion, reduction, stride, name):
        """An inverted residual, its convolutions in parts; the input is added if the shapes agree."""
        middle, y = expansion * x.shape[-1], x
        first, depthwise, last = num_parts
        if expansion > 1:
            y = self._activate(self._pointwise(y, middle, first, f"{name}_expand"), f"{name}_expand_act")
        y = self._activate(self._mixed_depthwise(y, depthwise, stride, f"{name}_dw"), f"{name}_dw_act")
        if reduction:
            y = self._squeeze(y, middle // (expansion * reduction), f"{name}_se")
        y = self._pointwise(y, channels, last, f"{name}_project")
        if stride == 1 and x.shape[-1] == channels:
            y = layers.Add(name=f"{name}_add")([x, y])
        return y

    def conv(self, x, channels, kernel, stride, name, is_linear=False):
        x, padding = self._pad(x, kernel, stride, name)
        x = layers.Conv2D(
            channels, kernel, stride, padding=padding, use_bias=False, kernel_initializer="he_uniform", name=name
        )(x)
        x = _norm(x, name)
        return x if is_linear else self._activate(x, f"{name}_act")

    def _pointwise(self, x, channels, num_parts, name):
        """1x1 convolutions: each part of the outputs sees the same part of the inputs."""
        sizes = _sizes(channels, num_parts)
        return self._in_parts(x, num_parts, name, lambda y, part, its: self.conv(y, sizes[part], 1, 1, its, True))

    def _mixed_depthwise(self, x, num_parts, stride, name):
        """Depthwise convolutions: 3x3 for the first part of the channels, 5x5 for the second, and so on."""

        def compute(y, part, its):
            kernel = 3 + 2 * part
            y, padding = self._pad(y, kernel, stride, its)
            fan = keras.initializers.RandomUniform(-((6.0 / kernel**2) ** 0.5), (6.0 / kernel**2) ** 0.5)
            y = layers.DepthwiseConv2D(
                kernel, stride, padding=padding, use_bias=False, depthwise_initializer=fan, name=its
            )(y)  # fmt: skip
            return _norm(y, its)

        return self._in_parts(x, num_parts, name, compute)

    def _in_parts(self, x, num_parts, name, compute):
        if num_parts == 1:
            return compute(x, 0, name)
        limits = [0, *accumulate(_sizes(x.shape[-1], num_parts))]
        done = []
        for part, (start, stop) in enumerate(pairwise(limits)):
            its = f"{name}_part{part + 1}"
            done.append(compute(ChannelSlice(start, stop, name=f"{its}_slice")(x), part, its))
        return layers.Concatenate(name=f"{name}_parts")(done)

    def _squeeze(self, x, channels, name):
        y = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
        y = layers.Conv2D(channels, 1, kernel_initializer="he_uniform", name=f"{name}_down")(y)
        y = self._activate(y, f"{name}_down_act")
        y = layers.Conv2D(x.shape[-1], 1, kernel_initializer="he_uniform", name=f"{name}_up")(y)
        y = layers.Activation("sigmoid", name=f"{name}_gate")(y)
        return layers.Multiply(name=f"{name}_scale")([x, y])

    def _activate(self, x, name):
        if self.activation == "own" and not self.is_start:
            return layers.Activation("swish", name=name)(x)
        return activation_layer("prelu" if self.activation == "own" else self.activation, name)(x)

    def _pad(self, x, kernel, stride, name):
        if self.is_symmetric and stride == 2:
            return layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x), "valid"
        return x, "same"


def _sizes(channels, num_parts):
    """Channels of each part: equal, and what is left over in the first."""
    each = channels // num_parts
    return [channels - each * (num_parts - 1), *[each] * (num_parts - 1)]


def _norm(x, name):
    return FusedBatchNorm(epsilon=EPSILON, name=f"{name}_bn")(x)
