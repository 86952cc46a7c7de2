"""Write an int8 .tflite as C source, together with the code for all steps from the pixels to the decision.

python mcu/tflite_2_c.py runs/demo/export/model_int8.tflite --out firmware/

face_model.h, face_model.c    the .tflite as an array; sizes, scales, zero points, threshold, alignment points
face.h, face.c                pixels to the input tensor; output tensor to a unit embedding; distance and decision
example.c                     a program for a PC that uses these files: compile this first
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence

from facelib.cli import add_io_flags, choose_io, run_cli, script_parser
from facelib.errors import FaceError
from facelib.export.mcu.c_source import CModel, check_edges, header, source
from facelib.files import require_file, scripts_folder, sha256_of, write_bytes
from facelib.recognition.decision import DEFAULT_FAR, decide_by
from facelib.runtimes.tflite import Lite
from facelib.sidecar import check_sidecar
from facelib.wording import command

AROUND = ("face.h", "face.c", "example.c")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("model", type=Path, metavar="X.tflite", help="int8 model")
    add("--out", type=Path, metavar="FOLDER", help="folder for the C files (default: c/ beside X.tflite)")
    far_help = f"use the threshold for this FAR from the sidecar (default: {DEFAULT_FAR:g})"
    add("--far", type=float, metavar="RATE", help=far_help)
    add(
        "--threshold",
        type=float,
        metavar="DISTANCE",
        help="use this squared L2 distance instead of the threshold in the sidecar",
    )
    add_io_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    out = args.out or args.model.parent / "c"
    if out.exists() and not out.is_dir():
        raise FaceError(f"--out must be a folder. Received: '{out}', a file.")
    io = choose_io(check_sidecar(args.model), args)
    lite = Lite(args.model, input=io.input, output=io.output)
    check_edges(lite, io, args.model)
    decision = decide_by(args.model, args.far, args.threshold)
    if decision.flip:
        raise FaceError(
            f"The C code embeds each face once, but the threshold of '{args.model}' was measured with --flip. Test "
            "the model without --flip, or pass --threshold DISTANCE."
        )
    content = require_file(args.model, "TFLite model").read_bytes()
    model = CModel(args.model.name, sha256_of(args.model), content, io, lite, decision.distance, f"{decision}.")
    out.mkdir(parents=True, exist_ok=True)
    texts = {name: (scripts_folder() / "mcu" / "c" / name).read_text(encoding="utf-8") for name in AROUND}
    for name, text in {**texts, "face_model.c": source(model), "face_model.h": header(model)}.items():
        write_bytes(out / name, text.encode())
    print(
        f"wrote {out}/: face_model.c ({len(content) / 1024:.1f} KiB of flash), face_model.h, {', '.join(AROUND)}\n"
        f"next: cd {command(out)} && gcc -std=c99 -Wall -Werror example.c face.c face_model.c -lm -o example"
    )
    return 0


if __name__ == "__main__":
    run_cli(main)
