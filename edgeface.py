"""EdgeFace: EdgeNeXt with low-rank linear layers and an embedding in place of the classifier.

Four groups of blocks at a quarter to a 32nd of the image size. Most blocks are a large depthwise convolution,
normalisation over channels and two 1x1 convolutions with four times the channels between them. The last block of groups
2 to 4 has attention between channels and depthwise convolutions over parts of the channels. A low-rank linear layer is
two 1x1 convolutions without an activation between them.

The structure is that of otroshi/edgeface, backbones/timmfr.py, over huggingface/pytorch-image-models,
timm/models/edgenext.py. There, one linear layer gives queries, keys and values; here three give the same.

References: George et al., EdgeFace, https://arxiv.org/abs/2307.01838; Maaz et al., EdgeNeXt,
https://arxiv.org/abs/2206.10589.
"""

from dataclasses import dataclass
from itertools import pairwise

import facelib  # noqa: F401  before keras: it settles the backend

# isort: split
import keras
from keras import layers

from facelib.models.attention import ChannelNorm, ChannelScale, CrossCovariance, FourierPositions
from facelib.models.blocks import embedding_output
from facelib.models.layers import ChannelSlice, PixelScale
from facelib.models.layers import activation as activation_layer

# For each group: size of the depthwise kernels, parts of the channels in the attention block.
KERNELS, PARTS = (3, 5, 7, 9), (2, 2, 3, 4)
EXPANSION = 4


@dataclass(frozen=True)
class Size:
    """One net of the family.

    Attributes:
        channels: of each group.
        blocks: of each group.
        heads: of each attention block.
        rank_ratio: rank of a low-rank layer, as a share of the smaller one of its two numbers of channels (gamma in the
            paper); 0 for plain linear layers.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    heads: int
    rank_ratio: float = 0.0


SIZES = {
    "edgeface_xxs": Size((24, 48, 88, 168), (2, 2, 6, 2), 4),
    "edgeface_xs": Size((32, 64, 100, 192), (3, 3, 9, 3), 4, 0.6),
    "edgeface_s": Size((48, 96, 160, 304), (3, 3, 9, 3), 8, 0.5),
}


def edgeface(name, embedding_size=512, activation="own", dropout=0.0, pixel_mean=127.5, pixel_std=127.5,
             image_size=(112, 112)):  # fmt: skip
    """Builds the embedder: EdgeFace-XXS, EdgeFace-XS (gamma 0.6) or EdgeFace-S (gamma 0.5).

    With 'own' and embedding size 512: 1,244,744, 1,770,492 or 3,652,520 parameters; 47.3, 76.9 or 152.9 M
    multiply-adds. The paper counts two FLOPs for each multiply-add: 94.72, 154.00 and 306.12 MFLOPs.

    Args:
        name: a key of `SIZES`.
        embedding_size: length D of the output vector.
        activation: 'own' is GELU, as in the paper; 'prelu', 'relu', 'relu6' or 'leaky_relu' replaces it.
        dropout: rate before the embedding layer.
        pixel_mean: of the input scaling, in pixel units; one number, or three in RGB order.
        pixel_std: of the input scaling, in pixel units; one number, or three in RGB order.
        image_size: height and width, multiples of 16 from 32 on.

    Returns:
        `keras.Model`: float `[N, H, W, 3]` raw RGB 0..255 -> float32 `[N, D]`, *before* L2 normalisation.
    """
    if name not in SIZES:
        raise ValueError(f"name is one of {', '.join(SIZES)}. Received: name={name!r}")
    if any(side % 16 or side < 32 for side in image_size):
        raise ValueError(f"image_size needs multiples of 16 from 32 on. Received: image_size={image_size!r}")
    size = SIZES[name]
    net = _Edge(activation, size)
    inputs = keras.Input((*image_size, 3), name="input_1")
    x = PixelScale(pixel_mean, pixel_std, name="pixel_scale")(inputs)
    x = net.conv(x, size.channels[0], 4, "stem_conv")
    x = _norm(x, "stem_norm")
    for group, (channels, num_blocks) in enumerate(zip(size.channels, size.blocks, strict=True)):
        if group:
            x = _norm(x, f"group{group + 1}_down_norm")
            x = net.conv(x, channels, 2, f"group{group + 1}_down")
        for block in range(1, num_blocks + 1):
            block_name = f"group{group + 1}_block{block}"
            if group and block == num_blocks:
                x = net.attention_block(x, PARTS[group], group == 1, block_name)
            else:
                x = net.conv_block(x, KERNELS[group], block_name)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="head_mean")(x)
    x = _norm(x, "head_norm")
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = net.linear(x, embedding_size, "embedding")
    return keras.Model(inputs, embedding_output(x), name=name)


class _Edge:
    def __init__(self, activation, size):
        self.activation = activation
        self.size = size

    def conv(self, x, channels, stride, name):
        """A convolution of windows side by side."""
        return layers.Conv2D(channels, stride, stride, kernel_initializer=_normal(), name=name)(x)

    def linear(self, x, channels, name):
        return self.linears(x, channels, (name,))[0]

    def linears(self, x, channels, names):
        """Linear layers of one input, as 1x1 convolutions. If they are low-rank, they share the first factor.

        Together they are one layer with all of their outputs; the rank is that of this layer.
        """
        ratio, initialiser = self.size.rank_ratio, _normal
        if ratio:
            rank = max(2, int(min(x.shape[-1], channels * len(names)) * ratio))
            x = layers.Conv2D(
                rank, 1, use_bias=False, kernel_initializer=_uniform(), name=f"{'_'.join(names)}_rank"
            )(x)  # fmt: skip
            initialiser = _uniform
        return [layers.Conv2D(channels, 1, kernel_initializer=initialiser(), name=name)(x) for name in names]

    def conv_block(self, x, kernel, name):
        y = _depthwise(x, kernel, f"{name}_dw")
        return self._add_mlp(x, y, name)

    def attention_block(self, x, num_parts, has_positions, name):
        """Depthwise convolutions over parts of the channels, attention, two linear layers."""
        y = _mixed_depthwise(x, num_parts, name)
        if has_positions:
            y = FourierPositions(name=f"{name}_positions")(y)
        z = _norm(y, f"{name}_attention_norm")
        z = self.linears(z, x.shape[-1], [f"{name}_{part}" for part in ("query", "key", "value")])
        z = CrossCovariance(self.size.heads, name=f"{name}_attention")(z)
        z = self.linear(z, x.shape[-1], f"{name}_attention_project")
        z = ChannelScale(name=f"{name}_attention_scale")(z)
        y = layers.Add(name=f"{name}_attention_add")([y, z])
        return self._add_mlp(x, y, name)

    def _add_mlp(self, x, y, name):
        """x + two linear layers of the normalised y."""
        channels = x.shape[-1]
        y = self.linear(_norm(y, f"{name}_norm"), EXPANSION * channels, f"{name}_expand")
        y = self._activate(y, f"{name}_act")
        y = self.linear(y, channels, f"{name}_project")
        y = ChannelScale(name=f"{name}_scale")(y)
        return layers.Add(name=f"{name}_add")([x, y])

    def _activate(self, x, name):
        if self.activation == "own":
            return layers.Activation("gelu", name=name)(x)
        return activation_layer(self.activation, name)(x)


def _mixed_depthwise(x, num_parts, name):
    """The parts of the channels, each but the last through a 3x3 depthwise convolution of it plus the part before it.

    The first parts have equal numbers of channels, rounded up.
    """
    width = -(-x.shape[-1] // num_parts)
    limits = [min(x.shape[-1], part * width) for part in range(num_parts + 1)]
    parts = [
        ChannelSlice(start, stop, name=f"{name}_part{part}")(x)
        for part, (start, stop) in enumerate(pairwise(limits), start=1)
    ]
    done: list = []
    for part, y in enumerate(parts[:-1], start=1):
        y = layers.Add(name=f"{name}_part{part}_add")([done[-1], y]) if done else y
        done.append(_depthwise(y, 3, f"{name}_part{part}_dw"))
    return layers.Concatenate(name=f"{name}_parts")([*done, parts[-1]])


def _depthwise(x, kernel, name):
    return layers.DepthwiseConv2D(kernel, padding="same", depthwise_initializer=_normal(), name=name)(x)


def _norm(x, name):
    return ChannelNorm(name=name)(x)


def _normal():
    """The first values of timm's convolutions and linear layers; a new one for each kernel."""
    return keras.initializers.TruncatedNormal(stddev=0.02)


def _uniform():
    """The first values of EdgeFace's low-rank layers, PyTorch's own."""
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
