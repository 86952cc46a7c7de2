"""Run an Ascend model with msame over the inputs that image2bin.py wrote.

./om/om_eval.sh runs/demo/export/model.om bin_input om_output

msame creates a folder in OUT_DIR, named after the current time. The messages of msame are saved there too, as
msame.log. Every input must have a result. TensorFlow is not needed.
"""

import argparse
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facelib.child_processes import ends_with_parent
from facelib.cli import print_next, run_cli, script_parser
from facelib.errors import FaceError
from facelib.export.om.msame import LOG_NAME, MAX_NAMED, read_timing
from facelib.files import make_folder, require_file
from facelib.sidecar import check_sidecar


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__, prog="om_eval.sh")
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.om", help="Ascend model with one input and one output")
    add("bin_dir", type=Path, metavar="BIN_DIR", help="folder that image2bin.py wrote")
    add("out_dir", type=Path, metavar="OUT_DIR", help="msame creates its result folder in this folder")
    add(
        "--outfmt",
        choices=("BIN", "TXT"),
        default="BIN",
        help="format of the results; TXT rounds to six digits (default: %(default)s)",
    )
    add("--device", type=int, metavar="ID", help="number of the device, 0 to 255 (default: 0)")
    add("--loop", type=int, metavar="N", help="repetitions, 1 to 100; msame ignores this for a folder")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    check_paths(args)
    inputs = check_inputs(args.model, args.bin_dir)
    command = ["msame", "--model", str(args.model), "--input", str(args.bin_dir), "--output", str(args.out_dir)]
    command += ["--outfmt", args.outfmt]
    for name in ("device", "loop"):
        if (value := getattr(args, name)) is not None:
            command += [f"--{name}", str(value)]
    print(shlex.join(command), flush=True)
    if shutil.which("msame") is None:
        raise FaceError(
            "msame is not on PATH. Build msame from Ascend/tools on the machine with the device, and run the command "
            "line above there. See docs/ascend.md."
        )
    folder = run_msame(command, args.out_dir)
    check_results(folder, inputs)
    timing = read_timing((folder / LOG_NAME).read_text(encoding="utf-8", errors="replace"))
    speed = f"{timing.ms:.2f} ms per execution by msame's log" if timing else "msame's log has no average time"
    print(f"{len(inputs):,} results in {folder}; {speed}")
    print_next("python", "om/calculate_om_acc.py", args.out_dir, "FILE.bin", "--model", args.model)
    return 0


def check_paths(args: argparse.Namespace) -> None:
    """Refuses paths that msame misreads: it searches the whole path for '.om' and '.bin', and exits with code 0."""
    require_file(args.model, "Ascend model")
    if ".om" not in str(args.model):
        raise FaceError(f"The name of the model must end in .om for msame. Received: '{args.model}'.")
    if not args.bin_dir.is_dir():
        raise FaceError(
            f"There is no input folder '{args.bin_dir}'. Make the folder: python om/image2bin.py FILE.bin DIR"
        )
    if ".bin" in str(args.bin_dir) or "," in str(args.bin_dir):
        raise FaceError(
            "The path of the input folder must not contain '.bin' or a comma, because msame reads such a path "
            f"wrongly. Received: '{args.bin_dir}'. Rename the folder."
        )
    for name, value, low, high in (("--device", args.device, 0, 255), ("--loop", args.loop, 1, 100)):
        if value is not None and not low <= value <= high:
            raise FaceError(f"{name} must be from {low} to {high}. Received: {value}.")


def check_inputs(model: Path, bin_dir: Path) -> list[str]:
    """The names without suffix of the inputs in `bin_dir`. Their size is checked if the model has a sidecar."""
    sidecar = check_sidecar(model)
    files = sorted(file for file in bin_dir.iterdir() if not file.name.startswith("."))
    if not files or any(file.suffix != ".bin" for file in files):
        found = next((file.name for file in files if file.suffix != ".bin"), "nothing")
        raise FaceError(
            f"BIN_DIR must hold only .bin files, because msame runs the model on every file. '{bin_dir}' has {found}."
        )
    if sidecar:
        io = sidecar.io
        expected = io.size[0] * io.size[1] * 3 * np.dtype(io.dtype).itemsize
        for file in files:
            if file.stat().st_size != expected:
                raise FaceError(
                    f"'{model}' needs {expected:,} bytes of {io.dtype} for each face. '{file}' has "
                    f"{file.stat().st_size:,} bytes. Write the inputs for this model: python om/image2bin.py FILE.bin "
                    f"DIR --model {model}"
                )
    return [file.stem for file in files]


def run_msame(command: Sequence[str], out_dir: Path) -> Path:
    """Runs msame with its output in a log file. Returns the folder that it made, with the log in it.

    Raises:
        FaceError: msame failed, or made no folder.
    """
    make_folder(out_dir)
    before = {path.name for path in out_dir.iterdir()}
    log = out_dir / LOG_NAME
    with open(log, "wb") as file:
        file.write(f"{shlex.join(command)}\n".encode())
        file.flush()
        code = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, check=False, preexec_fn=ends_with_parent()
        ).returncode
    made = sorted(path for path in out_dir.iterdir() if path.is_dir() and path.name not in before)
    if code != 0 or not made:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        raise FaceError(f"msame failed (exit code {code}). Its last line: {last[:200]}. The whole log is '{log}'.")
    log.rename(made[-1] / LOG_NAME)
    return made[-1]


def check_results(folder: Path, stems: Sequence[str]) -> None:
    """Checks that every input has a result: msame continues after a failed execution and exits with code 0."""
    done = {file.name.rpartition("_output_")[0] for file in folder.iterdir()}
    missing = [stem for stem in stems if stem not in done]
    if missing:
        more = f" and {len(missing) - MAX_NAMED:,} more" if len(missing) > MAX_NAMED else ""
        raise FaceError(
            f"msame skipped {len(missing):,} of {len(stems):,} inputs: {', '.join(missing[:MAX_NAMED])}{more}. "
            f"Look for [ERROR] in '{folder / LOG_NAME}'."
        )


if __name__ == "__main__":
    run_cli(main)
