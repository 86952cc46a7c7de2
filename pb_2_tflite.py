"""Convert a graph to TFLite: optimized.pb -> model_<mode>.tflite (+ .json).

python pb_2_tflite.py runs/demo/export/optimized.pb --mode int8 --calibration DATA

float    float32 throughout
fp16     weights stored in 16 bits: half the size
dynamic  weights in int8, except depthwise kernels; activations are quantised at run time: a third of the size
int8     integers throughout: uint8 pixels in, int8 embedding out (--edges for other types). Ranges are measured on the
         crops of --calibration, or come from quantize_aware.py. Prints and draws the layers that lose most accuracy
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from facelib.cli import add_calibration_flags, add_io_flags, choose_io, next_step, print_notes, run_cli, script_parser
from facelib.data.readers.calibration_crops import load_crops
from facelib.errors import FaceError
from facelib.export.graph_input import load_sized, with_raw_pixels, without_normalisation
from facelib.export.int8_graph import has_fake_quant, without_fake_quant
from facelib.export.layer_errors import LayerError, describe_worst, draw
from facelib.export.parity import check_parity, parity_faces
from facelib.export.pixel_check import check_pixels, check_width
from facelib.export.tflite.convert import EDGES, MODES, TfliteOptions, graph_to_tflite
from facelib.export.tflite.layer_errors import layer_errors
from facelib.files import check_out_file, require_file, sha256_of, write_bytes
from facelib.model_input import Io, to_model_input
from facelib.runtimes.frozen_graph import node_of, open_graph
from facelib.runtimes.tflite import Lite, TfliteEmbedder
from facelib.self_test import make_self_test
from facelib.sidecar import check_sidecar, check_unchanged, keep_flags, parity_record, write_sidecar
from facelib.tensorflow_env import quiet_tensorflow

NUM_PARITY_CROPS = 32
NUM_LAYER_CROPS = 16
ASK_FOR_CROPS = (
    "int8 needs real crops to measure the ranges of the activations. Pass --calibration DATA: the training's data "
    "directory, a folder of 112x112 crops, or a .bin."
)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("model", type=Path, metavar="IN.pb", help="optimised or frozen graph")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="float",
        help="type of the weights and of the computation (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="X", help="path of the model (default: model_<mode>.tflite beside IN.pb)"
    )
    int8 = parser.add_argument_group("int8")
    calibration_help = (
        "crops for int8: a data directory, TFRecords, folder of crops or .bin; not needed if the net was trained "
        "for int8"
    )
    add_calibration_flags(int8, 300, calibration_help)
    add = int8.add_argument
    edges_help = (
        "type of the input of an int8 model: uint8 takes pixels, int8 takes pixels - 128, and float takes float32 "
        "pixels and returns a float32 embedding (default: %(default)s)"
    )
    add("--edges", choices=tuple(EDGES), default="uint8", help=edges_help)
    keep_help = "compute these layers in float, for instance those that lose most accuracy (prefixes of layer names)"
    add("--keep-float", nargs="+", action="extend", default=[], metavar="LAYER", help=keep_help)
    raw_help = (
        "the input of the model is raw RGB pixels, NHWC (default: yes for int8, otherwise the input of the graph "
        "is kept)"
    )
    parser.add_argument("--raw-pixels", action=argparse.BooleanOptionalAction, help=raw_help)
    add_io_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    require_file(args.model, "frozen graph")
    out = check_out_file(args.out or args.model.parent / f"model_{args.mode}.tflite")
    sidecar = check_sidecar(args.model)
    sha256 = sha256_of(args.model)
    fed = choose_io(sidecar, args)
    check_request(args, fed)
    crops, calibration = None, None
    if args.calibration:
        notes: list[str] = []
        crops, calibration = load_crops(args.calibration, args.num_calibration, args.seed, fed.size, notes, fed.fit)
        print_notes(notes)
    quiet_tensorflow()
    is_int8 = args.mode == "int8"
    parent, fed = load_sized(args.model, fed)
    run = open_graph(without_fake_quant(parent, node_of(fed.output)), args.model, fed.input, fed.output)
    if is_int8 and crops is not None and (sidecar is None or sidecar.is_from_flags):
        check_pixels(run, crops[:NUM_PARITY_CROPS], fed, args.model)
    graph, io = without_normalisation(parent, fed), fed
    if takes_raw_pixels(args):
        graph, io = with_raw_pixels(graph, io)
    plain = without_fake_quant(graph, node_of(io.output))
    is_trained = has_fake_quant(graph)
    if is_int8 and crops is None and not is_trained:
        raise FaceError(ASK_FOR_CROPS)
    options = TfliteOptions(args.mode, None if is_trained else crops, args.edges, tuple(args.keep_float))
    shape = (1, *io.size, 3)
    model = graph_to_tflite(graph if is_int8 else plain, io, shape, options)
    lite = Lite(model, input=io.input, output=io.output)
    if is_int8:
        check_edges(lite, args)
    faces = parity_faces(io.size) if crops is None else crops[:NUM_PARITY_CROPS]
    kind, pixels, parents = f"tflite_{args.mode}", to_model_input(faces, io), run(to_model_input(faces, fed))
    check_width(parents, fed, args.model)
    cosines = check_parity(f"'{out}' and '{args.model}'", kind, embed_one_by_one(lite), lambda _: parents, pixels)
    on, record = "synthetic faces" if crops is None else "crops", {}
    if is_int8:
        full = graph_to_tflite(plain, io, shape, TfliteOptions("float"))
        errors = layer_errors(full, model, pixels[:NUM_LAYER_CROPS])
        calibration = None if is_trained else calibration
        layers = [error.as_dict() for error in errors]
        record = {"calibration": calibration, "keep_float": args.keep_float, "layers": layers}
    check_unchanged(args.model, sha256)
    write_bytes(out, model)
    keep_flags(args.model, "frozen_pb", fed, sidecar)
    io = replace(io, dtype=EDGES[args.edges][0] if is_int8 else "float32")
    tensors = lite.describe_tensors()
    test = make_self_test(TfliteEmbedder(out, io), kind, tensors)
    record = {"parity": parity_record(cosines), "tensors": tensors, **record, "self_test": test}
    write_sidecar(out, kind=kind, made_from=args.model, io=io, **record)
    if is_int8:
        how = f"measured on {calibration['count']} crops of {args.calibration}" if calibration else "trained"
        print(f"ranges {how}; {EDGES[args.edges][0]} in, {EDGES[args.edges][1]} out")
        report_layers(errors, out.with_suffix(".layers.png"), f"{min(len(faces), NUM_LAYER_CROPS)} {on}")
    print(f"cosine to the graph on {len(cosines)} {on}: worst {cosines.min():.6f}, mean {cosines.mean():.6f}")
    print(f"wrote {out} ({len(model) / 2**20:.2f} MiB){next_step('python', 'tflite_test.py', out)}")
    return 0


def takes_raw_pixels(args: argparse.Namespace) -> bool:
    """Whether the model takes raw RGB pixels, NHWC, whatever the graph takes."""
    return args.mode == "int8" if args.raw_pixels is None else args.raw_pixels


def check_request(args: argparse.Namespace, io: Io) -> None:
    """Refuses impossible requests before the slow imports."""
    is_int8, raw_pixels = args.mode == "int8", takes_raw_pixels(args)
    if is_int8 and not raw_pixels:
        raise FaceError("An int8 model needs raw pixels from 0 to 255. Received: --no-raw-pixels. Leave out this flag.")
    if io.layout != "nhwc" and not raw_pixels:
        raise FaceError(f"TFLite models must be NHWC. '{args.model}' is {io.layout}. Use --raw-pixels.")
    if not is_int8 and (args.edges != "uint8" or args.keep_float):
        raise FaceError(f"--edges and --keep-float need --mode int8. Received: --mode {args.mode}.")


def check_edges(lite: Lite, args: argparse.Namespace) -> None:
    """Checks that input and output have the requested types, and that an integer input has scale 1.

    Raises:
        FaceError: they do not.
    """
    found = (lite.dtype.name, lite.output_dtype.name)
    zero_point = {"uint8": 0, "int8": -128}.get(found[0])
    if found == EDGES[args.edges] and (zero_point is None or (lite.scale, lite.zero_point) == (1.0, zero_point)):
        return
    if args.keep_float and "float32" in found:
        raise FaceError(
            f"With --edges {args.edges} the first and last layers compute in integers, but --keep-float lists such a "
            "layer. Leave this layer out of --keep-float, or use --edges float."
        )
    raise FaceError(
        f"The input of an int8 model must be {EDGES[args.edges][0]} pixels with scale 1. From '{args.model}' TFLite "
        f"made {found[0]} with scale {lite.scale}, zero point {lite.zero_point}: the input of the graph must be raw "
        "float32 pixels."
    )


def report_layers(errors: Sequence[LayerError], picture: Path, faces: str) -> None:
    """Draws the error of each layer and prints the layers that lose most; `faces` says on what they were measured."""
    write_bytes(picture, draw(errors))
    print(f"layers that lose most accuracy, on {faces} ({picture}):\n{describe_worst(errors)}")


def embed_one_by_one(lite: Lite) -> Callable[[np.ndarray], np.ndarray]:
    """An interpreter with batch 1 as a function of [N, H, W, 3]."""
    return lambda pixels: np.concatenate([lite(face[None]) for face in pixels])


if __name__ == "__main__":
    run_cli(main)
