"""Write the inputs of an Ascend model for msame, one file for each face: FILE.bin -> DIR/0.bin, 1.bin, ...

python om/image2bin.py valid_dataset/lfw.bin bin_input --model runs/demo/export/model.om
python om/image2bin.py valid_dataset/lfw.bin bin_input --color bgr --pixels pm1

The second command writes the input of MobileFaceNet-V2 from Ascend's ModelZoo: (x - 127.5) / 128, BGR, float32. A
file holds only the pixels. With --flip, i_flip.bin is the mirrored face of i.bin.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from facelib.cli import add_pixel_flags, choose_io, print_next, run_cli, script_parser
from facelib.data.verification.bins import load_bin, stream_images
from facelib.errors import FaceError
from facelib.export.om.msame import stem_of
from facelib.model_input import Io, to_model_input
from facelib.sidecar import Sidecar, check_sidecar, keep_flags, kind_of

CHUNK_IMAGES = 512  # decoded at a time: 19 MB of pixels, 77 MB as float32
WRITERS = 4


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("bin", type=Path, metavar="FILE.bin", help="verification set")
    add(
        "dir",
        type=Path,
        metavar="DIR",
        help="empty folder, or a folder that this script wrote for a set of the same size",
    )
    add("--model", type=Path, metavar="X", help="the .om, or its graph; the sidecar of this file describes the input")
    add("--flip", action=argparse.BooleanOptionalAction, default=False, help="also write mirrored faces")
    other = parser.add_argument_group("without --model")
    add_pixel_flags(other)
    other.add_argument(
        "--dtype", choices=("float32", "uint8"), help="type of the values in the files (default: float32)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    sidecar = check_sidecar(args.model) if args.model else None
    io = find_io(args, sidecar)
    to_model_input(
        np.zeros((1, 112, 112, 3), np.uint8), io
    )  # refuses impossible combinations before anything is written
    pairs = load_bin(args.bin)
    names = [f"{stem_of(i, flip)}.bin" for flip in range(1 + args.flip) for i in range(2 * len(pairs))]
    check_folder(args.dir, names)
    args.dir.mkdir(parents=True, exist_ok=True)
    num_bytes = write_inputs(pairs.images, str(args.bin), io, args.dir, args.flip)
    if args.model:
        keep_flags(args.model, kind_of(args.model), io, sidecar)
    print(f"{len(names):,} files of {num_bytes:,} bytes in {args.dir}: {describe(io)}")
    print_next("./om/om_eval.sh", args.model or "MODEL.om", args.dir, "OUT_DIR")
    return 0


def find_io(args: argparse.Namespace, sidecar: Sidecar | None) -> Io:
    """How the model is fed: from its sidecar, else from the flags."""
    given = [name for name in ("color", "pixels", "layout", "crop", "dtype") if getattr(args, name) is not None]
    if args.model is None and not given:
        raise FaceError(
            "The input of the model is unknown. Pass --model X.om, or --color rgb|bgr --pixels raw|pm1|... [--dtype "
            "uint8 --layout nchw --crop H,W]."
        )
    io = choose_io(sidecar, args) if sidecar or given != ["dtype"] else Io()
    if sidecar and args.dtype not in (None, io.dtype):
        raise FaceError(
            f"--dtype {args.dtype} contradicts the sidecar '{sidecar.path}', which says {io.dtype}. Leave out this "
            "flag."
        )
    return replace(io, dtype=args.dtype or io.dtype)


def check_folder(folder: Path, names: Sequence[str]) -> None:
    """Refuses a folder with other files in it: msame would read them as inputs."""
    if folder.exists() and not folder.is_dir():
        raise FaceError(f"DIR must be a folder. '{folder}' is a file. Choose a different DIR.")
    expected = set(names)
    others = sorted(path.name for path in folder.iterdir() if path.name not in expected) if folder.is_dir() else []
    if others:
        raise FaceError(
            f"msame reads every file in its folder. '{folder}' has {len(others):,} files that are not among the "
            f"{len(names):,} inputs, such as '{others[0]}'. Use an empty folder."
        )


def write_inputs(images: Sequence[bytes], where: str, io: Io, folder: Path, flip: bool) -> int:
    """Writes the files of all faces. Returns the size of one file in bytes.

    Args:
        images: encoded images, two for each pair.
        where: names their file in errors.
        io: how the model is fed.
        folder: exists.
        flip: whether to write mirrored faces too.
    """
    start = num_bytes = 0

    def write(job: tuple[str, np.ndarray]) -> None:
        name, values = job
        (folder / f"{name}.bin").write_bytes(values.tobytes())

    with ThreadPoolExecutor(WRITERS) as pool, tqdm(total=len(images), unit="img", leave=False, disable=None) as bar:
        for chunk in stream_images(images, CHUNK_IMAGES, source=where):
            for is_flipped in (False, True) if flip else (False,):
                values = to_model_input(chunk[:, :, ::-1] if is_flipped else chunk, io)
                names = [stem_of(start + i, is_flipped) for i in range(len(values))]
                list(pool.map(write, zip(names, values, strict=True)))
                num_bytes = values[0].nbytes
            start += len(chunk)
            bar.update(len(chunk))
    return num_bytes


def describe(io: Io) -> str:
    """The format of the inputs, such as '112x112, rgb, raw, nhwc, uint8'."""
    return f"{io.size[0]}x{io.size[1]}, {io.colour}, {io.pixels}, {io.layout}, {io.dtype}"


if __name__ == "__main__":
    run_cli(main)
