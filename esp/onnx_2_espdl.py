"""Quantise an ONNX model for ESP-DL: X.onnx -> model_esp32s3.espdl (+ model_esp32s3.espdl.json).

python pb_2_onnx.py runs/demo/export/optimized.pb --layout nchw --pixels outside --batch 1 --out X.onnx
python esp/onnx_2_espdl.py X.onnx --chip esp32s3 --calibration DATA

Scales are powers of two. The ESP32-S3 has one scale for all weights of a layer, the ESP32-P4 one for each output
channel. So the weights of neighbouring layers are equalised first, which does not change the result of the net. If 8
bits still lose too much accuracy, the layers that lose most get 16 bits, until the mean cosine to the ONNX model
reaches --min-cosine. The quantisation uses esp-ppq, which `make esp` installs. The model needs scaled pixels: the
sidecar has the mean and std for the scaling. The float model with equalised weights, model_esp32s3.onnx, is also
written: the simulator needs this file, but the chip does not.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import tempfile
from collections.abc import Sequence

import numpy as np

from facelib.cli import add_calibration_flags, add_io_flags, choose_io, next_step, print_notes, run_cli, script_parser
from facelib.data.readers.calibration_crops import load_crops, with_full_range
from facelib.errors import FaceError
from facelib.export.esp.convert import CHIPS, MIN_CROPS, Espdl, onnx_to_espdl
from facelib.export.esp.equalise import equalise_onnx
from facelib.export.power_of_two import read_exponents
from facelib.export.targets import min_cosine_of
from facelib.files import check_out_file, require_file, sha256_of, write_bytes
from facelib.model_input import Io, to_model_input
from facelib.runtimes.array_worker import environment_python
from facelib.runtimes.esp import EspdlEmbedder, float_path
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.self_test import make_self_test
from facelib.sidecar import check_sidecar, check_unchanged, companion_record, keep_flags, parity_record, write_sidecar
from facelib.unit_vectors import check_differ, row_cosines

NUM_PARITY_CROPS = 32


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add(
        "model",
        type=Path,
        metavar="X.onnx",
        help="ONNX model made by pb_2_onnx.py --layout nchw --pixels outside --batch 1",
    )
    add("--chip", choices=CHIPS, default=CHIPS[0], help="chip for which the model is quantised (default: %(default)s)")
    add("--bits", type=int, choices=(8, 16), default=8, help="bits of weights and activations (default: %(default)s)")
    int16_help = "names of the layers that get 16 bits; 'none' for no layer (default: the layers that lose most)"
    add("--int16", nargs="+", metavar="LAYER", help=int16_help)
    cosine_help = (
        "give 16 bits to more layers until the mean cosine to the ONNX model reaches this value (default: %(default)s)"
    )
    add("--min-cosine", type=float, default=min_cosine_of("espdl"), metavar="COSINE", help=cosine_help)
    calibration_help = (
        "crops to measure the ranges of the activations: a data directory, TFRecords, folder of crops or .bin"
    )
    add_calibration_flags(parser, 64, calibration_help)
    out_help = "path of the model (default: model_CHIP.espdl beside X.onnx; model_CHIP_int16.espdl for 16 bits)"
    add("--out", type=Path, metavar="X", help=out_help)
    add_io_flags(parser)
    args = parser.parse_args(argv)
    if args.calibration is None or args.num_calibration < MIN_CROPS:
        raise FaceError(
            f"At least {MIN_CROPS} real crops are needed to measure the ranges. Pass --calibration DATA: the data "
            "directory of the training, a folder of 112x112 crops, or a .bin. Received: --calibration "
            f"{args.calibration} --num-calibration {args.num_calibration}."
        )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    require_file(args.model, "ONNX model")
    name = f"model_{args.chip}{'_int16' if args.bits == 16 else ''}.espdl"
    out = check_out_file(args.out or args.model.parent / name)
    if out.suffix != ".espdl" or float_path(out).absolute() == args.model.absolute():
        raise FaceError(
            "--out must end in .espdl. The name of --out must differ from that of X.onnx, because the script also "
            f"writes an .onnx with the name of --out. Received: '{out}' from '{args.model}'. Choose a different --out."
        )
    sidecar = check_sidecar(args.model)
    sha256 = sha256_of(args.model)
    io = choose_io(sidecar, args)
    if io.layout != "nchw" or io.pixels == "raw":
        raise FaceError(
            f"esp-ppq needs an ONNX model that takes scaled pixels, nchw. '{args.model}' takes {io.layout}, "
            f"{io.pixels} pixels. Make the model again: python pb_2_onnx.py optimized.pb --layout nchw --pixels "
            "outside --batch 1 --out X.onnx."
        )
    environment_python("esp", "esp-ppq")  # refuses a missing environment before the crops are read
    notes: list[str] = []
    crops, calibration = load_crops(args.calibration, args.num_calibration, args.seed, io.size, notes, io.fit)
    print_notes(notes)
    print(f"quantising for the {args.chip} with {len(crops)} crops of {args.calibration}; this takes some minutes")
    int16 = None if args.int16 is None else [layer for layer in args.int16 if layer != "none"]
    pixels = to_model_input(with_full_range(crops), io)
    trained = read_exponents(args.model)
    model = args.model.read_bytes() if trained else equalise_onnx(args.model, pixels)
    made = onnx_to_espdl(model, pixels, args.chip, args.bits, int16, args.min_cosine, trained)
    check_unchanged(args.model, sha256)
    cosines, test = compare(made.content, model, args.model, io, crops[:NUM_PARITY_CROPS])
    write_bytes(float_path(out), model)
    write_bytes(out, made.content)
    keep_flags(args.model, "onnx", io, sidecar)
    write_sidecar(
        out, kind="espdl", made_from=args.model, io=io, calibration=calibration, parity=parity_record(cosines),
        chip=args.chip, bits=args.bits, int16=list(made.int16), layers=list(made.layers), exponents=made.exponents,
        simulated=companion_record(float_path(out)), self_test=test,
    )  # fmt: skip
    print_result(made, cosines, args)
    hint = next_step("python", "esp/espdl_test.py", out, "--valid", "BIN")
    print(f"wrote {out} ({len(made.content) / 2**20:.2f} MiB){hint}")
    return 0


def compare(espdl: bytes, even: bytes, onnx: Path, io: Io, crops: np.ndarray) -> tuple[np.ndarray, dict]:
    """(cosines between the simulator and the ONNX model, float [N]; the self test of the sidecar).

    Args:
        espdl: content of the .espdl.
        even: content of the float model that the simulator computes.
        onnx: the float model.
        io: how all are fed.
        crops: uint8 [N, H, W, 3], RGB.
    """
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.espdl"
        path.write_bytes(espdl)
        float_path(path).write_bytes(even)
        simulated = EspdlEmbedder(path, io)
        try:
            vectors, test = simulated(crops), make_self_test(simulated, "espdl")
        finally:
            simulated.close()
    check_differ(vectors, "The .espdl")
    return row_cosines(vectors, OnnxEmbedder(onnx, io)(crops)), test


def print_result(made: Espdl, cosines: np.ndarray, args: argparse.Namespace) -> None:
    """Prints the layers with 16 bits and the cosine to the ONNX model."""
    if made.trained:
        print(f"scales kept from the training: {made.trained} of {len(made.exponents)} tensors")
    if made.int16:
        print(f"16 bits in {len(made.int16)} layers: {' '.join(made.int16)}")
    print(f"cosine to the ONNX model on {len(cosines)} crops: worst {cosines.min():.4f}, mean {cosines.mean():.4f}")
    if cosines.mean() < args.min_cosine:
        print_notes(
            [
                f"the mean cosine is below {args.min_cosine:g}: train the net for this chip (tools/quantize_aware.py "
                f"--target {args.chip}), or use --bits 16"
            ]
        )


if __name__ == "__main__":
    run_cli(main)
