"""Compile an ONNX model for an NPU of Rockchip: X.onnx -> model_int8.rknn (+ .json, + .simulator.zip).

python pb_2_onnx.py runs/demo/export/optimized.pb --layout nchw --pixels outside --batch 1 --prelu-nodes \\
  --out runs/demo/export/model_scaled.onnx
python rknn/onnx_2_rknn.py runs/demo/export/model_scaled.onnx --mode int8 --chip rk3588 --calibration DATA

The .rknn takes raw RGB pixels, uint8 [1, 112, 112, 3], and scales them itself: mean and std come from the sidecar of
X.onnx. The output is the embedding in float32, before L2 normalisation. RKNN-Toolkit2, which `make rknn` installs,
measures the 8-bit ranges on face crops, and shows which layers lose the most accuracy. The .zip is for
rknn/rknn_test.py.
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
from typing import Any

import numpy as np

from facelib.cli import add_calibration_flags, add_io_flags, choose_io, next_step, print_notes, run_cli, script_parser
from facelib.data.readers.calibration_crops import load_crops
from facelib.errors import FaceError
from facelib.export.layer_errors import describe_worst, draw
from facelib.export.parity import parity_faces
from facelib.export.pixel_check import check_pixels
from facelib.export.rknn.convert import CHIPS, MODES, RknnModel, check_chip, onnx_to_rknn
from facelib.files import check_out_file, require_file, sha256_of, write_bytes
from facelib.model_input import Io
from facelib.runtimes.array_worker import environment_python
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.runtimes.rknn import RknnEmbedder, simulator_path
from facelib.self_test import make_self_test
from facelib.sidecar import (
    check_sidecar,
    check_unchanged,
    companion_record,
    keep_flags,
    parity_record,
    write_sidecar,
)  # fmt: skip
from facelib.unit_vectors import check_differ, row_cosines

NUM_PARITY_CROPS = 32


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("model", type=Path, metavar="X.onnx", help="ONNX model made by pb_2_onnx.py --layout nchw")
    add(
        "--mode",
        choices=MODES,
        default="int8",
        help="type of the weights and of the computation (default: %(default)s)",
    )
    add("--chip", default=CHIPS[0], metavar="CHIP", help=f"chip: {', '.join(CHIPS)} (default: %(default)s)")
    calibration_help = "crops for int8: a data directory, TFRecords, folder of crops or .bin"
    add_calibration_flags(parser, 100, calibration_help)
    add("--out", type=Path, metavar="X", help="path of the model (default: model_MODE.rknn beside X.onnx)")
    add_io_flags(parser)
    args = parser.parse_args(argv)
    check_chip(args.chip, args.mode)
    if args.mode == "int8" and args.calibration is None:
        raise FaceError(
            "int8 needs real crops to measure the ranges of the activations. Pass --calibration DATA: the training's "
            "data directory, a folder of 112x112 crops, or a .bin."
        )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    require_file(args.model, "ONNX model")
    out = check_out_file(args.out or args.model.parent / f"model_{args.mode}.rknn")
    if out.suffix != ".rknn":
        raise FaceError(f"--out must end in .rknn. Received: --out '{out}'.")
    sidecar = check_sidecar(args.model)
    sha256 = sha256_of(args.model)
    io = choose_io(sidecar, args)
    if io.layout != "nchw":
        raise FaceError(
            f"RKNN-Toolkit2 needs a model with channels first (nchw). '{args.model}' takes {io.layout}: make the "
            "model again, python pb_2_onnx.py optimized.pb --layout nchw --pixels outside --batch 1 --out X.onnx."
        )
    environment_python("rknn", "RKNN-Toolkit2")  # refuses a missing environment before the crops are read
    crops, record = None, dict[str, Any]()
    if args.mode == "int8":
        notes: list[str] = []
        crops, described = load_crops(args.calibration, args.num_calibration, args.seed, io.size, notes, io.fit)
        record["calibration"] = described
        print_notes(notes)
        if sidecar is None or sidecar.is_from_flags:
            check_pixels(OnnxEmbedder(args.model, io).run, crops[:NUM_PARITY_CROPS], io, args.model)
    model = onnx_to_rknn(args.model, io, args.chip, in_order(crops, io))
    made = replace(io, dtype="uint8", layout="nhwc", pixels="raw")
    check_unchanged(args.model, sha256)
    faces = parity_faces(io.size) if crops is None else crops[:NUM_PARITY_CROPS]
    cosines, record["self_test"] = compare(model, made, args.model, io, faces, args.mode)
    write_bytes(simulator_path(out), model.simulator)
    write_bytes(out, model.content)
    if crops is not None:
        record["layers"] = [error.as_dict() for error in model.layers]
        picture = out.with_suffix(".layers.png")
        write_bytes(picture, draw(model.layers))
        print(f"layers that lose most accuracy, on one crop ({picture}):\n{describe_worst(model.layers)}")
    keep_flags(args.model, "onnx", io, sidecar)
    write_sidecar(
        out, kind=f"rknn_{args.mode}", made_from=args.model, io=made, parity=parity_record(cosines), chip=args.chip,
        simulator=companion_record(simulator_path(out)), **record,
    )  # fmt: skip
    on = "faces" if crops is None else "crops"
    print(f"cosine to the ONNX model on {len(cosines)} {on}: worst {cosines.min():.6f}, mean {cosines.mean():.6f}")
    size = len(model.content) / 2**20
    print(f"wrote {out} for {args.chip} ({size:.2f} MiB){next_step('python', 'rknn/rknn_test.py', out)}")
    return 0


def in_order(crops: np.ndarray | None, io: Io) -> np.ndarray | None:
    """RGB crops in the order of the model's colours."""
    return crops[..., ::-1] if crops is not None and io.colour == "bgr" else crops


def compare(model: RknnModel, made: Io, onnx: Path, io: Io, faces: np.ndarray, mode: str) -> tuple[np.ndarray, dict]:
    """Cosines between the simulator and the ONNX model, float [N], and the self test of the rknn.

    Args:
        model: the compiled model.
        made: how it is fed.
        onnx: the ONNX model.
        io: how that is fed.
        faces: uint8 [N, H, W, 3], RGB.
        mode: 'int8' | 'fp16'.
    """
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.rknn"
        path.write_bytes(model.content)
        simulator_path(path).write_bytes(model.simulator)
        embedder = RknnEmbedder(path, made)
        try:
            vectors = embedder(faces)
            check_differ(vectors, "The .rknn")
            cosines = row_cosines(vectors, OnnxEmbedder(onnx, io)(faces))
            return cosines, make_self_test(embedder, f"rknn_{mode}")
        finally:
            embedder.close()


if __name__ == "__main__":
    run_cli(main)
