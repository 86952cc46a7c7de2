"""Builds the backbone that a recipe names (`build_backbone`), and adapts the networks of keras.applications.

Our own networks are beside this file: mobilefacenet.py, my_mobilenet.py, iresnet.py, ghostfacenet.py, edgeface.py,
mixfacenet.py.
"""

from pathlib import Path

import facelib  # noqa: F401  before keras: it settles the backend

# isort: split
import keras
from keras import layers

from facelib.errors import FaceError
from facelib.files import require_file
from facelib.models.blocks import Blocks, embedding_output
from facelib.models.layers import FusedBatchNorm, PixelScale, activation
from facelib.models.registry import APPLICATIONS, IMPORTED, ModelConfig, build_network
from facelib.models.settings import apply_settings
from facelib.sidecar import require_raw_pixels


def build_backbone(model: ModelConfig) -> keras.Model:
    """Builds the embedder that the [model] table of a recipe describes, with random weights or those of its file.

    Returns:
        Keras model: float raw RGB pixels [N, H, W, 3] -> float32 [N, D], before L2 normalisation.

    Raises:
        FaceError: an option that this backbone does not have, or a file that holds no embedder of raw pixels.
    """
    if model.backbone == IMPORTED:
        return open_imported(model.source)
    from edgeface import edgeface
    from ghostfacenet import ghostfacenet_v1
    from iresnet import iresnet
    from mixfacenet import mixfacenet
    from mobilefacenet import mbf, mobilefacenet, mobilefacenet_s
    from my_mobilenet import my_mobilenet

    families = (application, edgeface, iresnet, mixfacenet)
    builders = (*families, mobilefacenet, mobilefacenet_s, my_mobilenet, mbf, ghostfacenet_v1)
    net = build_network(model, {builder.__name__: builder for builder in builders})
    apply_settings(net, model)
    return net


def open_imported(source: str) -> keras.Model:
    """The embedder in an .h5, with its weights.

    Raises:
        FaceError: no embedder, or one that does not take raw RGB pixels.
    """
    from facelib.runtimes.keras_h5 import check_model, load_model

    if not source:
        raise FaceError(
            "model.backbone = 'imported' needs the .h5 of a net. Received no file: set model.from = 'X.h5'."
        )
    path = require_file(Path(source), "model")
    require_raw_pixels(path)
    net = load_model(path)
    check_model(net, path)
    net.trainable = True
    return net


def application(name, embedding_size=512, activation="prelu", output_layer="GDC", width=1.0, dropout=0.0,
                pixel_mean=127.5, pixel_std=127.5, image_size=(112, 112)):  # fmt: skip
    """Builds a network of keras.applications as an embedder, with random weights.

    `FusedBatchNorm` replaces its batch normalisation: it trains faster, and freezing can fold it. The input is raw
    pixels, by default scaled to [-1, 1], which all of these networks expect. At 112x112 the last map is 4x4; in
    MobileNet 3x3.

    Args:
        name: one of `APPLICATIONS`.
        embedding_size: length D of the output vector.
        activation: 'own' keeps the activations of the network; prelu, relu, relu6 or leaky_relu replaces them on all
            maps, but not inside squeeze-and-excite.
        output_layer: how the last map becomes a vector, with the choices of leondgarse/Keras_insightface. 'GDC': a
            global depthwise convolution and a 1x1 convolution. 'E': BN and a fully connected layer. 'GAP': BN, global
            average pooling and a fully connected layer. Each ends in BN.
        width: `alpha` of the MobileNets; 1 for the other networks.
        dropout: rate before the last layer.
        pixel_mean: of the input scaling, in pixel units; one number, or three in RGB order.
        pixel_std: of the input scaling, in pixel units; one number, or three in RGB order.
        image_size: height and width in pixels.
    """
    if name not in APPLICATIONS:
        raise ValueError(f"name is one of {', '.join(APPLICATIONS)}. Received: name={name!r}")
    if output_layer not in _OUTPUTS:
        raise ValueError(f"output_layer is one of {', '.join(_OUTPUTS)}. Received: output_layer={output_layer!r}")
    options = {"alpha": width} if name.startswith("MobileNet") else {}
    if width != 1.0 and not options:
        raise FaceError(
            f"Among the keras.applications networks, only the MobileNets support model.width. Received: {width:g} for "
            f"{name}. Leave model.width out."
        )
    if name.startswith(("MobileNetV3", "EfficientNetV2")):
        options["include_preprocessing"] = False
    inputs = keras.Input((*image_size, 3), name="input_1")
    scaled = PixelScale(pixel_mean, pixel_std, name="pixel_scale")(inputs)
    net = getattr(keras.applications, name)(input_tensor=scaled, include_top=False, weights=None, **options)
    scaling = [layer.name for layer in net.layers if isinstance(layer, layers.Rescaling | layers.Normalization)]
    if scaling:  # EfficientNet V1 has such layers and no option to leave them out: pixels would be scaled twice
        raise ValueError(f"keras.applications.{name} scales its input, after PixelScale did: {scaling}")
    net = keras.models.clone_model(
        net, clone_function=lambda layer: _replace_layer(layer, activation), call_function=_call
    )
    x = _OUTPUTS[output_layer](net.output, embedding_size, dropout)
    return keras.Model(net.inputs[0], embedding_output(x), name=name.lower())


_ACTIVATIONS = ("relu", "relu6", "swish", "silu", "hard_swish", "hard_silu")


def _replace_layer(layer, kind):
    """A new layer with the configuration of `layer`, or the layer that replaces it here."""
    config = layer.get_config()
    if isinstance(layer, layers.BatchNormalization):
        return FusedBatchNorm(momentum=0.9, epsilon=config["epsilon"], name=layer.name)
    if isinstance(layer, layers.GlobalAveragePooling2D):
        config["keepdims"] = True  # what follows takes both shapes; without, a GPU fetches the shape of the gradient
    is_named = isinstance(layer, layers.Activation) and config["activation"] in _ACTIVATIONS
    is_activation = is_named or isinstance(layer, layers.ReLU)
    if kind != "own" and is_activation and tuple(layer.input.shape[1:3]) != (1, 1):
        return activation(kind, layer.name)
    return layer.__class__.from_config(config)


def _call(layer, *args, mask=None, **kwargs):
    """Calls a layer without the mask that Keras passes to batch normalisation: images have none.

    MobileNetV3 computes `x + 3.0` and `x * (1 / 6)` outside layers. Keras cannot load these operations from an .h5, so
    a Rescaling layer replaces each.
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
    """A fully connected layer over the whole map, built as a convolution of the map's size so that BN can be folded."""
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Conv2D(
        embedding_size, (x.shape[1], x.shape[2]), use_bias=use_bias, kernel_initializer="glorot_normal",
        name="embedding_conv",
    )(x)  # fmt: skip
    return FusedBatchNorm(name="embedding_bn")(x)


_OUTPUTS = {"GDC": _gdc, "E": _fully_connected, "GAP": _mean}
