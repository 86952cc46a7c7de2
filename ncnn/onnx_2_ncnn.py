"""Convert an ONNX model for ncnn: X.onnx -> model_float.param and model_float.bin (+ model_float.param.json).

python pb_2_onnx.py runs/demo/export/optimized.pb --layout nchw --out runs/demo/export/model_nchw.onnx
python ncnn/onnx_2_ncnn.py runs/demo/export/model_nchw.onnx --mode fp16

The model takes raw pixels in three planes, as ncnn::Mat::from_pixels(..., PIXEL_RGB, ...) gives them. Do not call
substract_mean_normalize. The input is `in0`, the embedding before L2 normalisation is `out0`. The conversion uses pnnx,
which `make ncnn` installs.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from facelib.cli import add_io_flags, choose_io, next_step, run_cli, script_parser
from facelib.errors import FaceError
from facelib.export.ncnn.convert import onnx_to_ncnn
from facelib.export.parity import check_parity, parity_faces
from facelib.files import check_out_file, require_file, sha256_of, write_bytes
from facelib.model_input import Io
from facelib.runtimes.ncnn import INPUT, OUTPUT, NcnnEmbedder, weights_path
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.self_test import make_self_test
from facelib.sidecar import (
    check_sidecar,
    check_unchanged,
    companion_record,
    keep_flags,
    parity_record,
    write_sidecar,
)  # fmt: skip

MODES = {"float": "weights in float32", "fp16": "weights in float16, half the size"}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("model", type=Path, metavar="X.onnx", help="ONNX model made by pb_2_onnx.py --layout nchw")
    modes = "; ".join(f"{mode}: {what}" for mode, what in MODES.items())
    add("--mode", choices=tuple(MODES), default="float", help=f"{modes} (default: %(default)s)")
    add(
        "--out",
        type=Path,
        metavar="X",
        help="path of the model (default: model_MODE.param beside X.onnx); the .bin is written beside the .param",
    )
    add_io_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    require_file(args.model, "ONNX model")
    out = check_out_file(args.out or args.model.parent / f"model_{args.mode}.param")
    if out.suffix != ".param":
        raise FaceError(f"--out must end in .param; the .bin gets the same name. Received: --out '{out}'.")
    sidecar = check_sidecar(args.model)
    sha256 = sha256_of(args.model)
    io = choose_io(sidecar, args)
    if io.layout != "nchw":
        raise FaceError(
            f"ncnn needs images in planes (nchw). '{args.model}' takes {io.layout}: make the model again, python "
            "pb_2_onnx.py optimized.pb --layout nchw --out X.onnx."
        )
    param, weights = onnx_to_ncnn(args.model, io.size, args.mode == "fp16")
    made = replace(io, input=INPUT, output=OUTPUT, dtype="float32")
    check_unchanged(args.model, sha256)
    cosines, test = compare(param, weights, made, args, io)
    write_bytes(weights_path(out), weights)
    write_bytes(out, param)
    keep_flags(args.model, "onnx", io, sidecar)
    write_sidecar(
        out, kind=f"ncnn_{args.mode}", made_from=args.model, io=made, parity=parity_record(cosines),
        weights=companion_record(weights_path(out)), self_test=test,
    )  # fmt: skip
    print(f"worst cosine to the ONNX model {cosines.min():.7f} on {len(cosines)} faces")
    size = (len(param) + len(weights)) / 2**20
    print(f"wrote {out} and {weights_path(out).name} ({size:.2f} MiB){next_step('python', 'ncnn/ncnn_test.py', out)}")
    return 0


def compare(param: bytes, weights: bytes, made: Io, args: argparse.Namespace, io: Io) -> tuple[np.ndarray, dict]:
    """Cosines of the converted model to the ONNX model, float [N], and its self test.

    Args:
        param: content of the .param.
        weights: content of the .bin.
        made: how the ncnn model is fed.
        args: the flags.
        io: how the ONNX model is fed.
    """
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.param"
        path.write_bytes(param)
        weights_path(path).write_bytes(weights)
        embedder = NcnnEmbedder(path, made)
        try:
            kind, original = f"ncnn_{args.mode}", OnnxEmbedder(args.model, io)
            what, faces = f"the ncnn model and '{args.model}'", parity_faces(io.size)
            cosines = check_parity(what, kind, embedder.raw, original.raw, faces)
            return cosines, make_self_test(embedder, kind)
        finally:
            embedder.close()


if __name__ == "__main__":
    run_cli(main)
