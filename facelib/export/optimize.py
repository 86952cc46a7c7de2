"""Optimise a frozen graph: frozen.pb -> optimized.pb (+ optimized.pb.json).

./optimize_pb.sh runs/demo/export/frozen.pb

TensorFlow's optimize_for_inference runs first. The batch normalisation that it leaves is folded next: that of stock
Keras 3 layers, and that without a convolution before it (facelib/export/fold_batch_norm.py).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from facelib.cli import next_step, run_cli, script_parser
from facelib.errors import FaceError
from facelib.export.fold_batch_norm import fold_batch_norms
from facelib.export.parity import check_parity, parity_faces
from facelib.files import require_file
from facelib.model_input import Io, to_model_input
from facelib.runtimes.frozen_graph import (
    INPUT,
    OUTPUT,
    check_names,
    input_size,
    load_graph,
    node_of,
    open_graph,
    prune,
    save_graph,
)
from facelib.sidecar import check_sidecar, parity_record, write_sidecar
from facelib.tensorflow_env import quiet_tensorflow


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__, prog="optimize_pb.sh")
    parser.add_argument("graph", type=Path, metavar="IN.pb", help="the frozen graph")
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT.pb", help="default: optimized.pb beside IN.pb")
    parser.add_argument("--input", metavar="NAME", help=f"input of a graph without a sidecar (default: {INPUT})")
    parser.add_argument("--output", metavar="NAME", help=f"output of a graph without a sidecar (default: {OUTPUT})")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    out = args.out or args.graph.parent / "optimized.pb"
    if out.resolve() == require_file(args.graph, "frozen graph").resolve():
        raise FaceError(f"IN.pb and OUT.pb are two files. Received: '{out}' for both. Name another OUT.pb.")
    sidecar = check_sidecar(args.graph)
    io = sidecar.io if sidecar else Io(input=args.input or INPUT, output=args.output or OUTPUT)
    quiet_tensorflow()
    frozen = load_graph(args.graph)
    check_names(frozen, args.graph, io.input, io.output)
    optimized = optimize(frozen, io.input, io.output)
    pixels = to_model_input(parity_faces(input_size(frozen, io.input) or io.size), io)
    cosines = check_parity(
        f"'{out}' and '{args.graph}'",
        "optimized_pb",
        open_graph(optimized, out, io.input, io.output),
        open_graph(frozen, args.graph, io.input, io.output),
        pixels,
    )
    save_graph(optimized, out)
    before, after = len(frozen.node), len(optimized.node)
    if sidecar:
        nodes = {"before": before, "after": after}
        write_sidecar(out, kind="optimized_pb", made_from=args.graph, io=io, nodes=nodes, parity=parity_record(cosines))
    print(f"{before} nodes -> {after} ({100 * (1 - after / before):.0f} % fewer); worst cosine {cosines.min():.7f}")
    hint = next_step("python", "pb_2_tflite.py", out, "--mode", "float")
    print(f"wrote {out} ({out.stat().st_size / 2**20:.2f} MiB){hint}")
    return 0


def optimize(graph, input_name: str, output_name: str):
    """A GraphDef that computes the same output, with batch normalisation folded and training nodes removed.

    Args:
        graph: a frozen GraphDef, NHWC.
        input_name: node or tensor name of its input.
        output_name: node or tensor name of its output.
    """
    import tensorflow as tf
    from tensorflow.python.tools.optimize_for_inference_lib import optimize_for_inference

    source, target = node_of(input_name), node_of(output_name)
    placeholder = next(node for node in graph.node if node.name == source)
    shape, dtype = tf.compat.v1.AttrValue(), placeholder.attr["dtype"].type
    shape.CopyFrom(placeholder.attr["shape"])
    optimized = optimize_for_inference(prune(graph, [target]), [source], [target], dtype)
    optimized.library.CopyFrom(graph.library)  # optimize_for_inference drops it and the shape
    for node in optimized.node:
        if node.name == source:
            node.attr["shape"].CopyFrom(shape)
    return fold_batch_norms(optimized, target)


if __name__ == "__main__":
    run_cli(main)
