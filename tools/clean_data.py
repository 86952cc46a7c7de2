"""Clean a training set with a trained model: drop or relabel wrong faces, merge identities of one person.

    python tools/clean_data.py DATA CLEANED --model runs/first/embedder.h5 --sheet dropped.png
    python tools/clean_data.py DATA CLEANED --model X --relabel --merge-angle 35

A face further than --max-angle from the centre of its identity is dropped. With --relabel the face moves to a different
identity, if the centre of that identity is within --max-angle and at least 20 degrees nearer. The centre is the mean of
only half of the faces: the half nearest to the centre. So wrong faces do not move the centre. For a model with
sub-centres (--head RUN/epoch-NNN.h5) the centre is the dominant sub-centre (Sub-center ArcFace, ECCV 2020). The image
bytes are not changed. CLEANED/clean.json lists every changed record and the reason. If CLEANED is already finished, the
script does not make it again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import os
from collections import Counter
from collections.abc import Sequence

import numpy as np

from facelib.cli import DEFAULT_VALID, add_io_flags, choose_io, print_next, print_notes, run_cli, script_parser
from facelib.data.conversion.job import DEFAULT_SIZE, Conversion, already_there, made_from_of, make_job, run_job
from facelib.data.conversion.two_passes import ImageChecker
from facelib.data.curation.cleaning import (
    DROPPED,
    KEPT,
    RELABELLED,
    Verdict,
    dominant_centres,
    judge,
    merged_identities,
    robust_centres,
)
from facelib.data.curation.inspection import check_sheet_path, contact_sheet, save_png
from facelib.data.data_dir import META
from facelib.data.readers.sources import DerivedSource, Source, open_source
from facelib.errors import FaceError
from facelib.extras import require
from facelib.files import read_json, require_file, sha256_of
from facelib.image_decoding import decode_or_blank
from facelib.recognition.photo_embeddings import embed_photos
from facelib.runtimes.open_embedder import open_embedder
from facelib.sidecar import check_sidecar, keep_flags, kind_of
from facelib.unit_vectors import check_differ

NEARER_BY = 20.0  # degrees: a face is relabelled only if the other identity is nearer by this much
SHEET_FACES = 120


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.merge_angle:
        require("scipy")
    source = open_source(args.data)
    sidecar = check_sidecar(args.model)
    io = choose_io(sidecar, args)
    if (done := finished(source, args)) is not None:
        print(f"already there, nothing to do: {done.out}: {done.counts}")
        return 0
    embedder = open_embedder(args.model, io, args.threads)
    rows, vectors, bad = embed_all(source, embedder)
    check_differ(vectors, f"'{args.model}'")
    keep_flags(args.model, kind_of(args.model), io, sidecar)
    labels, num_classes = source.labels[rows], len(source.class_names)
    merged = np.arange(num_classes)
    if args.merge_angle:
        counts = np.bincount(labels, minlength=num_classes)
        merged = merged_identities(robust_centres(vectors, labels, num_classes), counts, args.merge_angle)
        labels = merged[labels]
    if args.head:
        sub_centres = read_sub_centres(args.head, source.class_names)
        check_sizes(vectors, sub_centres)
        centres = dominant_centres(vectors, labels, sub_centres)
    else:
        centres = robust_centres(vectors, labels, num_classes)
    nearer_by = NEARER_BY if args.relabel else None
    verdict = judge(vectors, labels, centres, max_angle=args.max_angle, nearer_by=nearer_by, min_images=args.min_images)
    done = write(source, rows, verdict, merged, bad, args)
    print_notes(source.notes)
    report(source, rows, verdict, merged, bad, args)
    print(f"{'already there:' if done.was_finished else 'wrote'} {done.out}: {done.counts}")
    print_next("python", "train.py", "RECIPE.toml", "--data", done.out, "--valid", DEFAULT_VALID, "--out", "runs/NAME")
    return 0


def embed_all(source: Source, embedder) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(records that could be embedded int64 [n], unit vectors float32 [n, D], a line for each of the others)."""
    bad: list[str] = []
    parts = list(embed_photos(source, range(len(source)), embedder, False, bad=bad, desc="embed"))
    if not parts:
        raise FaceError(f"No image of '{source.path}' could be embedded. The last of {len(bad)} bad images: {bad[-1]}")
    rows, vectors = (np.concatenate(part) for part in zip(*parts, strict=True))
    return rows, vectors, bad


def read_sub_centres(path: Path, class_names: Sequence[str]) -> np.ndarray:
    """The head's unit centres for these identities, float32 [C, K, D]."""
    from facelib.runtimes.keras_h5 import load_head_centres
    from facelib.training.init_from import CLASSES, class_map

    centres = load_head_centres(path)
    names = read_json(require_file(Path(path).parent / CLASSES, "list of classes"), "list of classes")["class_names"]
    if centres is None:
        raise FaceError(f"--head must be an epoch-NNN.h5 with class centres. '{path}' has none.")
    if len(centres) % len(names):
        raise FaceError(
            f"A head must have the same number of centres for each identity. '{path}' has {len(centres)} centres "
            f"for {len(names)} identities."
        )
    known = class_map(names, class_names)
    if (known < 0).any():
        missing = class_names[int(np.argmin(known))]
        raise FaceError(
            f"--head must have a class centre for every identity of DATA. '{path}' has no class centre for "
            f"'{missing}': clean without --head."
        )
    centres = centres.reshape(len(names), -1, centres.shape[1])[known]
    return centres / np.linalg.norm(centres, axis=-1, keepdims=True)


def check_sizes(vectors: np.ndarray, sub_centres: np.ndarray) -> None:
    """Refuses a head that is not that of the model: float32 [n, D] and [C, K, D]."""
    sizes = vectors.shape[-1], sub_centres.shape[-1]
    if sizes[0] != sizes[1]:
        raise FaceError(
            f"--head and --model must come from the same training. Received: {sizes[0]} values in the vectors of "
            f"--model, {sizes[1]} in the centres of --head."
        )


def options_of(args: argparse.Namespace) -> dict:
    """What decides the result, for meta.json and clean.json."""
    options = {"seed": args.seed, "model": sha256_of(args.model), "max_angle": args.max_angle, "relabel": args.relabel}
    options |= {"merge_angle": args.merge_angle, "min_images": args.min_images}
    return options | {"head": sha256_of(require_file(args.head, "head")) if args.head else None}


def finished(source: Source, args: argparse.Namespace) -> Conversion | None:
    """OUT, if this command has made it and its sheet before; None if there is work to do.

    Raises:
        FaceError: OUT was made from other data or with other options.
    """
    if not (args.out / META).exists():
        return None
    options, old = options_of(args), made_from_of(args.out)
    same: str | None = DerivedSource(source, np.arange(0), source.labels[:0], [], {"cleaned": options}).fingerprint
    if old.get("options") != options:
        same = old.get("hash")  # other options also change the hash: the data need not be other
    done = already_there(args.out, {"hash": same, "options": options})
    return None if args.sheet and not args.sheet.exists() else done


def write(source: Source, rows: np.ndarray, verdict: Verdict, merged: np.ndarray, bad: list[str], args):
    """The cleaned data directory, with clean.json."""
    stays = verdict.labels >= 0
    if not stays.any():
        raise FaceError(
            f"After cleaning, no identity has at least {args.min_images} faces within {args.max_angle:g} degrees of "
            "its centre. Raise --max-angle or lower --min-images. If this does not help, test the model: its "
            "embeddings may be bad."
        )
    names = [source.class_names[label] for label in np.unique(verdict.labels[stays])]
    new_labels = np.searchsorted(np.unique(verdict.labels[stays]), verdict.labels[stays])
    options = options_of(args)
    derived = DerivedSource(source, rows[stays], new_labels, names, {"cleaned": options})
    moved = np.flatnonzero((verdict.reason != KEPT) | (merged[source.labels[rows]] != source.labels[rows]))
    decisions = [
        {
            "record": source.describe(int(rows[i])),
            "from": source.class_names[source.labels[rows[i]]],
            "to": source.class_names[verdict.labels[i]] if verdict.labels[i] >= 0 else None,
            "why": verdict.reason[i] if verdict.reason[i] != KEPT else "merged",
            "angle": round(float(verdict.angle[i]), 2),
        }
        for i in moved.tolist()
    ]
    check = ImageChecker(derived, source.image_size or DEFAULT_SIZE)
    files = {"clean.json": {"options": options, "decisions": decisions, "unreadable": bad}}
    return run_job(make_job(derived, args.out, options, check=check), files)


def report(source: Source, rows: np.ndarray, verdict: Verdict, merged: np.ndarray, bad: list[str], args) -> None:
    """The table, and the sheet of what was dropped and relabelled, worst first."""
    counts = Counter(verdict.reason.tolist())
    num_merged = int((merged != np.arange(len(merged))).sum())
    percentiles = ", ".join(f"{p} %: {np.percentile(verdict.angle, p):.1f}" for p in (50, 90, 99))
    print(f"{len(rows):,} faces; angle to the centre of their identity in degrees: {percentiles}")
    for word in (KEPT, RELABELLED, DROPPED, "too few left"):
        print(f"  {word:14} {counts[word]:10,}")
    print(f"  {'unreadable':14} {len(bad):10,}\n  {'merged':14} {num_merged:10,} identities into others")
    shown = np.flatnonzero(np.isin(verdict.reason, (DROPPED, RELABELLED)))
    shown = shown[np.argsort(-verdict.angle[shown], kind="stable")][:SHEET_FACES]
    if args.sheet and len(shown):
        captions = [f"{source.class_names[source.labels[rows[i]]]} {verdict.angle[i]:.0f}" for i in shown]
        images = [decode_or_blank(source.read(int(rows[i]))) for i in shown]
        save_png(args.sheet, contact_sheet(images, captions, 10))
        print(
            f"wrote {args.sheet}: the {len(shown)} dropped or relabelled faces with the largest angles, with identity "
            "and degrees"
        )
    elif args.sheet:
        print(f"nothing was dropped or relabelled: no {args.sheet}")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("data", type=Path, help="data directory, or face data in any other format")
    add("out", type=Path, help="data directory to make")
    add("--model", type=Path, required=True, metavar="X", help="trained face model: .h5, .pb, .tflite or .onnx")
    add(
        "--head",
        type=Path,
        metavar="H5",
        help="epoch-NNN.h5 whose dominant sub-centres are used as the centres of the identities",
    )
    add(
        "--max-angle",
        type=float,
        default=75.0,
        metavar="DEGREES",
        help="largest angle from a face to the centre of its identity (default: %(default)g)",
    )
    add("--relabel", action=argparse.BooleanOptionalAction, default=False, help="move a face to a much nearer identity")
    add(
        "--merge-angle",
        type=float,
        metavar="DEGREES",
        help="merge identities whose centres are less than this many degrees apart (default: merge none)",
    )
    add(
        "--min-images",
        type=int,
        default=1,
        metavar="N",
        help="drop identities that have fewer faces than this after cleaning (default: 1)",
    )
    add("--sheet", type=Path, metavar="PNG", help="where to draw the faces that were dropped or relabelled")
    add("--seed", type=int, default=0, help="seed of the new order (default: %(default)s)")
    add("--threads", type=int, default=os.cpu_count() or 1, help="threads of the runtime (default: %(default)s)")
    add_io_flags(parser)
    args = parser.parse_args(argv)
    check_sheet_path(args.sheet)
    for flag, low, high in (("max_angle", 0, 180), ("merge_angle", 0, 90)):
        value = getattr(args, flag)
        if value is not None and not low < value < high:
            raise FaceError(
                f"--{flag.replace('_', '-')} must be between {low} and {high} degrees. Received: {value:g}."
            )
    for flag, least in (("min_images", 1), ("threads", 1), ("seed", 0)):
        if getattr(args, flag) < least:
            raise FaceError(f"--{flag.replace('_', '-')} must be at least {least}. Received: {getattr(args, flag)}.")
    if args.head and args.merge_angle:
        raise FaceError(
            "--merge-angle cannot be used with --head, because merging changes the class centres. Merge first, "
            "in a run without --head."
        )
    if args.out.exists() and not (args.out / META).exists():
        raise FaceError(f"OUT must be a new folder. '{args.out}' already exists: choose a different name.")
    return args


if __name__ == "__main__":
    run_cli(main)
