"""Convert an ONNX model for Core ML: X.onnx -> model_fp16.mlpackage.zip (+ .json).

python pb_2_onnx.py runs/demo/export/optimized.pb --layout nchw --pixels inside --batch 1 --prelu-nodes \\
  --out runs/demo/export/model_coreml.onnx
python coreml/onnx_2_coreml.py runs/demo/export/model_coreml.onnx --mode fp16

The input `image` is an image of an aligned face, 112x112; the model scales its pixels itself. `embedding` is the
embedding in float32, before L2 normalisation. The conversion uses coremltools, which `make coreml` installs. Unzip the
file, and add the .mlpackage to an Xcode project.
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
from facelib.export.coreml.convert import MODES, onnx_to_coreml
from facelib.export.parity import check_parity, parity_faces
from facelib.files import check_out_file, require_file, sha256_of, write_bytes
from facelib.model_input import Io
from facelib.runtimes.coreml import INPUT, OUTPUT, SUFFIX, CoremlEmbedder
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.self_test import make_self_test
from facelib.sidecar import check_sidecar, check_unchanged, keep_flags, parity_record, write_sidecar


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("model", type=Path, metavar="X.onnx", help="ONNX model made by pb_2_onnx.py --layout nchw --pixels inside")
    modes = "; ".join(f"{mode}: {what}" for mode, what in MODES.items())
    add("--mode", choices=tuple(MODES), default="fp16", help=f"{modes} (default: %(default)s)")
    add("--out", type=Path, metavar="X", help=f"path of the model (default: model_MODE{SUFFIX} beside X.onnx)")
    add_io_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    require_file(args.model, "ONNX model")
    out = check_out_file(args.out or args.model.parent / f"model_{args.mode}{SUFFIX}")
    if not out.name.endswith(SUFFIX):
        raise FaceError(
            f"--out must end in {SUFFIX}, because a .mlpackage is a folder and is written as a zip file. Received: "
            f"--out '{out}'."
        )
    sidecar = check_sidecar(args.model)
    sha256 = sha256_of(args.model)
    io = choose_io(sidecar, args)
    if (io.layout, io.pixels) != ("nchw", "raw"):
        raise FaceError(
            f"The conversion needs an ONNX model that takes raw pixels, nchw. '{args.model}' takes {io.pixels}, "
            f"{io.layout}. Make the model again: python pb_2_onnx.py optimized.pb --layout nchw --pixels inside "
            "--batch 1 --prelu-nodes --out X.onnx."
        )
    content, interface = onnx_to_coreml(args.model, io, args.mode)
    made = replace(io, input=INPUT, output=OUTPUT, dtype="uint8", layout="nhwc")
    check_unchanged(args.model, sha256)
    cosines, test = compare(content, made, args, io)
    write_bytes(out, content)
    keep_flags(args.model, "onnx", io, sidecar)
    write_sidecar(
        out, kind=f"coreml_{args.mode}", made_from=args.model, io=made, parity=parity_record(cosines),
        interface=interface, self_test=test,
    )  # fmt: skip
    print(f"input `{INPUT}`: an image of {io.size[0]}x{io.size[1]} pixels; output `{OUTPUT}`: float32")
    print(
        f"computed in NumPy: worst cosine to the ONNX model {cosines.min():.6f} on {len(cosines)} faces. Core ML "
        f"itself was not run"
    )
    size = len(content) / 2**20
    print(f"wrote {out} ({size:.2f} MiB){next_step('python', 'coreml/coreml_test.py', out)}")
    return 0


def compare(content: bytes, made: Io, args: argparse.Namespace, io: Io) -> tuple[np.ndarray, dict]:
    """Cosines of the converted model to the ONNX model, float [N], and its self test.

    Args:
        content: of the .mlpackage.zip.
        made: how it is fed.
        args: the flags.
        io: how the ONNX model is fed.
    """
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"model{SUFFIX}"
        path.write_bytes(content)
        embedder = CoremlEmbedder(path, made)
        try:
            kind, original = f"coreml_{args.mode}", OnnxEmbedder(args.model, io)
            what, faces = f"the Core ML model and '{args.model}'", parity_faces(io.size)
            cosines = check_parity(what, kind, embedder.raw, original.raw, faces)
            return cosines, make_self_test(embedder, kind)
        finally:
            embedder.close()


if __name__ == "__main__":
    run_cli(main)
