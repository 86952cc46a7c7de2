"""Copies the weights of the steps of an ONNX model into a Keras model, and restores batch normalisation's statistics.

An exporter folds a trained normalisation into the convolution before it, and so loses its statistics. In inference the
function is the same. In training it differs, because the statistics of the batch replace the lost ones.
`restore_statistics` takes them from real faces; the outputs stay the same.
"""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from facelib.errors import FaceError
from facelib.models.layers import FusedBatchNorm, PReLU
from facelib.models.onnx_import.steps import Step, describe

_BATCH_SIZE = 16

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
_ACTIVATIONS = (PReLU, keras.layers.ReLU, keras.layers.LeakyReLU)


@dataclass
class Place:
    """The layers of a Keras model that one step belongs to.

    Attributes:
        conv: the convolution; None for a separate normalisation.
        norm: the normalisation after it.
        activation: after that, or None.
        pads: before the convolution, in ONNX's order: top, left, bottom, right.
        is_added: whether a sum takes the result.
        pair: the second of two summed depthwise convolutions, see `facelib.models.blocks.Blocks.paired_depthwise`.
    """

    conv: keras.Layer | None
    norm: FusedBatchNorm
    activation: keras.Layer | None
    pads: tuple[int, int, int, int]
    is_added: bool
    pair: keras.Layer | None = None

    @property
    def name(self) -> str:
        return (self.conv or self.norm).name

    def describe(self) -> str:
        """The same text as `Step.describe`, for comparison."""
        channels = self.norm.output.shape[-1]
        if self.conv is None:
            return f"normalisation alone, {channels} channels"
        is_depthwise = isinstance(self.conv, keras.layers.DepthwiseConv2D)
        what = {"depthwise": channels} if is_depthwise else {"dense": (self.conv.input.shape[-1], channels)}
        height, width = self.conv.kernel_size
        return describe(height, width, self.conv.strides[0], **what, is_paired=self.pair is not None)


class _Wiring:
    """The layers before and after each layer of a Keras model."""

    def __init__(self, model: keras.Model):
        self.layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
        self._makers = {id(layer.output): layer for layer in self.layers}
        self._takers: dict[int, list[keras.Layer]] = {}
        for layer in self.layers:
            for tensor in _inputs(layer):
                self._takers.setdefault(id(tensor), []).append(layer)

    def after(self, layer: keras.Layer, kinds) -> keras.Layer | None:
        """The layer of these kinds that reads the output of `layer`, or None."""
        return next((taker for taker in self._takers.get(id(layer.output), []) if isinstance(taker, kinds)), None)

    def before(self, layer: keras.Layer) -> list[keras.Layer | None]:
        """The layers whose outputs `layer` reads."""
        return [self._makers.get(id(tensor)) for tensor in _inputs(layer)]


def _inputs(layer: keras.Layer) -> list:
    return layer.input if isinstance(layer.input, list) else [layer.input]


def list_places(model: keras.Model) -> list[Place]:
    """The places of a network in the order they run. A normalisation must follow every convolution."""
    wiring, places, done = _Wiring(model), [], set()
    for layer in wiring.layers:
        if id(layer) in done or not isinstance(layer, (*_CONVOLUTIONS, FusedBatchNorm)):
            continue
        conv, pair, norm = None, None, layer
        if not isinstance(layer, FusedBatchNorm):
            conv, norm = layer, wiring.after(layer, FusedBatchNorm)
            if norm is None:
                both = wiring.after(layer, keras.layers.Add)
                conv, pair = wiring.before(both)
                norm = wiring.after(both, FusedBatchNorm)
        done |= {id(conv), id(pair), id(norm)}
        activation = wiring.after(norm, _ACTIVATIONS)
        is_added = wiring.after(activation or norm, keras.layers.Add) is not None
        pads = (0, 0, 0, 0) if conv is None else _pads_of(conv, wiring.before(conv)[0])
        places.append(Place(conv, norm, activation, pads, is_added, pair))
    return places


def _pads_of(conv: keras.Layer, before: keras.Layer | None) -> tuple[int, int, int, int]:
    """The padding of a convolution, or of the layer before it. Maps that are halved have even sides here."""
    if isinstance(before, keras.layers.ZeroPadding2D):
        (top, bottom), (left, right) = before.padding
        return (top, left, bottom, right)
    if conv.padding == "valid":
        return (0, 0, 0, 0)
    totals = [max(size - stride, 0) for size, stride in zip(conv.kernel_size, conv.strides, strict=True)]
    first = [total // 2 for total in totals]
    return (*first, *(total - start for total, start in zip(totals, first, strict=True)))


def copy_weights(steps: list[Step], model: keras.Model, path: Path) -> list[FusedBatchNorm]:
    """Copies the weights of each step into the layers of its place.

    Args:
        steps: of the ONNX model.
        model: the Keras model; it is changed.
        path: of the ONNX model, for errors.

    Returns:
        The normalisations that the exporter folded into the convolution before. They now have mean 0 and variance 1.

    Raises:
        FaceError: a step does not fit. It says where, what the step is, and what belongs there.
    """
    places = list_places(model)
    for number, (step, place) in enumerate(zip(steps, places, strict=False), start=1):
        if difference := _find_difference(step, place):
            raise FaceError(
                f"'{path}' does not match {model.name}: layer {number} of {len(steps)} ('{step.name}') is a "
                f"{step.describe()}; {difference}, in layer '{place.name}'."
            )
        _copy_one(step, place)
    if len(steps) != len(places):
        raise FaceError(
            f"'{path}' does not match {model.name}: the file has {len(steps)} layers, {model.name} has {len(places)}."
        )
    return [place.norm for step, place in zip(steps, places, strict=True) if step.variance is None]


def _find_difference(step: Step, place: Place) -> str:
    """How a step differs from its place, or ''."""
    if step.describe() != place.describe():
        return f"expected: a {place.describe()}"
    if step.pads != place.pads:
        return f"it pads {list(step.pads)}, but {list(place.pads)} is expected"
    has_none = place.activation is None
    if (step.activation == "linear") != has_none:
        return f"it has activation '{step.activation}', but {'none' if has_none else 'one'} is expected"
    if step.is_added != place.is_added:
        return f"it has {'a' if step.is_added else 'no'} shortcut, but {'none' if step.is_added else 'one'} is expected"
    return ""


def _copy_one(step: Step, place: Place) -> None:
    axes = (2, 3, 0, 1) if step.is_depthwise else (2, 3, 1, 0)  # to Keras's [kh, kw, in, out] or [kh, kw, in, 1]
    for layer, kernel in ((place.conv, step.kernel), (place.pair, step.pair)):
        if layer is not None and kernel is not None:
            layer.kernel.assign(np.ascontiguousarray(kernel.transpose(axes)))
    norm = place.norm
    # Without the variance from the exporter the divisor is 1.
    variance = np.full_like(step.scale, 1 - norm.epsilon) if step.variance is None else step.variance
    norm.moving_variance.assign(variance)
    norm.moving_mean.assign(step.mean)
    norm.gamma.assign(step.scale * np.sqrt(variance.astype(np.float64) + norm.epsilon))
    norm.beta.assign(step.beta)
    if place.activation is None:
        return
    if step.activation == "relu":  # some models mix ReLU and ReLU6; the configuration of the layer keeps it
        place.activation.max_value = step.max_value
    elif step.activation == "leaky_relu":
        place.activation.negative_slope = step.slope
    elif step.activation == "prelu":
        place.activation.alpha.assign(step.slope)


def restore_statistics(model: keras.Model, norms: list[FusedBatchNorm], faces: np.ndarray) -> None:
    """Sets mean and variance of normalisations to those of their inputs, and gamma and beta so that outputs do not
    change.

    Args:
        model: raw pixels in.
        norms: layers of `model`.
        faces: uint8 [N, H, W, 3], RGB, like the faces of the training that follows.
    """
    mean, square = (np.zeros((len(norms),), object) for _ in range(2))
    probe = keras.Model(model.inputs, [norm.input for norm in norms])

    @tf.function(reduce_retracing=True, autograph=False)
    def moments(pixels):
        return [tf.nn.moments(x, (0, 1, 2)) for x in probe(pixels, training=False)]

    for start in range(0, len(faces), _BATCH_SIZE):
        batch = faces[start : start + _BATCH_SIZE]
        share = len(batch) / len(faces)
        for place, pair in enumerate(moments(tf.constant(batch, tf.float32))):
            m, variance = (np.asarray(value, np.float64) for value in pair)
            mean[place] = mean[place] + share * m
            square[place] = square[place] + share * (variance + m**2)
    for norm, m, s in zip(norms, mean, square, strict=True):
        _set_statistics(norm, m, s - m**2)


def _set_statistics(norm: FusedBatchNorm, mean: np.ndarray, variance: np.ndarray) -> None:
    gamma, beta, old_mean, old_variance = (np.asarray(weight, np.float64) for weight in norm.get_weights())
    scale = gamma / np.sqrt(old_variance + norm.epsilon)
    norm.set_weights([
        scale * np.sqrt(variance + norm.epsilon), beta + scale * (mean - old_mean), mean, variance,
    ])  # fmt: skip
