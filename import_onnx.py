"""Take the weights of a public ONNX MobileFaceNet: MODEL.onnx -> OUT.h5 (+ OUT.h5.json).

python import_onnx.py mobilefacenet.onnx runs/pretrained/embedder.h5 --licence Apache-2.0

Convolutions are matched in order; the result is run against the ONNX file before anything is written. From there on
it is a model like a trained one: h5_2_pb.py, optimize_pb.sh, pb_2_tflite.py, or a start for train.py.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facelib.cli import FaceError, run_cli
from facelib.keras_files import save_h5
from facelib.onnx_graph import Convolution, input_size, list_convolutions, load_onnx
from facelib.parity import parity_faces
from facelib.pixels import IMAGENET_MEAN, IMAGENET_STD
from facelib.quiet import quiet_tensorflow
from facelib.sidecar import Io, write_sidecar

MAX_DIFFERENCE = 1e-4  # of any output, relative to the largest
NUM_FACES = 2
SCALINGS = {  # mean and standard deviation in pixel units, one number or three (RGB)
    "raw": (0.0, 1.0),
    "pm1": (127.5, 128.0),
    "imagenet": ((255 * IMAGENET_MEAN.astype(float)).tolist(), (255 * IMAGENET_STD.astype(float)).tolist()),
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="a MobileFaceNet in ONNX, NCHW, RGB")
    parser.add_argument("out", type=Path, metavar="OUT.h5")
    pixels_help = (
        "what the ONNX file eats: 0..255, (x-127.5)/128, or ImageNet statistics "
        "(default: imagenet for foamliu's separable ReLU6 net, else pm1)"
    )
    parser.add_argument("--pixels", choices=tuple(SCALINGS), help=pixels_help)
    parser.add_argument("--licence", metavar="NAME", help="of the weights, for the sidecar, e.g. Apache-2.0")
    parser.add_argument("--training-data", metavar="NAME", help="for the sidecar, e.g. MS1M")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    onnx_model = load_onnx(args.model)
    size, found = input_size(onnx_model), list_convolutions(onnx_model, args.model)
    pixels = args.pixels or guess_pixels(found)
    quiet_tensorflow()
    model = build(found, pixels, size, args.model)
    copy_weights(found, model, args.model)
    difference = check_outputs(model, onnx_model, pixels, size, args.model)
    save_h5(model, args.out)
    write_sidecar(
        args.out,
        kind="h5",
        made_from=args.model,
        io=Io(size=size, embedding_size=model.outputs[0].shape[-1]),
        licence=args.licence,
        training_data=args.training_data,
        imported={"pixels": pixels, "convolutions": len(found), "max_difference": difference},
    )
    how = "as told" if args.pixels else "by its shape; say --pixels if that is wrong"
    print(f"{len(found)} convolutions, {model.count_params():,} parameters; pixels: {pixels} ({how})")
    print(f"outputs agree within {difference:.1e} on {NUM_FACES} faces")
    print(f"wrote {args.out}; next: python evaluate_data.py {args.out} or python h5_2_pb.py {args.out}")
    return 0


def guess_pixels(found: list[Convolution]) -> str:
    """The scaling that models of this shape were published with; an ONNX file does not say it."""
    return "imagenet" if is_separable(found) and any(conv.max_value == 6 for conv in found) else "pm1"


def is_separable(found: list[Convolution]) -> bool:
    """Whether a 1x1 convolution that keeps the channel count follows the first depthwise one."""
    return len(found) > 2 and found[2].kernel.shape == (found[0].kernel.shape[0],) * 2 + (1, 1)


def build(found: list[Convolution], pixels: str, size: tuple[int, int], path: Path):
    """The mobilefacenet() that the list of convolutions describes, with fresh weights."""
    from mobilefacenet import mobilefacenet

    kinds = {conv.activation for conv in found} - {"linear"}
    if len(kinds) != 1:
        raise FaceError(
            f"A MobileFaceNet has one kind of activation. '{path}' has {', '.join(sorted(kinds)) or 'none'}."
        )
    strided = [conv for conv in found if conv.strides[0] == 2]
    is_symmetric = all(conv.pads == (1, 1, 1, 1) for conv in strided)
    mean, std = SCALINGS[pixels]
    return mobilefacenet(
        embedding_size=found[-1].kernel.shape[0],
        activation=kinds.pop(),
        stem="separable" if is_separable(found) else "paper",
        padding="symmetric" if is_symmetric else "same",
        width=found[0].kernel.shape[0] / 64,
        pixel_mean=mean,
        pixel_std=std,
        image_size=size,
    )


def copy_weights(found: list[Convolution], model, path: Path) -> None:
    """Writes each convolution, its normalisation and its activation into the layer of the same place.

    Raises:
        FaceError: the first one that does not fit: where it is, what it is, and what stands there in MobileFaceNet.
    """
    import keras

    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    targets = [layer for layer in model.layers if isinstance(layer, kinds)]
    for place, (conv, layer) in enumerate(zip(found, targets, strict=False)):
        if difference := _find_difference(conv, layer, model):
            raise FaceError(
                f"'{path}' is no MobileFaceNet: convolution {place + 1} of {len(found)} ('{conv.name}') is a "
                f"{conv.describe()}; {difference} in layer '{layer.name}'."
            )
        _copy_one(conv, layer, model, path)
    if len(found) != len(targets):
        raise FaceError(
            f"'{path}' is no MobileFaceNet: {len(found)} convolutions where MobileFaceNet has {len(targets)}."
        )


def _find_difference(conv: Convolution, layer, model) -> str:
    """What MobileFaceNet has at this place where the two disagree, or ''."""
    out, height, width = conv.kernel.shape[0], *conv.kernel.shape[2:]
    in_channels = layer.input.shape[-1]
    is_depthwise = "Depthwise" in type(layer).__name__
    wanted = (*layer.kernel_size, in_channels, layer.output.shape[-1], layer.strides[0], is_depthwise)
    if (height, width, conv.in_channels, out, conv.strides[0], conv.is_depthwise) != wanted:
        kind = "depthwise" if is_depthwise else "convolution"
        return f"a {wanted[0]}x{wanted[1]} {kind}, {wanted[2]} to {wanted[3]}, stride {wanted[4]} belongs there,"
    pads = _pads_of(layer, model)
    if conv.pads != pads:
        return f"it pads {list(conv.pads)} where {list(pads)} belong"
    activation = _activation_of(layer, model)
    if (conv.activation == "linear") != (activation is None):
        return f"it has activation '{conv.activation}' where {'none' if activation is None else 'one'} belongs"
    if conv.is_added != _is_added(layer, model):
        return f"it has {'a' if conv.is_added else 'no'} shortcut where {'none' if conv.is_added else 'one'} belongs"
    return ""


def _pads_of(layer, model) -> tuple[int, int, int, int]:
    """The ONNX pads (top, left, bottom, right) that say what a Keras convolution, or the layer before it, pads."""
    if layer.padding == "valid":
        return (1, 1, 1, 1) if layer.strides[0] == 2 else (0, 0, 0, 0)
    totals = [max(size - 1, 0) if layer.strides[0] == 1 else max(size - 2, 0) for size in layer.kernel_size]
    before = [total // 2 for total in totals]
    return (*before, *(total - first for total, first in zip(totals, before, strict=True)))


def _activation_of(layer, model):
    names = {candidate.name for candidate in model.layers}
    return model.get_layer(f"{layer.name}_act") if f"{layer.name}_act" in names else None


def _is_added(layer, model) -> bool:
    names = {candidate.name for candidate in model.layers}
    return layer.name.endswith("_project") and layer.name.removesuffix("project") + "add" in names


def _copy_one(conv: Convolution, layer, model, path: Path) -> None:
    axes = (2, 3, 0, 1) if conv.is_depthwise else (2, 3, 1, 0)  # to Keras's [kh, kw, in, out] or [kh, kw, in, 1]
    layer.set_weights([np.ascontiguousarray(conv.kernel.transpose(axes))])
    norm = model.get_layer(f"{layer.name}_bn")
    variance = np.full_like(conv.scale, np.float32(1) - np.float32(norm.epsilon))  # so that the divisor is 1
    for weight, value in (
        (norm.gamma, conv.scale),
        (norm.beta, conv.beta),
        (norm.moving_mean, conv.mean),
        (norm.moving_variance, variance),
    ):
        weight.assign(value)
    activation = _activation_of(layer, model)
    if conv.activation == "relu":
        activation.max_value = conv.max_value  # some mix ReLU and ReLU6; the layer's config keeps it
    elif conv.activation == "leaky_relu":
        activation.negative_slope = conv.slope
    elif conv.activation == "prelu":
        if conv.slope.max() > 1:
            raise FaceError(
                f"PReLU slopes are at most 1 here. '{path}' has {conv.slope.max():.4f} after '{conv.name}', which "
                f"max(x, slope * x) cannot say."
            )
        activation.alpha.assign(np.broadcast_to(conv.slope, activation.alpha.shape))


def check_outputs(model, onnx_model, pixels: str, size: tuple[int, int], path: Path) -> float:
    """Runs both on the same faces; the largest difference relative to the largest output.

    Raises:
        FaceError: above `MAX_DIFFERENCE`.
    """
    from onnx.reference import ReferenceEvaluator

    faces = parity_faces(size, NUM_FACES)
    mean, std = (np.asarray(value, np.float32) for value in SCALINGS[pixels])
    evaluator = ReferenceEvaluator(onnx_model)
    expected = []
    for face in faces:
        fed = ((face.astype(np.float32) - mean) / std).transpose(2, 0, 1)[None]
        expected.append(np.asarray(evaluator.run(None, {evaluator.input_names[0]: fed})[0]).reshape(1, -1))
    expected = np.concatenate(expected)
    received = model(faces.astype(np.float32), training=False).numpy()
    if received.shape != expected.shape:
        raise FaceError(f"'{path}' gives {list(expected.shape)}, the import {list(received.shape)}: it is another net.")
    difference = float(np.abs(received - expected).max() / np.abs(expected).max())
    if not difference <= MAX_DIFFERENCE:
        raise FaceError(
            f"The import must give what '{path}' gives, within {MAX_DIFFERENCE:g}. It differs by {difference:.2g}: the "
            f"layers have the shapes of MobileFaceNet but are connected in another way."
        )
    return difference


if __name__ == "__main__":
    run_cli(main)
