"""Optimise a frozen graph: frozen.pb -> optimized.pb (+ optimized.pb.json).

./optimize_pb.sh runs/demo/export/frozen.pb

TensorFlow's optimize_for_inference runs first. This script then folds the remaining
batch normalisation: the layers of stock Keras 3, and those without a convolution before them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from facelib.cli import add_io_flags, choose_io, next_step, run_cli, script_parser
from facelib.errors import FaceError
from facelib.export.fold_batch_norm import fold_batch_norms
from facelib.export.graph_input import load_sized
from facelib.export.parity import check_parity, parity_faces
from facelib.files import check_out_file, require_file, sha256_of
from facelib.model_input import to_model_input
from facelib.runtimes.frozen_graph import GraphEmbedder, node_of, open_graph, prune, save_graph
from facelib.self_test import make_self_test
from facelib.sidecar import check_sidecar, check_unchanged, keep_flags, parity_record, write_sidecar
from facelib.tensorflow_env import quiet_tensorflow


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__, prog="optimize_pb.sh")
    parser.add_argument("model", type=Path, metavar="IN.pb", help="frozen graph")
    parser.add_argument(
        "out",
        type=Path,
        nargs="?",
        metavar="OUT.pb",
        help="path of the optimised graph (default: optimized.pb beside IN.pb)",
    )
    add_io_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    out = check_out_file(args.out or args.model.parent / "optimized.pb")
    if out.resolve() == require_file(args.model, "frozen graph").resolve():
        raise FaceError(
            f"IN.pb and OUT.pb must be two different files. Received: '{out}' for both. Choose a different OUT.pb."
        )
    sidecar = check_sidecar(args.model)
    sha256 = sha256_of(args.model)
    io = choose_io(sidecar, args, needs_flags=False)
    quiet_tensorflow()
    frozen, io = load_sized(args.model, io)
    optimized = optimize(frozen, io.input, io.output)
    pixels = to_model_input(parity_faces(io.size), io)
    cosines = check_parity(
        f"'{out}' and '{args.model}'",
        "optimized_pb",
        open_graph(optimized, out, io.input, io.output),
        open_graph(frozen, args.model, io.input, io.output),
        pixels,
    )
    check_unchanged(args.model, sha256)
    save_graph(optimized, out)
    before, after = len(frozen.node), len(optimized.node)
    keep_flags(args.model, "frozen_pb", io, sidecar)
    nodes = {"before": before, "after": after}
    test = make_self_test(GraphEmbedder(out, io), "optimized_pb")
    record: dict[str, Any] = {"nodes": nodes, "parity": parity_record(cosines), "self_test": test}
    write_sidecar(out, kind="optimized_pb", made_from=args.model, io=io, **record)
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
