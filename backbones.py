"""The nets of keras.applications as embedders. Names Keras."""

import keras
from keras import layers

from facelib.errors import FaceError
from facelib.models.blocks import Blocks, embedding_output
from facelib.models.layers import FusedBatchNorm, PixelScale, activation
from facelib.models.registry import APPLICATIONS


def application(name, embedding_size=512, activation="prelu", output_layer="GDC", width=1.0, dropout=0.0):
    """A net of keras.applications as an embedder, with random weights.

    Its batch normalisations become `FusedBatchNorm`, which trains faster and folds when frozen. Its input is raw
    pixels; all of these nets take [-1, 1]. At 112x112 its last map is 4x4, of MobileNet 3x3.

    Args:
        name: one of `APPLICATIONS`.
        embedding_size: length D of the output vector.
        activation: 'own' keeps the net's; prelu | relu | relu6 | leaky_relu replace them on all maps, but not inside
            squeeze-and-excite.
        output_layer: how the map becomes a vector (the choices of leondgarse/Keras_insightface). 'GDC' = a global
            depthwise convolution and a 1x1 one, 'E' = BN and a fully connected layer, 'GAP' = BN, the mean and a
            fully connected layer; each ends in BN.
        width: `alpha` of the MobileNets; the others have 1.
        dropout: rate before the last layer.
    """
    if name not in APPLICATIONS:
        raise ValueError(f"name is one of {', '.join(APPLICATIONS)}. Received: name={name!r}")
    if output_layer not in _OUTPUTS:
        raise ValueError(f"output_layer is one of {', '.join(_OUTPUTS)}. Received: output_layer={output_layer!r}")
    options = {"alpha": width} if name.startswith("MobileNet") else {}
    if width != 1.0 and not options:
        raise FaceError(
            f"model.width of a keras.applications net is for the MobileNets. Received: {width:g} for {name}."
        )
    if name.startswith(("MobileNetV3", "EfficientNetV2")):
        options["include_preprocessing"] = False
    inputs = keras.Input((112, 112, 3), name="input_1")
    scaled = PixelScale(127.5, 127.5, name="pixel_scale")(inputs)
    net = getattr(keras.applications, name)(input_tensor=scaled, include_top=False, weights=None, **options)
    net = keras.models.clone_model(net, clone_function=lambda layer: _ours(layer, activation), call_function=_call)
    x = _OUTPUTS[output_layer](net.output, embedding_size, dropout)
    return keras.Model(net.inputs[0], embedding_output(x), name=name.lower())


_ACTIVATIONS = ("relu", "relu6", "swish", "silu", "hard_swish", "hard_silu")


def _ours(layer, kind):
    """A fresh copy of `layer`, or what stands in its place here."""
    config = layer.get_config()
    if isinstance(layer, layers.BatchNormalization):
        return FusedBatchNorm(momentum=0.9, epsilon=config["epsilon"], name=layer.name)
    is_named = isinstance(layer, layers.Activation) and config["activation"] in _ACTIVATIONS
    is_activation = is_named or isinstance(layer, layers.ReLU)
    if kind != "own" and is_activation and tuple(layer.input.shape[1:3]) != (1, 1):
        return activation(kind, layer.name)
    return layer.__class__.from_config(config)


def _call(layer, *args, mask=None, **kwargs):
    """Without the mask that Keras's batch normalisation was called with: images have none.

    MobileNetV3 writes `x + 3.0` and `x * (1 / 6)` between its layers; an .h5 with these cannot be read again.
    """
    if isinstance(layer, keras.Layer):
        return layer(*args, **kwargs)
    x, number = args
    scale, offset = {"Add": (1.0, number), "Multiply": (number, 0.0)}[type(layer).__name__]
    return layers.Rescaling(scale, offset, name=layer.name)(x)


def _gdc(x, embedding_size, dropout):
    x = Blocks("relu", "same").global_depthwise(x, "gdc")
    return _last(x, embedding_size, dropout, use_bias=False)


def _fully_connected(x, embedding_size, dropout):
    x = FusedBatchNorm(name="output_bn")(x)
    return _last(x, embedding_size, dropout, use_bias=True)


def _mean(x, embedding_size, dropout):
    x = FusedBatchNorm(name="output_bn")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="output_mean")(x)
    return _last(x, embedding_size, dropout, use_bias=True)


def _last(x, embedding_size, dropout, use_bias):
    """A fully connected layer over the whole map, as a convolution of the map's size, so that its BN folds into it."""
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Conv2D(
        embedding_size, (x.shape[1], x.shape[2]), use_bias=use_bias, kernel_initializer="glorot_normal",
        name="embedding_conv",
    )(x)  # fmt: skip
    return FusedBatchNorm(name="embedding_bn")(x)


_OUTPUTS = {"GDC": _gdc, "E": _fully_connected, "GAP": _mean}
