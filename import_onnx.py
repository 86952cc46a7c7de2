"""Import the weights of a public ONNX face model: MODEL.onnx -> OUT.h5 (+ OUT.h5.json).

python import_onnx.py w600k_mbf.onnx runs/pretrained/embedder.h5 --licence non-commercial

It knows MobileFaceNets and InsightFace's arcface_torch networks (mbf, iresnet18, 34, 50 and 100), as PyTorch exports
them. Layers are matched in order, and the result is compared with the ONNX model before anything is written. OUT.h5 is
then like a trained model: export it with h5_2_pb.py, optimize_pb.sh and pb_2_tflite.py, or start a training from it
with train.py --init-from.
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facelib.cli import next_step, print_notes, run_cli, script_parser
from facelib.data.readers.calibration_crops import load_crops
from facelib.errors import FaceError
from facelib.export.parity import parity_faces
from facelib.model_input import PIXEL_SCALINGS, Io
from facelib.models.onnx_import.reader import find_input, list_weight_files, load_onnx
from facelib.models.onnx_import.rewrites import flatten_slopes, is_paired, pair_channels
from facelib.models.onnx_import.steps import Step, describe, list_steps
from facelib.models.registry import IRESNETS
from facelib.sidecar import write_sidecar
from facelib.tensorflow_env import quiet_tensorflow

MAX_DIFFERENCE = 1e-4  # between outputs, relative to the largest output
NUM_FACES = 2
NUM_CROPS = 256  # for the statistics of batch normalisation


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="face model in ONNX, NCHW, RGB")
    parser.add_argument("out", type=Path, metavar="OUT.h5")
    pixels_help = (
        "pixel values of the ONNX model: 0..255, (x-127.5)/128, (x-127.5)/127.5, or ImageNet statistics (default: "
        "pm1_exact for mbf and iresnet, imagenet for foamliu's separable ReLU6 network, else pm1)"
    )
    parser.add_argument("--pixels", choices=tuple(PIXEL_SCALINGS), help=pixels_help)
    faces_help = (
        "training crops, if you train the model further: 256 of them restore the statistics of folded batch "
        "normalisation. No output changes; without them the training loss starts too high"
    )
    parser.add_argument("--faces", type=Path, metavar="DATA", help=faces_help)
    parser.add_argument("--licence", metavar="NAME", help="licence of the weights, for the sidecar, e.g. Apache-2.0")
    parser.add_argument(
        "--training-data", metavar="NAME", help="training data of the weights, for the sidecar, e.g. MS1M"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    onnx_model = load_onnx(args.model)
    _, size = find_input(onnx_model)
    steps = list_steps(onnx_model, args.model)
    net = recognise(steps, args.model)
    pixels = args.pixels or net.pixels
    num_steep = flatten_slopes(steps, args.model)
    if net.name == "mbf":
        pair_channels(steps)
    notes: list[str] = []
    crops, statistics = load_crops(args.faces, NUM_CROPS, 0, size, notes) if args.faces else (None, None)
    print_notes(notes)
    quiet_tensorflow()
    from facelib.models.onnx_import.weights import copy_weights, restore_statistics
    from facelib.runtimes.keras_h5 import save_h5

    model = build(net, pixels, size)
    folded = copy_weights(steps, model, args.model)
    if folded and crops is not None:
        restore_statistics(model, folded, crops)
    difference = check_outputs(model, pixels, size, args.model)
    save_h5(model, args.out)
    record = {
        "backbone": net.name, "pixels": pixels, "layers": len(steps), "max_difference": difference,
        "slopes_rewritten": num_steep, "normalisations_folded": len(folded), "statistics": statistics,
        "weight_files": list_weight_files(args.model),
    }  # fmt: skip
    write_sidecar(
        args.out,
        kind="h5",
        made_from=args.model,
        io=Io(size=size, embedding_size=model.outputs[0].shape[-1]),
        licence=args.licence,
        training_data=args.training_data,
        imported=record,
    )
    print_result(args, record, model.count_params())
    return 0


def print_result(args: argparse.Namespace, record: dict, num_parameters: int) -> None:
    how = "from --pixels" if args.pixels else "guessed from its layers; give --pixels if that is wrong"
    print(f"{record['backbone']}: {record['layers']} layers, {num_parameters:,} parameters")
    print(f"pixels: {record['pixels']} ({how})")
    if record["slopes_rewritten"]:
        print(f"{record['slopes_rewritten']} PReLU slopes above 1 rewritten, without changing the function")
    if record["normalisations_folded"]:
        statistics = record["statistics"]
        what = (
            f"statistics restored from {statistics['count']} crops" if statistics else "pass --faces to train further"
        )
        print(f"{record['normalisations_folded']} batch normalisations are folded in the ONNX model: {what}")
    print(f"outputs agree within {record['max_difference']:.1e} on {NUM_FACES} faces")
    print(f"wrote {args.out}{next_step('python', 'evaluate_data.py', args.out)}")


@dataclass
class Net:
    """A backbone that an ONNX model may be.

    Attributes:
        name: in `facelib.models.registry`.
        options: arguments of its builder.
        pixels: the usual pixel scaling of such models, a key of `PIXEL_SCALINGS`.
    """

    name: str
    options: dict
    pixels: str


def recognise(steps: list[Step], path: Path) -> Net:
    """The backbone that the steps may be. `copy_weights` checks whether they are."""
    kinds = {step.activation for step in steps} - {"linear"}
    if len(kinds) != 1:
        raise FaceError(
            f"A face model has one kind of activation. '{path}' has {', '.join(sorted(kinds)) or 'none'}: it is "
            f"another architecture."
        )
    options = {"embedding_size": steps[-1].channels, "activation": kinds.pop()}
    if steps[0].strides == (1, 1):
        return Net(_name_iresnet(steps, path), options, "pm1_exact")
    strided = [step for step in steps if step.strides[0] == 2]
    options["padding"] = "symmetric" if all(step.pads == (1, 1, 1, 1) for step in strided) else "same"
    if is_paired(steps):
        return Net("mbf", options, "pm1_exact")
    options |= {"stem": "separable" if is_separable(steps) else "paper", "width": steps[0].channels / 64}
    is_foamliu = is_separable(steps) and any(step.max_value == 6 for step in steps)
    return Net("mobilefacenet", options, "imagenet" if is_foamliu else "pm1")


def _name_iresnet(steps: list[Step], path: Path) -> str:
    from iresnet import DEPTHS

    found = sum(step.kernel is not None and step.kernel.shape[2:] == (3, 3) for step in steps)
    for depth, repeats in DEPTHS.items():
        if found == 1 + 2 * sum(repeats):  # the first one, and two in each block
            return f"iresnet{depth}"
    known = ", ".join(f"{1 + 2 * sum(repeats)} (iresnet{depth})" for depth, repeats in DEPTHS.items())
    raise FaceError(
        f"'{path}' begins with '{steps[0].name}', a {steps[0].describe()}, as an iresnet does, but has {found} 3x3 "
        f"convolutions where those have {known}: it is another architecture."
    )


def is_separable(steps: list[Step]) -> bool:
    """Whether the first depthwise convolution is followed by a 1x1 convolution that keeps the channel count."""
    return len(steps) > 2 and steps[2].describe() == describe(1, 1, 1, dense=(steps[0].channels,) * 2)


def build(net: Net, pixels: str, size: tuple[int, int]):
    """Builds the backbone with random weights."""
    from iresnet import iresnet
    from mobilefacenet import mbf, mobilefacenet

    mean, std = PIXEL_SCALINGS[pixels]
    options = {**net.options, "pixel_mean": mean, "pixel_std": std, "image_size": size}
    if net.name in IRESNETS:
        return iresnet(int(net.name.removeprefix("iresnet")), **options)
    make = mbf if net.name == "mbf" else mobilefacenet
    return make(**options)


def check_outputs(model, pixels: str, size: tuple[int, int], path: Path) -> float:
    """Runs the ONNX model and the import on the same faces.

    Args:
        model: the import.
        pixels: pixel scaling of the ONNX model.
        size: (H, W).
        path: of the ONNX model.

    Returns:
        The largest difference, relative to the largest output.

    Raises:
        FaceError: it is above `MAX_DIFFERENCE`.
    """
    from facelib.runtimes.onnx import OnnxEmbedder

    faces = parity_faces(size, NUM_FACES)
    io = Io(layout="nchw", pixels=pixels, size=size)
    expected = OnnxEmbedder(path, io, batch_size=NUM_FACES).raw(faces)
    received = model(faces.astype(np.float32), training=False).numpy()
    if received.shape != expected.shape:
        raise FaceError(
            f"'{path}' gives {list(expected.shape)}, the import {list(received.shape)}: it is another network."
        )
    difference = float(np.abs(received - expected).max() / np.abs(expected).max())
    if not difference <= MAX_DIFFERENCE:
        raise FaceError(
            f"The import must give the outputs of '{path}' within {MAX_DIFFERENCE:g}. It differs by {difference:.2g}: "
            f"the layers have the shapes of {model.name}, but other connections. Give --pixels if that is wrong."
        )
    return difference


if __name__ == "__main__":
    run_cli(main)
