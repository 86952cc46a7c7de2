"""Convert a graph to ONNX: optimized.pb -> model.onnx (+ model.onnx.json).

python pb_2_onnx.py runs/demo/export/optimized.pb

The script also converts an embedder.h5. The input of the ONNX model is `input_1`: raw RGB pixels, float32
[N, 112, 112, 3], any number of faces. The output is `embeddings`: the embeddings before L2 normalisation.

With --mode int8, the script measures the ranges of the activations on the crops of --calibration, like pb_2_tflite.py:

python pb_2_onnx.py runs/demo/export/optimized.pb --mode int8 --calibration DATA

Some converters need channels first, scaled pixels and one face. The sidecar has mean and std for their configuration:

python pb_2_onnx.py runs/demo/export/optimized.pb --layout nchw --pixels outside --batch 1 --out model_nchw.onnx
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from facelib.cli import (
    add_calibration_flags,
    add_io_flags,
    choose_io,
    next_step,
    print_notes,
    run_cli,
    script_parser,
)  # fmt: skip
from facelib.data.readers.calibration_crops import load_crops
from facelib.errors import FaceError
from facelib.export.graph_input import load_sized, with_raw_pixels, without_normalisation, without_scaling
from facelib.export.int8_graph import without_fake_quant
from facelib.export.onnx.convert import OPSETS, OnnxOptions, describe_tensors, graph_to_onnx
from facelib.export.onnx.int8 import FIRST_PER_CHANNEL, quantise_onnx
from facelib.export.parity import check_parity, parity_faces
from facelib.export.pixel_check import check_pixels
from facelib.export.power_of_two import keep_exponents, take_exponents
from facelib.files import check_out_file, require_file, sha256_of, write_bytes
from facelib.model_input import IO_CHOICES, Io, scaling_of, to_model_input
from facelib.runtimes.frozen_graph import INPUT, OUTPUT, node_of, open_graph
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.self_test import make_self_test
from facelib.sidecar import check_sidecar, check_unchanged, keep_flags, parity_record, write_sidecar
from facelib.tensorflow_env import quiet_tensorflow

PLACES = ("inside", "outside")  # where pixels are scaled
NUM_PARITY_CROPS = 32


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("model", type=Path, metavar="IN.pb", help="optimised or frozen graph, or an embedder.h5")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="X",
        help="path of the model (default: export/model.onnx in the run; model_int8.onnx for int8)",
    )
    parser.add_argument(
        "--mode",
        choices=("float", "int8"),
        default="float",
        help="type of the weights and of the computation (default: %(default)s)",
    )
    calibration_help = "crops for int8: a data directory, TFRecords, folder of crops or .bin"
    add_calibration_flags(parser, 300, calibration_help)
    add = parser.add_argument_group("form of the model").add_argument
    layout_help = "order of the axes of the input: [N, H, W, 3] or [N, 3, H, W] (default: nhwc)"
    add("--layout", choices=IO_CHOICES["layout"], help=layout_help)
    pixels_help = (
        "inside: the model scales raw RGB pixels itself; outside: the model needs scaled pixels (default: like the "
        "graph). The other values say how a graph without a sidecar needs its pixels scaled: raw, (x-127.5)/128, "
        "(x-127.5)/127.5, x/255, ImageNet"
    )
    add("--pixels", choices=(*PLACES, *IO_CHOICES["pixels"]), help=pixels_help)
    add("--batch", type=int, default=0, metavar="N", help="number of faces per call (default: any number)")
    opset_help = f"ONNX operator set, {OPSETS[0]} to {OPSETS[-1]} (default: %(default)s)"
    add("--opset", type=int, default=OnnxOptions.opset, metavar="N", help=opset_help)
    prelu_help = "write PReLU as PRelu nodes for other runtimes; this makes ONNX Runtime half as fast (default: no)"
    add("--prelu-nodes", action=argparse.BooleanOptionalAction, default=False, help=prelu_help)
    add_io_flags(parser, without=("pixels", "layout"))
    args = parser.parse_args(argv)
    if args.opset not in OPSETS or args.batch < 0:
        raise FaceError(
            f"--opset must be from {OPSETS[0]} to {OPSETS[-1]}, and --batch at least 1, or 0 for any number. "
            f"Received: --opset {args.opset} --batch {args.batch}."
        )
    if args.mode == "int8" and args.calibration is None:
        raise FaceError(
            "int8 needs real crops to measure the ranges of the activations. Pass --calibration DATA: the training's "
            "data directory, a folder of 112x112 crops, or a .bin."
        )
    if args.mode == "int8" and (args.opset < FIRST_PER_CHANNEL or args.prelu_nodes):
        raise FaceError(
            f"int8 needs --opset {FIRST_PER_CHANNEL} or later, because earlier opsets have no scales per channel. "
            "With int8, --prelu-nodes cannot be used, because ONNX Runtime computes PRelu nodes only in float. "
            f"Received: --opset {args.opset}."
        )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    require_file(args.model, "frozen graph or .h5")
    is_h5, is_int8 = args.model.suffix == ".h5", args.mode == "int8"
    name = "model_int8.onnx" if is_int8 else "model.onnx"
    out = check_out_file(args.out or args.model.parent / ("export" if is_h5 else "") / name)
    sidecar = check_sidecar(args.model)
    sha256 = sha256_of(args.model)
    fed = choose_io(sidecar, graph_flags(args))
    if fed.layout != "nhwc":
        raise FaceError(
            f"The converter needs an NHWC graph. '{args.model}' is {fed.layout}. Use a graph made by h5_2_pb.py."
        )
    crops = None
    record: dict[str, Any] = {}
    if is_int8:
        notes: list[str] = []
        crops, described = load_crops(args.calibration, args.num_calibration, args.seed, fed.size, notes, fed.fit)
        record = {"calibration": described}
        print_notes(notes)
    quiet_tensorflow()
    graph, flags, parent = read_parent(args.model, fed)
    model, io = convert(graph, parent, args)
    original = open_graph(without_fake_quant(graph, io.output), args.model, parent.input, parent.output)
    faces = parity_faces(io.size) if crops is None else crops[:NUM_PARITY_CROPS]
    if crops is not None:
        if sidecar is None or sidecar.is_from_flags:
            check_pixels(original, faces, parent, args.model)
        model = quantise_onnx(model, crops, io, args.batch)
    kind = "onnx_int8" if is_int8 else "onnx"
    parents = original(to_model_input(faces, parent))
    converted = open_onnx(model, args.batch)
    what = f"'{out}' and '{args.model}'"
    cosines = check_parity(what, kind, converted, lambda _: parents, to_model_input(faces, io))
    check_unchanged(args.model, sha256)
    write_bytes(out, model)
    keep_flags(args.model, "h5" if is_h5 else "frozen_pb", flags, sidecar)
    test = make_self_test(OnnxEmbedder(out, io), kind)
    record = {"parity": parity_record(cosines), "tensors": describe_tensors(model), **record, "self_test": test}
    write_sidecar(out, kind=kind, made_from=args.model, io=io, **record)
    print(f"input {io.input}: {describe_input(io, args.batch)}")
    on = "faces" if crops is None else "crops"
    print(f"cosine to the graph on {len(cosines)} {on}: worst {cosines.min():.7f}, mean {cosines.mean():.7f}")
    print(f"wrote {out} ({len(model) / 2**20:.2f} MiB){next_step('python', 'onnx_test.py', out)}")
    return 0


def read_parent(path: Path, fed: Io):
    """The graph to convert: (GraphDef, `Io` for the sidecar of the file, `Io` of the graph).

    Args:
        path: a .pb or .h5 file.
        fed: how its sidecar or the flags say that it is fed.
    """
    if path.suffix == ".h5":
        from facelib.export.freeze import freeze_file

        _, graph, size = freeze_file(path)
        return graph, fed, replace(fed, input=INPUT, output=OUTPUT, size=size)
    graph, io = load_sized(path, fed)
    if io.size[0] == 3:
        raise FaceError(f"The converter needs an NHWC graph. '{path}' is NCHW. Use a graph made by h5_2_pb.py.")
    return graph, io, io


def convert(graph, io: Io, args: argparse.Namespace) -> tuple[bytes, Io]:
    """The float32 ONNX model in the form of the flags, and how it is fed."""
    from facelib.export.optimize import optimize

    target = node_of(io.output)
    embedder = without_normalisation(graph, io)
    if args.pixels == "inside":
        embedder, io = with_raw_pixels(embedder, io)
    optimized, exponents = take_exponents(optimize(embedder, node_of(io.input), target), target)
    optimized = without_fake_quant(optimized, target)
    if args.pixels == "outside":
        optimized, io = without_scaling(optimized, io, args.model)
    options = OnnxOptions(args.layout or io.layout, args.batch, args.opset, args.prelu_nodes)
    io = replace(io, input=node_of(io.input), output=target, layout=options.layout)
    model = graph_to_onnx(optimized, io.input, target, io.size, options)
    if exponents:
        kept = {node.name for node in optimized.node}
        keep_exponents(model, {name if name in kept else io.input: each for name, each in exponents.items()})
    return model.SerializeToString(), io


def graph_flags(args: argparse.Namespace) -> argparse.Namespace:
    """The flags that say how the graph is fed, without those of the form of the model."""
    is_scaling = args.pixels not in PLACES
    return argparse.Namespace(**{**vars(args), "layout": None, "pixels": args.pixels if is_scaling else None})


def describe_input(io: Io, batch: int) -> str:
    """'float32 [1, 3, 112, 112], RGB, (x - mean) / std with mean 127.5 127.5 127.5, std 128 128 128'."""
    shape = [batch or "N", *io.size, 3] if io.layout == "nhwc" else [batch or "N", 3, *io.size]
    if io.pixels == "raw":
        scaling = "raw pixels 0..255"
    else:
        scaling = "(x - mean) / std with " + ", ".join(
            f"{name} {' '.join(f'{value:g}' for value in values)}" for name, values in scaling_of(io).items()
        )
    return f"{io.dtype} [{', '.join(map(str, shape))}], {io.colour.upper()}, {scaling}"


def open_onnx(model: bytes, batch: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """An ONNX model with one input and one output as a function of arrays.

    Args:
        model: its bytes.
        batch: images that it takes in one call; 0 for any number. The last call is filled up.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()

    def run(pixels: np.ndarray) -> np.ndarray:
        step = batch or len(pixels)
        filled = np.concatenate([pixels, np.repeat(pixels[-1:], -len(pixels) % step, axis=0)])
        calls = [filled[i : i + step] for i in range(0, len(filled), step)]
        return np.concatenate([session.run(None, {source.name: call})[0] for call in calls])[: len(pixels)]

    return run


if __name__ == "__main__":
    run_cli(main)
