"""Compile a float .tflite for the K210: X.tflite -> model.kmodel (+ model.kmodel.json).

python k210/tflite_2_kmodel.py runs/k210/export/model_float.tflite --calibration DATA

The input of the kmodel is raw pixels, uint8 [1, 3, 112, 112], RGB, in three planes as from the K210's camera. The
output is the embedding in float32, before L2 normalisation. The compiler is nncase, which `make k210` installs. It
measures the 8-bit ranges on face crops.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from facelib.cli import add_calibration_flags, add_io_flags, choose_io, next_step, print_notes, run_cli, script_parser
from facelib.data.readers.calibration_crops import load_crops
from facelib.errors import FaceError
from facelib.export.k210.compile import SETTINGS, compile_kmodel
from facelib.export.k210.rules import RAM_BYTES, check_memory, check_ops
from facelib.files import atomic_path, check_out_file, sha256_of
from facelib.model_input import Io
from facelib.runtimes.kmodel import VERSION, KmodelEmbedder, nncase_command
from facelib.runtimes.tflite import TfliteEmbedder, read_ops
from facelib.self_test import make_self_test
from facelib.sidecar import check_sidecar, check_unchanged, keep_flags, parity_record, write_sidecar
from facelib.unit_vectors import check_differ, row_cosines

NUM_PARITY_CROPS = 16
NUM_SIMULATORS = 2


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("model", type=Path, metavar="X.tflite", help="float model that passes k210/check_k210.py")
    calibration_help = (
        "crops to measure the ranges of the activations: a data directory, TFRecords, folder of crops or .bin"
    )
    add_calibration_flags(parser, 100, calibration_help)
    add("--out", type=Path, metavar="X", help="path of the kmodel (default: model.kmodel beside X.tflite)")
    add_io_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    out = check_out_file(args.out or args.model.parent / "model.kmodel")
    check_model(args.model)
    if args.calibration is None:
        raise FaceError(
            "The K210 computes with 8 bits, and real crops are needed to measure the ranges of the activations. Pass "
            "--calibration DATA: the training's data directory, a folder of 112x112 crops, or a .bin."
        )
    sidecar = check_sidecar(args.model)
    io = choose_io(sidecar, args)
    sha256 = sha256_of(args.model)
    if (io.pixels, io.layout) != ("raw", "nhwc"):
        raise FaceError(
            f"A kmodel must be compiled from a .tflite that takes raw pixels, NHWC. '{args.model}' takes {io.pixels}, "
            f"{io.layout}. Make the model again: pb_2_tflite.py --mode float --raw-pixels."
        )
    nncase_command()  # refuses a missing environment before the crops are read
    notes: list[str] = []
    crops, calibration = load_crops(args.calibration, args.num_calibration, args.seed, io.size, notes, io.fit)
    print_notes(notes)
    print(f"compiling with {len(crops)} crops of {args.calibration}: about 0.3 s per crop")
    kmodel = compile_kmodel(args.model, crops[..., ::-1] if io.colour == "bgr" else crops)
    used = ", ".join(f"{name} {size:,}" for name, size in kmodel.memory.items() if name != "total")
    print(f"RAM {kmodel.memory['total']:,} of {RAM_BYTES:,} bytes: {used}")
    check_memory(kmodel.memory, str(args.model))
    made = replace(io, dtype="uint8", layout="nchw")
    check_unchanged(args.model, sha256)
    with atomic_path(out) as part:
        part.write_bytes(kmodel.content)
        cosines, test = compare(part, made, args.model, io, crops[:NUM_PARITY_CROPS])
    keep_flags(args.model, "tflite", io, sidecar)
    write_sidecar(
        out, kind="kmodel", made_from=args.model, io=made, calibration=calibration, parity=parity_record(cosines),
        memory=kmodel.memory, nncase={"version": VERSION, **SETTINGS}, on_cpu=list(kmodel.on_cpu),
        self_test=test,
    )  # fmt: skip
    print(f"{kmodel.on_kpu} convolutions on the KPU; on the CPU {', '.join(kmodel.on_cpu) or 'none'}")
    print(f"cosine to the float model on {len(cosines)} crops: worst {cosines.min():.6f}, mean {cosines.mean():.6f}")
    hint = next_step("python", "k210/kmodel_test.py", out, "--valid", "BIN")
    print(f"wrote {out} ({len(kmodel.content) / 2**20:.2f} MiB){hint}")
    return 0


def check_model(path: Path) -> None:
    """Refuses a model that does not fit the K210, with the first reason."""
    errors = check_ops(read_ops(path)).errors
    if errors:
        more = f" {len(errors) - 1} more problems: python k210/check_k210.py {path}" if len(errors) > 1 else ""
        raise FaceError(f"The K210 cannot run '{path}': {errors[0].layer} {errors[0].what}.{more}")


def compare(kmodel: Path, io: Io, tflite: Path, tflite_io: Io, crops: np.ndarray) -> tuple[np.ndarray, dict]:
    """Cosines between simulator and float model, float [N], and the self test of the kmodel.

    Args:
        kmodel: the compiled model.
        io: how it is fed.
        tflite: the float model.
        tflite_io: how that is fed.
        crops: uint8 [N, H, W, 3], RGB.
    """
    simulated = KmodelEmbedder(kmodel, io, NUM_SIMULATORS)
    try:
        vectors = simulated(crops)
        check_differ(vectors, "The kmodel")
        cosines = row_cosines(vectors, TfliteEmbedder(tflite, tflite_io)(crops))
        return cosines, make_self_test(simulated, "kmodel")
    finally:
        simulated.close()


if __name__ == "__main__":
    run_cli(main)
