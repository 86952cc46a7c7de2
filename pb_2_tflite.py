"""Convert a graph to TFLite: optimized.pb -> model_<mode>.tflite (+ .json).

python pb_2_tflite.py runs/demo/export/optimized.pb --mode int8 --calibration DATA

float    float32 throughout
fp16     weights stored in 16 bits, half the size
dynamic  weights in int8 but for the few of depthwise kernels, activations quantised as they come, a third of the size
int8     all integer: uint8 pixels in, int8 embedding out; ranges measured on --calibration crops
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from evaluate_data import add_io_flags, choose_io
from facelib.calibration import load_crops
from facelib.cli import FaceError, run_cli
from facelib.files import require_file, write_bytes
from facelib.float_depthwise import restore_depthwise
from facelib.graph import check_names, input_size, load_graph, node_of, open_graph
from facelib.parity import check_parity, parity_faces, parity_record
from facelib.pixels import to_model_input
from facelib.quiet import quiet_stderr, quiet_tensorflow
from facelib.sidecar import Io, check_sidecar, write_sidecar
from facelib.tflite import Lite

MODES = ("float", "fp16", "dynamic", "int8")
NUM_PARITY_CROPS = 32


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="IN.pb", help="an optimised or frozen graph")
    parser.add_argument("--mode", choices=MODES, default="float", help="default: %(default)s")
    calibration_help = "a data directory, TFRecords, folder of crops or .bin; int8 needs it"
    parser.add_argument("--calibration", type=Path, metavar="DATA", help=calibration_help)
    parser.add_argument("--num-calibration", type=int, default=300, metavar="N", help="crops (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which crops (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="X", help="default: model_<mode>.tflite beside IN.pb")
    add_io_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    require_file(args.model, "frozen graph")
    out = args.out or args.model.parent / f"model_{args.mode}.tflite"
    io = choose_io(check_sidecar(args.model), args)
    check_request(args, io)
    crops, calibration = None, None
    if args.calibration:
        crops, calibration = load_crops(args.calibration, args.num_calibration, args.seed, io.size)
    quiet_tensorflow()
    graph = load_graph(args.model)
    check_names(graph, args.model, io.input, io.output)
    size = input_size(graph, io.input) or io.size
    model = convert(graph, io, (1, *size, 3), args.mode, crops)
    lite = Lite(model, input=io.input, output=io.output)
    if args.mode == "int8":
        check_integer(lite, args.model)
    faces = parity_faces(size) if crops is None else crops[:NUM_PARITY_CROPS]
    kind = f"tflite_{args.mode}"
    run = open_graph(graph, args.model, io.input, io.output)
    cosines = check_parity(f"'{out}' and '{args.model}'", kind, embed_one_by_one(lite), run, to_model_input(faces, io))
    write_bytes(out, model)
    io = replace(io, size=size, dtype="uint8" if args.mode == "int8" else "float32")
    record = {"calibration": calibration} if args.mode == "int8" else {}
    write_sidecar(out, kind=kind, made_from=args.model, io=io, parity=parity_record(cosines), **record)
    if args.mode == "int8":
        print(f"calibrated on {calibration['count']} crops of {args.calibration}; uint8 input of scale 1, zero point 0")
    on = "toy faces" if crops is None else "crops"
    print(f"cosine to the graph on {len(cosines)} {on}: worst {cosines.min():.6f}, mean {cosines.mean():.6f}")
    print(f"wrote {out} ({len(model) / 2**20:.2f} MiB); next: python tflite_test.py {out}")
    return 0


def check_request(args: argparse.Namespace, io: Io) -> None:
    """Refuses what no conversion can give, before the long imports."""
    if args.mode == "int8" and args.calibration is None:
        raise FaceError(
            "int8 needs real crops to measure ranges on. Pass --calibration DATA: the data directory of the training, "
            "a folder of 112x112 crops, or a .bin."
        )
    if args.mode == "int8" and io.pixels != "raw":
        raise FaceError(f"An int8 model takes raw pixels 0..255. '{args.model}' takes {io.pixels}. Use --mode dynamic.")
    if io.layout != "nhwc":
        raise FaceError(f"TFLite models are NHWC. '{args.model}' is {io.layout}.")


def convert(graph, io: Io, shape: tuple[int, ...], mode: str, crops: np.ndarray | None) -> bytes:
    """GraphDef -> the bytes of a .tflite with input `shape` [1, H, W, 3].

    Args:
        crops: uint8 [N, H, W, 3], RGB, for int8.
    """
    if mode == "dynamic":
        return restore_depthwise(_convert_as("dynamic", graph, io, shape), _convert_as("float", graph, io, shape))
    return _convert_as(mode, graph, io, shape, crops)


def _convert_as(mode: str, graph, io: Io, shape: tuple[int, ...], crops: np.ndarray | None = None) -> bytes:
    """TensorFlow's converter alone."""
    import tensorflow as tf

    source, target = node_of(io.input), node_of(io.output)

    def forward(pixels):
        (output,) = tf.graph_util.import_graph_def(
            graph, input_map={f"{source}:0": pixels}, return_elements=[f"{target}:0"], name=""
        )
        return tf.identity(output, name=target)

    spec = tf.TensorSpec(shape, tf.float32, name=source)
    function = tf.compat.v1.wrap_function(forward, [spec])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], function.graph)
    if mode != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if mode == "int8":
        converter.representative_dataset = calibration_steps(crops, io)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type, converter.inference_output_type = tf.uint8, tf.int8
    try:
        with quiet_stderr():
            return converter.convert()
    except Exception as error:  # the converter raises a type of its own
        if type(error).__name__ != "ConverterError":
            raise
        reason = " ".join(str(error).split())[:200]
        raise FaceError(f"TFLite cannot express this graph as {mode}: {reason}. Try --mode dynamic.") from error


def calibration_steps(crops: np.ndarray, io: Io) -> Callable:
    """What the converter measures ranges on: each crop alone, float32 [1, H, W, 3].

    The first crop gets one black and one white pixel: only over the whole range 0..255 has the input scale 1.
    """
    crops = crops.copy()
    crops[0, 0, 0], crops[0, 0, 1] = 0, 255

    def steps():
        for crop in crops:
            yield [to_model_input(crop[None], io).astype(np.float32)]

    return steps


def check_integer(lite: Lite, path: Path) -> None:
    """Raises unless the model eats raw uint8 pixels and gives int8."""
    if not lite.takes_pixels or lite.output_dtype != np.int8:
        raise FaceError(
            f"An int8 model takes uint8 pixels of scale 1 and zero point 0. From '{path}' TFLite made {lite.dtype} of "
            f"scale {lite.scale}, zero point {lite.zero_point}: the graph must begin with raw pixels as float32."
        )


def embed_one_by_one(lite: Lite) -> Callable[[np.ndarray], np.ndarray]:
    """The interpreter of batch 1 as a function of [N, H, W, 3]."""
    return lambda pixels: np.concatenate([lite(face[None]) for face in pixels])


if __name__ == "__main__":
    run_cli(main)
