"""Convolution blocks of the mobile backbones, with one activation and one padding rule for a whole network."""

import math

import keras
from keras import layers

from facelib.models.layers import FusedBatchNorm, SwapHalves, activation


class Blocks:
    """Builds convolution + BN + activation. All tensors are NHWC; convolutions carry no bias.

    Args:
        activation: prelu, relu, relu6 or leaky_relu, after every block that is not linear.
        padding: at stride 2 on even maps 'same', TensorFlow's rule, pads 0 before and 1 after; 'symmetric' pads 1 and
            1, as PyTorch does and the K210 requires.
        bn_momentum: share of the moving statistics that each step keeps.
    """

    def __init__(self, activation, padding, bn_momentum=0.9):
        if padding not in ("same", "symmetric"):
            raise ValueError(f"padding is 'same' or 'symmetric'. Received: padding={padding!r}")
        self.activation = activation
        self.padding = padding
        self.bn_momentum = bn_momentum

    def conv(self, x, filters, kernel, stride, name, linear=False):
        """A `kernel` x `kernel` convolution, BN, and the activation unless `linear`."""
        x, padding = self._pad(x, kernel, stride, name)
        x = layers.Conv2D(
            filters, kernel, stride, padding=padding, use_bias=False, kernel_initializer="he_normal", name=name
        )(x)
        return self._finish(x, name, linear)

    def depthwise(self, x, stride, name):
        """A 3x3 depthwise convolution, BN, activation."""
        x, padding = self._pad(x, 3, stride, name)
        return self._finish(self._depthwise_conv(x, 3, stride, padding, name), name, linear=False)

    def global_depthwise(self, x, name, linear=True):
        """GDConv: one weight per position and channel instead of average pooling (MobileFaceNets, section 3.1)."""
        kernel = (x.shape[1], x.shape[2])
        return self._finish(self._depthwise_conv(x, kernel, 1, "valid", name), name, linear)

    def paired_depthwise(self, x, name):
        """A 3x3 convolution in groups of the channels c and c + C/2, BN, activation.

        It is built as the sum of two depthwise convolutions: one of each channel, one of the other of its group.
        """
        swapped = SwapHalves(name=f"{name}_swap")(x)
        same = self._depthwise_conv(x, 3, 1, "same", name, inputs_each=2)
        other = self._depthwise_conv(swapped, 3, 1, "same", f"{name}_other", inputs_each=2)
        return self._finish(layers.Add(name=f"{name}_sum")([same, other]), name, linear=False)

    def bottleneck(self, x, expansion, filters, stride, name):
        """`inverted` with `expansion` times the channels of the input in the middle; without the first 1x1 for 1."""
        return self.inverted(x, expansion * x.shape[-1] if expansion > 1 else None, filters, stride, name)

    def inverted(self, x, middle, filters, stride, name):
        """An inverted residual: 1x1 to `middle` channels, 3x3 depthwise, linear 1x1 to `filters`.

        Without a first 1x1 if `middle` is None. The input is added if the shapes agree (MobileNetV2, figure 4).
        """
        y = self.conv(x, middle, 1, 1, f"{name}_expand") if middle else x
        y = self.depthwise(y, stride, f"{name}_dw")
        y = self.conv(y, filters, 1, 1, f"{name}_project", linear=True)
        if stride == 1 and x.shape[-1] == filters:
            y = layers.Add(name=f"{name}_add")([x, y])
        return y

    def _depthwise_conv(self, x, kernel, stride, padding, name, inputs_each=1):
        # Keras's he_normal counts all C input channels, but a depthwise filter sees one.
        fan_in = inputs_each * (math.prod(kernel) if isinstance(kernel, tuple) else kernel * kernel)
        he_normal = keras.initializers.RandomNormal(stddev=math.sqrt(2.0 / fan_in))
        return layers.DepthwiseConv2D(
            kernel, stride, padding=padding, use_bias=False, depthwise_initializer=he_normal, name=name
        )(x)

    def _pad(self, x, kernel, stride, name):
        if self.padding == "symmetric" and kernel == 3 and stride == 2:
            return layers.ZeroPadding2D(1, name=f"{name}_pad")(x), "valid"
        return x, "same"

    def _finish(self, x, name, linear):
        x = FusedBatchNorm(momentum=self.bn_momentum, name=f"{name}_bn")(x)
        return x if linear else activation(self.activation, f"{name}_act")(x)


def embedding_output(x):
    """The output of a model: [N, 1, 1, D] -> float32 [N, D] under every dtype policy, before L2 normalisation."""
    x = layers.Flatten(name="flatten")(x)
    return layers.Activation("linear", dtype="float32", name="embeddings")(x)


def divisible(channels, divisor=8):
    """The multiple of `divisor` nearest to `channels`: at least `divisor`, and at least 90 % of `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
