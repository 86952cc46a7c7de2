"""Convert a graph to ONNX: optimized.pb -> model.onnx (+ model.onnx.json).

python pb_2_onnx.py runs/demo/export/optimized.pb

It also takes an embedder.h5. The input is `input_1`, raw RGB pixels, float32 [N, 112, 112, 3], any number of faces. The
output is `embeddings`, before L2 normalisation.
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from facelib.cli import add_io_flags, choose_io, next_step, run_cli, script_parser
from facelib.errors import FaceError
from facelib.export.int8_graph import without_fake_quant
from facelib.export.parity import check_parity, parity_faces
from facelib.files import check_out_file, require_file, sha256_of, write_bytes
from facelib.model_input import to_model_input
from facelib.runtimes.frozen_graph import INPUT, OUTPUT, node_of, open_graph
from facelib.sidecar import check_sidecar, check_unchanged, keep_flags, parity_record, write_sidecar
from facelib.tensorflow_env import quiet_tensorflow


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("model", type=Path, metavar="IN.pb", help="an optimised or frozen graph, or an embedder.h5")
    parser.add_argument(
        "--out", type=Path, metavar="X", help="the ONNX file to write (default: export/model.onnx in the run)"
    )
    prelu_help = "write PReLU as PRelu nodes for other runtimes; ONNX Runtime is half as fast then (default: no)"
    add = parser.add_argument
    add("--prelu-nodes", action=argparse.BooleanOptionalAction, default=False, help=prelu_help)
    add_io_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    require_file(args.model, "frozen graph or .h5")
    is_h5 = args.model.suffix == ".h5"
    out = check_out_file(args.out or args.model.parent / ("export" if is_h5 else "") / "model.onnx")
    sidecar = check_sidecar(args.model)
    sha256 = sha256_of(args.model)
    io = choose_io(sidecar, args)
    if io.layout != "nhwc":
        raise FaceError(
            f"The converter takes NHWC graphs. '{args.model}' is {io.layout}. Convert the graph of h5_2_pb.py."
        )
    quiet_tensorflow()
    from facelib.export.freeze import freeze_file
    from facelib.export.graph_input import load_sized, without_normalisation
    from facelib.export.onnx.convert import graph_to_onnx
    from facelib.export.optimize import optimize

    if is_h5:
        _, graph, size = freeze_file(args.model)
        fed, io = io, replace(io, input=INPUT, output=OUTPUT, size=size)
    else:
        graph, io = load_sized(args.model, io)
        fed = io
    source, target = node_of(io.input), node_of(io.output)
    embedder = without_normalisation(graph, io)
    optimized = without_fake_quant(optimize(embedder, source, target), target)
    converted = graph_to_onnx(optimized, source, target, io.size, prelu_nodes=args.prelu_nodes)
    model = converted.SerializeToString()
    cosines = check_parity(
        f"'{out}' and '{args.model}'", "onnx", open_onnx(model),
        open_graph(without_fake_quant(graph, target), args.model, io.input, io.output),
        to_model_input(parity_faces(io.size), io),
    )  # fmt: skip
    check_unchanged(args.model, sha256)
    write_bytes(out, model)
    keep_flags(args.model, "h5" if is_h5 else "frozen_pb", fed, sidecar)
    write_sidecar(
        out, kind="onnx", made_from=args.model, io=replace(io, input=source, output=target),
        parity=parity_record(cosines),
    )  # fmt: skip
    print(f"worst cosine to the graph {cosines.min():.7f} on {len(cosines)} faces")
    print(f"wrote {out} ({len(model) / 2**20:.2f} MiB){next_step('python', 'onnx_test.py', out)}")
    return 0


def open_onnx(model: bytes):
    """An ONNX model with one input and one output as a function of arrays."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    return lambda pixels: session.run(None, {source.name: pixels})[0]


if __name__ == "__main__":
    run_cli(main)
