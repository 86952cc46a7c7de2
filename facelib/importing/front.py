"""Rebuilds a Keras model as one of ours: raw RGB pixels in front, layers of ours inside, the embedding at the end.

Nets within the net are opened, so that every layer is seen by the tools that come after: int8, quantisation-aware
training, folding. Batch normalisation and PReLU become `FusedBatchNorm` and `PReLU`, which train faster and convert
well; a separable convolution becomes its two convolutions. Weights are copied, and the function stays the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import layers

from facelib.errors import FaceError
from facelib.model_input import PIXEL_SCALINGS
from facelib.models.layers import FusedBatchNorm, PixelScale, PReLU

_OURS = ("input_1", "pixel_scale", "rgb_to_bgr", "flatten", "embeddings")  # names of layers that this module adds
_COPIED = {"dtype": "float32"}  # in place of the dtype policy of the original


def find_image(model: keras.Model, name: str) -> keras.KerasTensor:
    """The input of a net that takes the faces, [N, H, W, 3]; other inputs may take labels.

    Raises:
        FaceError: none, or several.
    """
    found = [tensor for tensor in model.inputs if len(tensor.shape) == 4 and tensor.shape[-1] == 3]
    if len(found) != 1:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in model.inputs)
        raise FaceError(
            f"A face net must have one input, an image [N, H, W, 3]. '{name}' takes {shapes}. Export the net to ONNX "
            "where it was trained (tf2onnx), and import the ONNX file."
        )
    return found[0]


def put_in_front(model: keras.Model, pixels: str, colour: str, size: tuple[int, int], name: str) -> keras.Model:
    """The net as one of ours, with all its outputs.

    Args:
        model: of another system.
        pixels: scaling that it takes, a key of `PIXEL_SCALINGS`.
        colour: order of the channels that it takes, 'rgb' | 'bgr'.
        size: (height, width) in pixels, where it leaves that open.
        name: of the file, for errors.

    Returns: Keras model, raw RGB pixels 'input_1' -> the outputs of the original.
    """
    image = find_image(model, name)
    height, width = (given or wanted for given, wanted in zip(image.shape[1:3], size, strict=True))
    inputs = keras.Input((height, width, 3), name="input_1")
    mean, std = PIXEL_SCALINGS[pixels]
    x = PixelScale(mean, std, name="pixel_scale")(inputs)
    if colour == "bgr":
        swap = layers.Conv2D(3, 1, use_bias=False, trainable=False, name="rgb_to_bgr")
        x = swap(x)
    copier = _Copier()
    others = [keras.Input(tensor.shape[1:]) for tensor in model.inputs if tensor is not image]
    given = iter(others)
    outputs = copier.run(model, [x if tensor is image else next(given) for tensor in model.inputs])
    copier.copy_weights()
    if colour == "bgr":
        swap.kernel.assign(np.eye(3)[::-1].reshape(1, 1, 3, 3))
    return keras.Model([inputs, *others], outputs, name=model.name)


def end_with(model: keras.Model, embedding: keras.KerasTensor) -> keras.Model:
    """The net from 'input_1' to 'embeddings', float32 [N, D]."""
    if len(embedding.shape) != 2:
        embedding = layers.Flatten(name="flatten")(embedding)
    outputs = layers.Activation("linear", dtype="float32", name="embeddings")(embedding)
    return keras.Model(model.inputs[0], outputs, name=model.name)


@dataclass
class _Copier:
    """Copies the layers of a net, each once, however often it is called.

    Attributes:
        copies: what takes the place of each layer, by the identity of the layer.
        names: that are taken.
        values: (new layer, its weights), set once all are built.
    """

    copies: dict[int, Callable] = field(default_factory=dict)
    names: set[str] = field(default_factory=lambda: set(_OURS))
    values: list[tuple[keras.Layer, list[np.ndarray]]] = field(default_factory=list)

    def run(self, model: keras.Model, inputs: list) -> list:
        """The outputs of a copy of `model`, nets in it opened."""
        function = model._functional if isinstance(model, keras.Sequential) else model
        outputs = function._run_through_graph(inputs, operation_fn=lambda layer: layer, call_fn=self._call)
        return keras.tree.flatten(outputs)

    def copy_weights(self) -> None:
        """Gives the new layers, which are built now, the weights of the old ones."""
        for layer, values in self.values:
            layer.set_weights(values)

    def _call(self, layer, *args, **kwargs):
        if isinstance(layer, keras.Model):
            outputs = self.run(layer, keras.tree.flatten(args[0]))
            return outputs if len(outputs) > 1 else outputs[0]
        if id(layer) not in self.copies:
            self.copies[id(layer)] = self._copy(layer)
        kwargs.pop("mask", None)
        return self.copies[id(layer)](*args, **kwargs)

    def _copy(self, layer) -> Callable:
        if not isinstance(layer, keras.Layer):  # an operation such as x + y
            return layer
        if isinstance(layer, layers.BatchNormalization) and _is_of_maps(layer):
            return self._norm(layer)
        if isinstance(layer, layers.PReLU) and _is_per_channel(layer):
            return self._new(PReLU, layer, [layer.alpha.numpy().reshape(-1)])
        if isinstance(layer, layers.SeparableConv2D):
            return self._separable(layer)
        if isinstance(layer, layers.Activation) and layer.activation in _RELUS:
            return self._new(layers.ReLU, layer, [], max_value=_RELUS[layer.activation])
        config = {**layer.get_config(), **_COPIED, "name": self._name(layer.name)}
        return self._keep(type(layer).from_config(config), layer.get_weights())

    def _norm(self, layer) -> Callable:
        gamma = layer.gamma.numpy() if layer.scale else np.ones(layer.moving_mean.shape)
        beta = layer.beta.numpy() if layer.center else np.zeros(layer.moving_mean.shape)
        values = [gamma, beta, layer.moving_mean.numpy(), layer.moving_variance.numpy()]
        return self._new(FusedBatchNorm, layer, values, momentum=layer.momentum, epsilon=layer.epsilon)

    def _separable(self, layer) -> Callable:
        shared = {key: getattr(layer, key) for key in ("strides", "padding", "dilation_rate")}
        depthwise = layers.DepthwiseConv2D(
            layer.kernel_size, depth_multiplier=layer.depth_multiplier, use_bias=False,
            name=self._name(f"{layer.name}_dw"), **shared,
        )  # fmt: skip
        pointwise = layers.Conv2D(
            layer.filters, 1, use_bias=layer.use_bias, activation=layer.activation, name=self._name(layer.name)
        )
        first, *rest = layer.get_weights()
        self._keep(depthwise, [first])
        self._keep(pointwise, rest)
        return lambda x, **_: pointwise(depthwise(x))

    def _new(self, kind: type, old, values: list, **options) -> Callable:
        return self._keep(kind(name=self._name(old.name), trainable=old.trainable, **options), values)

    def _keep(self, layer: keras.Layer, values: list) -> keras.Layer:
        if values:
            self.values.append((layer, values))
        return layer

    def _name(self, name: str) -> str:
        """`name`, or one like it that no other layer has."""
        free = name
        while free in self.names:
            free = f"{free}_of_net"
        self.names.add(free)
        return free


_RELUS = {keras.activations.relu: None, keras.activations.relu6: 6.0}


def _is_of_maps(layer) -> bool:
    """Whether a normalisation is over the channels of [N, H, W, C]."""
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    return len(layer.input.shape) == 4 and axis in (-1, 3)


def _is_per_channel(layer) -> bool:
    """Whether our PReLU computes the same: one slope a channel of [N, H, W, C], each at most 1."""
    alpha = layer.alpha.numpy()
    return len(layer.input.shape) == 4 and alpha.size == alpha.shape[-1] and bool((alpha <= 1).all())
