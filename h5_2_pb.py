"""Freeze a trained embedder: embedder.h5 -> export/frozen.pb (+ frozen.pb.json).

python h5_2_pb.py runs/demo/embedder.h5

The input of the graph is `input_1`: raw RGB pixels of any number of faces. The output is `embeddings`: the embeddings
before L2 normalisation.
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from facelib.cli import add_io_flags, choose_io, next_step, run_cli, script_parser
from facelib.export.freeze import freeze_file, model_call
from facelib.export.parity import check_parity, parity_faces
from facelib.files import check_out_file, sha256_of
from facelib.runtimes.frozen_graph import INPUT, OUTPUT, GraphEmbedder, open_graph, save_graph
from facelib.self_test import make_self_test
from facelib.sidecar import check_sidecar, check_unchanged, keep_flags, parity_record, write_sidecar
from facelib.tensorflow_env import quiet_tensorflow


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL.h5", help="embedder to freeze")
    parser.add_argument(
        "--out", type=Path, metavar="PB", help="graph to write (default: export/frozen.pb beside the model)"
    )
    add_io_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    out = check_out_file(args.out or args.model.parent / "export" / "frozen.pb")
    sidecar = check_sidecar(args.model)
    io = choose_io(sidecar, args)
    sha256 = sha256_of(args.model)
    quiet_tensorflow()
    model, graph, size = freeze_file(args.model)
    pixels = parity_faces(size).astype("float32")
    frozen = open_graph(graph, out)
    cosines = check_parity(f"'{out}' and '{args.model}'", "frozen_pb", frozen, model_call(model), pixels)
    check_unchanged(args.model, sha256)
    save_graph(graph, out)
    io = replace(io, size=size, embedding_size=model.outputs[0].shape[-1])
    keep_flags(args.model, "h5", io, sidecar)
    io = replace(io, input=INPUT, output=OUTPUT)
    test = make_self_test(GraphEmbedder(out, io), "frozen_pb")
    parity = parity_record(cosines)
    write_sidecar(out, kind="frozen_pb", made_from=args.model, io=io, parity=parity, self_test=test)
    print(f"{len(graph.node)} nodes; worst cosine to the .h5 {cosines.min():.7f} on {len(cosines)} faces")
    print(f"wrote {out} ({out.stat().st_size / 2**20:.2f} MiB){next_step('./optimize_pb.sh', out)}")
    return 0


if __name__ == "__main__":
    run_cli(main)
