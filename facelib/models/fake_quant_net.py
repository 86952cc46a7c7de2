"""Copies a trained network into one that computes like its int8 form, for quantisation-aware training.

Batch normalisation is folded into the convolution before it, as in the deployed network, so weights are rounded as they
will be stored. Every tensor of the int8 network gets a range. Operations that a runtime fuses, such as a convolution
and its ReLU, have one tensor and one range.
"""

import keras
import numpy as np

from facelib.errors import FaceError
from facelib.models.column_sums import is_global
from facelib.models.equalisation import Kernel, Link, equalise
from facelib.models.fake_quant import (
    TARGETS,
    FakeQuant,
    FakeQuantAdd,
    FakeQuantAffine,
    FakeQuantConv2D,
    FakeQuantDense,
    FakeQuantDepthwiseConv2D,
    FakeQuantGlobalDepthwise,
    FakeQuantPixelScale,
    FakeQuantPReLU,
)
from facelib.models.layers import FusedBatchNorm, PixelScale, PReLU

_ROUNDED: dict[type[keras.Layer], type[keras.Layer]] = {
    keras.layers.Conv2D: FakeQuantConv2D,
    keras.layers.DepthwiseConv2D: FakeQuantDepthwiseConv2D,
    keras.layers.Dense: FakeQuantDense,
}
_PRELUS = (PReLU, keras.layers.PReLU)
_NORMS = (FusedBatchNorm, keras.layers.BatchNormalization)
# These layers pass values on or choose among them: their output has the range of their input.
_SAME_RANGE = (
    keras.layers.InputLayer, keras.layers.ZeroPadding2D, keras.layers.Flatten, keras.layers.Reshape,
    keras.layers.Dropout, keras.layers.MaxPooling2D, keras.layers.AveragePooling2D,
)  # fmt: skip
_SETS_RANGE = (FakeQuantPixelScale, FakeQuantPReLU, FakeQuantAdd)


def fake_quantized(model: keras.Model, where: str, target: str = "tflite") -> keras.Model:
    """Makes the fake-quantised copy. `observe` then sets its ranges.

    Args:
        model: a trained float32 embedder, raw pixels in.
        where: names it in errors.
        target: a key of `facelib.models.fake_quant.TARGETS`.

    Raises:
        FaceError: the model is fake-quantised already, or a layer with weights is of an unknown class, or of one that
            the target does not have.
    """
    is_esp = TARGETS[target].power_of_two
    if any(isinstance(layer, FakeQuant) for layer in model.layers):
        raise FaceError(
            f"Training for int8 must start from a float model. '{where}' was already trained for int8. Use the float "
            "embedder.h5 from which this model was made."
        )
    for layer in model.layers:
        is_known = type(layer) in _ROUNDED or isinstance(layer, (*_NORMS, *_PRELUS, PixelScale))
        if layer.weights and not is_known:
            raise FaceError(
                f"Training for int8 supports convolutions, dense layers, normalisation and PReLU. '{where}' has a "
                f"{type(layer).__name__} with weights, '{layer.name}'. Choose a different network."
            )
        if is_esp and isinstance(layer, _PRELUS):
            raise FaceError(
                f"Training for the {target} supports ReLU, ReLU6 and LeakyReLU. '{where}' has PReLU, in the layer "
                f"'{layer.name}'. Choose a different activation first: tools/swap_activation.py."
            )
        if isinstance(layer, keras.layers.PReLU) and float(keras.ops.max(layer.alpha)) > 1:
            raise FaceError(
                f"Training for int8 computes PReLU as max(x, a x), so slopes must be at most 1. '{where}' has a slope "
                f"of {float(keras.ops.max(layer.alpha)):.3g} in the layer '{layer.name}'. Choose a different "
                "activation: tools/swap_activation.py."
            )
    convolution_of = {norm.name: conv for norm in model.layers if (conv := _folded_into(norm, model)) is not None}
    operations = {operation.name: operation for operation in model.operations}  # layers, and x[...] or x * y
    folded_convs = {conv.name for conv in convolution_of.values()}
    gone = set(convolution_of)

    def copy_of(layer):
        config = layer.get_config()
        if type(layer) in _ROUNDED:
            if _is_global(layer) and not is_esp:
                return FakeQuantGlobalDepthwise.from_config({**config, "use_bias": True})
            return _ROUNDED[type(layer)].from_config({**config, "use_bias": True, "target": target})
        if isinstance(layer, _PRELUS):
            return FakeQuantPReLU(tuple(layer.alpha.shape), name=layer.name)
        if isinstance(layer, PixelScale):
            return FakeQuantPixelScale.from_config({**config, "target": target})
        if is_esp and type(layer) is keras.layers.Add:
            return FakeQuantAdd.from_config({**config, "target": target})
        if isinstance(layer, _NORMS) and layer.name not in gone:
            return FakeQuantAffine(name=layer.name)
        return type(layer).from_config(config)

    def call(copy, *args, **kwargs):
        kwargs.pop("mask", None)
        if copy.name in gone:
            return args[0]
        y = copy(*args, **kwargs)
        after = _only_reader(operations[copy.name], model)
        if copy.name in folded_convs:
            after = _only_reader(after, model)
        if is_esp and type(after) is keras.layers.Add:  # it rounds its terms
            return y
        return FakeQuant(name=f"{copy.name}_range", target=target)(y) if _needs_range(copy, after) else y

    copy = keras.models.clone_model(model, clone_function=copy_of, call_function=call)
    for layer in copy.layers:
        if layer.weights and not isinstance(layer, (FakeQuant, FakeQuantAdd)):
            _copy_weights(layer, model, convolution_of)
    return copy


def observe(model: keras.Model, crops: np.ndarray, batch_size: int = 32) -> None:
    """Sets the ranges of a fake-quantised network.

    Args:
        model: of `fake_quantized`.
        crops: uint8 [N, H, W, 3], RGB.
        batch_size: crops at a time.
    """
    for start in range(0, len(crops), batch_size):
        model(crops[start : start + batch_size].astype(np.float32), training=True)


def equalise_layers(copy: keras.Model, original: keras.Model, crops: np.ndarray) -> None:
    """Evens out the weights of a fake-quantised network, for targets with one scale for all weights of a layer.

    Args:
        copy: of `fake_quantized`, before `observe`.
        original: what it was made from.
        crops: uint8 [N, H, W, 3], RGB: faces that show which channels a ReLU6 cuts.
    """
    pairs = [pair for layer in copy.layers if (pair := _next_convolution(layer, copy)) is not None]
    cut = [act.name for _, act, _ in pairs if act is not None and act.max_value is not None]
    peaks: dict[str, np.ndarray] = {}
    if cut:
        probe = keras.Model(original.input, [original.get_layer(name).output for name in cut])
        for start in range(0, len(crops), 32):
            seen = probe(crops[start : start + 32].astype(np.float32), training=False)
            for name, value in zip(cut, seen if len(cut) > 1 else [seen], strict=True):
                largest = np.asarray(value).max((0, 1, 2))
                peaks[name] = np.maximum(peaks.get(name, largest), largest)
    kernels = {layer.name: _as_kernel(layer) for first, _, second in pairs for layer in (first, second)}
    equalise(
        [
            Link(
                kernels[first.name],
                kernels[second.name],
                act.max_value if act is not None else None,
                peaks.get(act.name) if act is not None else None,
            )
            for first, act, second in pairs
        ]
    )
    for name, kernel in kernels.items():
        layer = copy.get_layer(name)
        order = (2, 3, 0, 1) if kernel.is_depthwise else (2, 3, 1, 0)
        layer.kernel.assign(kernel.weights.transpose(order))
        layer.bias.assign(kernel.bias)


def _as_kernel(layer) -> Kernel:
    is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    order = (2, 3, 0, 1) if is_depthwise else (3, 2, 0, 1)  # [h, w, channels, 1] or [h, w, inputs, outputs]
    return Kernel(layer.kernel.numpy().transpose(order), layer.bias.numpy(), is_depthwise)


def _next_convolution(layer, model):
    """(convolution `layer`, the ReLU after it or None, the convolution that alone reads it); None if there is none."""
    kinds = (FakeQuantConv2D, FakeQuantDepthwiseConv2D)
    if not isinstance(layer, kinds):
        return None
    act, after = None, _only_reader(layer, model)
    while isinstance(after, (keras.layers.ReLU, FakeQuant, keras.layers.ZeroPadding2D)):
        act = after if isinstance(after, keras.layers.ReLU) else act
        after = _only_reader(after, model)
    return (layer, act, after) if isinstance(after, kinds) else None


def _is_global(layer) -> bool:
    is_depthwise = type(layer) is keras.layers.DepthwiseConv2D and layer.padding == "valid"
    return is_depthwise and is_global(tuple(layer.kernel.shape), layer.input.shape[1:])


def _needs_range(layer, after) -> bool:
    """Whether the int8 network stores the output of `layer` in a tensor.

    Args:
        layer: of the copy.
        after: the only layer that reads the output, or None if several do.
    """
    if isinstance(layer, (*_SAME_RANGE, *_SETS_RANGE)) or type(layer).__name__ == "GetItem":  # x[..., a:b]
        return False
    if isinstance(layer, keras.layers.Activation) and _is_linear(layer):
        return False
    is_linear = isinstance(layer, FakeQuantAffine) or (isinstance(layer, tuple(_ROUNDED)) and _is_linear(layer))
    is_fused = is_linear and isinstance(after, keras.layers.ReLU)
    return not is_fused and not isinstance(after, _PRELUS)  # PReLU sets the range of its input


def _only_reader(layer, model):
    """The layer of `model` that reads the output of `layer`; None if several do."""
    ours = set(map(id, model.operations))
    readers = {id(node.operation): node.operation for node in layer._outbound_nodes if id(node.operation) in ours}
    return next(iter(readers.values())) if len(readers) == 1 else None


def _folded_into(norm, model):
    """The convolution that the normalisation `norm` can be folded into, else None."""
    if not isinstance(norm, _NORMS):
        return None
    source = norm.input._keras_history.operation
    is_plain = type(source) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D) and _is_linear(source)
    return source if is_plain and source in model.layers and _only_reader(source, model) is norm else None


def _is_linear(layer) -> bool:
    return layer.activation is keras.activations.linear


def _copy_weights(layer, model, convolution_of: dict) -> None:
    """Copies the weights of the layer of the same name, with its folded normalisation, into `layer` of the copy."""
    original = model.get_layer(layer.name)
    if isinstance(layer, FakeQuantPReLU):
        layer.alpha.assign(original.alpha.value)
        return
    if isinstance(layer, FakeQuantAffine):
        scale, offset = _scale_and_offset(original)
        layer.gamma.assign(scale)
        layer.beta.assign(offset)
        return
    kernel = original.kernel.numpy()
    bias = original.bias.numpy() if original.use_bias else np.zeros(layer.bias.shape, np.float32)
    norm = next((model.get_layer(name) for name, conv in convolution_of.items() if conv is original), None)
    if norm is not None:
        scale, offset = _scale_and_offset(norm)
        is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        kernel = kernel * (scale.reshape(kernel.shape[2:]) if is_depthwise else scale)
        bias = bias * scale + offset
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)


def _scale_and_offset(norm) -> tuple[np.ndarray, np.ndarray]:
    """(scale, offset), float32 [C] each, of a normalisation in inference: y = scale * x + offset."""
    mean, variance = norm.moving_mean.numpy().astype(np.float64), norm.moving_variance.numpy().astype(np.float64)
    gamma = norm.gamma.numpy() if norm.gamma is not None else 1.0
    scale = gamma / np.sqrt(variance + norm.epsilon)
    offset = (norm.beta.numpy() if norm.beta is not None else 0.0) - mean * scale
    return scale.astype(np.float32), offset.astype(np.float32)
