"""Turn any face data into a data directory (sharded, indexed TFRecords), show face data, or write identity folders.

    python prepare_data.py SOURCE OUT              SOURCE: folder of identity folders, InsightFace directory or .rec,
                                                   list of 'id;path' lines, older TFRecords, data directory
    python prepare_data.py inspect PATH [--sheet PNG]        counts and a contact sheet of face data or a .bin
    python prepare_data.py export DATA FOLDERS               write identity folders, with unchanged image bytes
    python prepare_data.py SOURCE s3://BUCKET/NAME           write to object storage; pip install s3fs (gs://: gcsfs)
    python prepare_data.py SOURCE OUT --shard 2/8            host 2 of 8 writes its part, OUT.part-2-of-8
    python prepare_data.py merge OUT                         the parts become OUT, with the same bytes as on one host
    python prepare_data.py SOURCE OUT --hold-out 100         100 identities into OUT-held-out, for make_bin.py
    python prepare_data.py SOURCE OUT --leave-out lfw.bin --model X     without the people of a verification set

The image bytes are not changed. A finished conversion is not repeated. A stopped conversion leaves no half-written
output.
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facelib.cli import DEFAULT_VALID, add_encoding_flag, print_next, print_notes, run_cli, script_parser
from facelib.errors import FaceError
from facelib.wording import command, counted

if TYPE_CHECKING:
    import numpy as np

    from facelib.data.conversion.held_out import LeaveOut
    from facelib.data.readers.sources import Source
    from facelib.model_input import Io

SAMPLE_OF_IDENTITY = 5  # faces of an identity that --model looks at
SHOWN_NAMES = 20  # of identities that are left out


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    command = {"inspect": inspect, "export": export, "merge": merge}.get(argv[0] if argv else "")
    return command(argv[1:]) if command else prepare(argv)


def prepare(argv: list[str]) -> int:
    """SOURCE OUT: converts, and prints the result and the next command."""
    args = _parse_prepare(argv)
    from facelib.data.conversion.held_out import held_out_path
    from facelib.data.conversion.job import convert, convert_to_storage
    from facelib.data.conversion.shards_done import convert_part, parse_part
    from facelib.data.storage import StoredPath

    options = vars(args).copy()
    source, out, shard, model = (options.pop(name) for name in ("source", "out", "shard", "model"))
    if args.hold_out is not None and (isinstance(out, StoredPath) or shard is not None):
        raise FaceError(
            "--hold-out cannot be used with --shard or with an address as OUT. First convert with --hold-out to a "
            "folder, and make a .bin from the folder OUT-held-out. Then convert again with --leave-out and this .bin."
        )
    if model and not args.leave_out:
        raise FaceError(
            "--model needs --leave-out, because the model only finds the people of that set. Received: --model "
            f"{model} without --leave-out."
        )
    options["leave_out"] = leave_out_of(args) if args.leave_out else None
    if isinstance(out, StoredPath):
        if shard is not None:
            raise FaceError(
                f"--shard must write its part into a folder. Received: OUT '{out}'. Choose a folder that all "
                "hosts can reach."
            )
        _report(convert_to_storage(source, out, **options), valid_of(source))
        return 0
    part = parse_part(shard) if shard is not None else None
    done = convert_part(source, out, *part, **options) if part else convert(source, out, **options)
    _report(done, valid_of(source))
    if args.hold_out is not None:
        print_held_out(held_out_path(out), args.hold_out)
    if done.out != out:
        print(f"next: the other parts, then {command('python', 'prepare_data.py', 'merge', out)}")
    return 0


def merge(argv: list[str]) -> int:
    """OUT: makes the data directory from the parts that --shard wrote beside it, and removes the parts."""
    parser = argparse.ArgumentParser(prog="prepare_data.py merge", description=merge.__doc__)
    parser.add_argument("out", type=Path, help="data directory to make: the OUT of the --shard commands")
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="show a progress bar")
    args = parser.parse_args(argv)
    from facelib.data.conversion.shards_done import merge as merge_parts

    _report(merge_parts(args.out, args.progress))
    return 0


def print_held_out(folder: Path, count: int) -> None:
    """Says where the held-out identities are, and how a verification set is made of them."""
    print(f"wrote held-out identities: {counted(count, 'identity', 'identities')} in {folder}")
    print_next("python", "make_bin.py", folder, DEFAULT_VALID / f"{folder.name}.bin")


def leave_out_of(args: argparse.Namespace) -> "LeaveOut":
    """The identities of SOURCE that --leave-out names."""
    from facelib.data.conversion.held_out import LeaveOut
    from facelib.files import require_file, sha256_of
    from facelib.sidecar import check_sidecar

    described = {"sha256": sha256_of(require_file(args.leave_out, "verification set")), "model": None}
    sidecar = None
    if args.model:
        described["model"] = sha256_of(require_file(args.model, "model"))
        sidecar = check_sidecar(args.model)
        if sidecar is None:
            raise FaceError(
                f"--model needs a model with a sidecar, which describes its input. '{args.model}' has no sidecar: "
                "find the people with tools/check_overlap.py, which has the flags --color, --pixels and --layout."
            )
    return LeaveOut(described, lambda source: shared_people(source, args, sidecar.io if sidecar else None))


def shared_people(source: "Source", args: argparse.Namespace, io: "Io | None") -> "np.ndarray":
    """The identities of `source` that are in the verification set, int64 labels; prints how they were found.

    Those with an image that the set has byte for byte; with --model also those whose mean embedding is nearer to an
    image of the set than one pair of strangers is expected to come by chance.

    Args:
        source: labelled faces.
        args: of the command.
        io: how the model is fed; None without a model.
    """
    import numpy as np

    from facelib.data.curation.overlap import Chance, find_hits, open_verification, sample_records
    from facelib.data.curation.same_images import KnownImages, find_same

    valid, name = open_verification(args.leave_out), args.leave_out.name
    known = KnownImages([(name, map(valid.read, range(len(valid))))])
    same = np.unique(source.labels[find_same(source, known, args.progress)])
    print_people(source, same, f"with images that are in {name} byte for byte")
    if io is None:
        return same
    from facelib.recognition.set_vectors import embed_sets
    from facelib.runtimes.open_embedder import open_embedder

    embedder = open_embedder(args.model, io, os.cpu_count() or 1)
    sample = sample_records(source.labels, SAMPLE_OF_IDENTITY, args.seed)
    centres, images, _ = embed_sets(source, source.labels, sample, valid, embedder, False, bad=[])
    distance = Chance(centres.vectors, images, args.seed).distance_for(1.0)
    near = np.unique(centres.labels[find_hits(centres.vectors, images, distance).centres])
    print_people(source, near, f"within distance {distance:.4f} of an image of {name}, about one of them by chance")
    return np.union1d(same, near)


def print_people(source: "Source", labels: "np.ndarray", why: str) -> None:
    """Says which identities are left out."""
    names = [source.class_names[label] for label in labels[:SHOWN_NAMES].tolist()]
    if len(labels) > SHOWN_NAMES:
        names.append(f"{len(labels) - SHOWN_NAMES:,} more")
    print(f"left out: {counted(len(labels), 'identity', 'identities')} {why}{': ' * bool(names)}{', '.join(names)}")


def valid_of(source: Path) -> Path:
    """What the next command names as --valid: SOURCE if it has verification sets, as an InsightFace directory does."""
    folder = source if source.is_dir() else source.parent
    return folder if any(folder.glob("*.bin")) else DEFAULT_VALID


def _report(done, valid: Path = DEFAULT_VALID) -> None:
    """Says what a `Conversion` made, and what to type next, with `valid` as the verification sets."""
    from facelib.data.data_dir import BAD_RECORDS, is_data_dir
    from facelib.data.storage import StoredPath, read_stored

    print_notes(done.notes)
    verb = "already there, nothing to do:" if done.was_finished else "wrote"
    shards = counted(done.num_shards, "shard")
    print(f"{verb} {done.out}: {done.counts}, {shards}")
    is_stored = isinstance(done.out, StoredPath)
    if not is_stored and not is_data_dir(done.out):
        return
    if done.num_bad:
        listed = read_stored(done.out / BAD_RECORDS) if is_stored else (done.out / BAD_RECORDS).read_bytes()
        bad = listed.decode(errors="surrogateescape").splitlines()
        shown = [f"  {line.encode(errors='replace').decode()}" for line in bad[:10]]
        bad_images = counted(done.num_bad, "bad image")
        print(f"skipped {bad_images} (all of them: {done.out / BAD_RECORDS}):", *shown, sep="\n")
    print_next("python", "train.py", "RECIPE.toml", "--data", done.out, "--valid", valid, "--out", "runs/NAME")


def inspect(argv: list[str]) -> int:
    """PATH [--sheet PNG]: prints counts, images per identity and encodings; draws a sample."""
    parser = argparse.ArgumentParser(prog="prepare_data.py inspect", description=inspect.__doc__)
    parser.add_argument("path", type=Path, help="face data in any format, or a verification .bin")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="where to write a contact sheet")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed that chooses the faces on the sheet (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    from facelib.data.curation.inspection import check_sheet_path, inspect_data, save_png

    check_sheet_path(args.sheet)
    result = inspect_data(args.path, args.seed)
    print(*result.lines, sep="\n")
    if args.sheet:
        save_png(args.sheet, result.sheet())
        of = "pairs" if args.path.suffix == ".bin" else "identities, one row each: name and number of images"
        print(f"wrote {args.sheet}: a sample of the {of}")
    return 0


def export(argv: list[str]) -> int:
    """DATA FOLDERS: writes identity folders from a data directory or any other face data."""
    parser = argparse.ArgumentParser(prog="prepare_data.py export", description=export.__doc__)
    parser.add_argument("data", type=Path, help="data directory, or face data in any other format")
    parser.add_argument("folders", type=Path, help="folder to make")
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="show a progress bar")
    args = parser.parse_args(argv)
    from facelib.data.conversion.to_folders import export_folders
    from facelib.data.readers.sources import open_source

    source = open_source(args.data)
    count = export_folders(source, args.folders, args.progress)
    print_notes(source.notes)
    print(f"wrote {args.folders}: {counted(count, 'image')}")
    return 0


def _parse_prepare(argv: list[str]) -> argparse.Namespace:
    from facelib.data.storage import data_path

    parser = script_parser(__doc__)
    parser.add_argument("source", type=Path, help="face data in any format (write a folder called merge as ./merge)")
    parser.add_argument("out", type=data_path, help="data directory to make; also an address such as s3://BUCKET/NAME")
    parser.add_argument(
        "--shards", type=int, metavar="N", help="number of TFRecord files (default: one per 16,384 images)"
    )
    parser.add_argument("--min-images", type=int, default=1, metavar="N", help="leave out identities with fewer images")
    parser.add_argument(
        "--max-images", type=int, metavar="N", help="keep at most N images per identity, chosen by --seed"
    )
    parser.add_argument(
        "--image-size",
        type=_size,
        metavar="H,W",
        help="size of the images in pixels (default: that of SOURCE, or 112,112)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the order and of the choice of images (default: %(default)s)"
    )
    parser.add_argument(
        "--skip-bad",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="leave out and list bad images, instead of stopping at the first bad image",
    )
    parser.add_argument(
        "--decode-all",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="check every image by decoding it (default: check only its header and its end)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads that read and check images (default: one per core, at least 8)",
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="write part I of N, on host I of N; after all parts are written, run: prepare_data.py merge OUT",
    )
    parser.add_argument(
        "--hold-out",
        type=int,
        metavar="N",
        help="write N identities, chosen by --seed, into the folder OUT-held-out instead of OUT",
    )
    parser.add_argument(
        "--leave-out",
        type=Path,
        metavar="BIN",
        help="leave out the identities of a verification set: those with the same image bytes and, with --model, "
        "those that the model recognises",
    )
    parser.add_argument("--model", type=Path, metavar="X", help="face model with a sidecar, for --leave-out")
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="show a progress bar")
    add_encoding_flag(parser)
    return parser.parse_args(argv)


def _size(text: str) -> tuple[int, int]:
    """'112,112' -> (112, 112)."""
    height, width = (int(value) for value in text.split(","))
    return height, width


if __name__ == "__main__":
    run_cli(main)
