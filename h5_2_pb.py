"""Freeze a trained embedder: embedder.h5 -> export/frozen.pb (+ frozen.pb.json).

python h5_2_pb.py runs/demo/embedder.h5

Input `input_1` (raw RGB pixels, any number of faces), output `embeddings` (before L2 normalisation).
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluate_data import add_io_flags, choose_io
from facelib.cli import FaceError, run_cli
from facelib.graph import INPUT, OUTPUT, freeze, open_graph, save_graph
from facelib.keras_files import load_model
from facelib.parity import check_parity, parity_faces, parity_record
from facelib.quiet import quiet_tensorflow
from facelib.sidecar import check_sidecar, write_sidecar


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL.h5", help="the embedder to freeze")
    parser.add_argument("--out", type=Path, metavar="PB", help="default: export/frozen.pb beside the model")
    add_io_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    out = args.out or args.model.parent / "export" / "frozen.pb"
    io = choose_io(check_sidecar(args.model), args)
    quiet_tensorflow()
    model = in_float32(load_model(args.model))
    size = check_model(model, args.model)
    check_slopes(model, args.model)
    graph = freeze(model)
    pixels = parity_faces(size).astype("float32")
    frozen = open_graph(graph, out)
    cosines = check_parity(f"'{out}' and '{args.model}'", "frozen_pb", frozen, model_call(model), pixels)
    save_graph(graph, out)
    io = replace(io, input=INPUT, output=OUTPUT, size=size, embedding_size=model.outputs[0].shape[-1])
    write_sidecar(out, kind="frozen_pb", made_from=args.model, io=io, parity=parity_record(cosines))
    print(f"{len(graph.node)} nodes; worst cosine to the model {cosines.min():.7f} on {len(cosines)} faces")
    print(f"wrote {out} ({out.stat().st_size / 2**20:.2f} MiB); next: ./optimize_pb.sh {out}")
    return 0


def in_float32(model):
    """The model with every layer computing in float32: mixed precision is for training, and for GPUs."""
    import keras

    for layer in model.layers:
        if layer.compute_dtype != "float32":
            layer.dtype_policy = keras.DTypePolicy("float32")
    return model


def check_model(model, path: Path) -> tuple[int, int]:
    """(height, width) of the model's one RGB input; a FaceError where it is no embedder."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise FaceError(
            f"An embedder has one input and one output. '{path}' has {len(model.inputs)} and {len(model.outputs)}: "
            f"name the embedder.h5 of the run, which has no training head."
        )
    takes, gives = tuple(model.inputs[0].shape), tuple(model.outputs[0].shape)
    if len(takes) != 4 or takes[3] != 3 or None in takes[1:] or len(gives) != 2 or gives[1] is None:
        raise FaceError(f"An embedder maps [N, H, W, 3] to [N, D]. '{path}' maps {list(takes)} to {list(gives)}.")
    return takes[1:3]


def check_slopes(model, path: Path) -> None:
    """Refuses PReLU slopes above 1: our graph says max(x, slope * x), which is PReLU only up to there."""
    from facelib.layers import PReLU

    for layer in model.layers:
        if isinstance(layer, PReLU) and (steepest := float(layer.alpha.numpy().max())) > 1:
            raise FaceError(
                f"PReLU slopes are at most 1. '{path}' has {steepest:.4f} in layer '{layer.name}': train it again with "
                f"facelib.layers.PReLU, which keeps them there."
            )


def model_call(model):
    """The model as a function of arrays, in inference mode."""
    return lambda pixels: model(pixels, training=False).numpy()


if __name__ == "__main__":
    run_cli(main)
