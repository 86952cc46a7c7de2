"""Find identities that are in both a training set and a verification set. Such identities make the scores too high.

    python tools/check_overlap.py data/ms1m lfw.bin --model embedder.h5 --out overlap.csv --sheet overlap.png

TRAIN is a data directory, identity folders, a .rec, ...; the mean embedding of --max-images faces stands for an
identity. VALID is a .bin or identity folders. Every distinct image of VALID is compared with every identity of TRAIN.

Comparing T identities with V images at a false-accept rate f gives T*V*f hits by chance: 22 thousand for 2,818 x 7,701
at 1e-3. So by default the threshold is the distance at which --chance-hits (1) hits are expected by chance. This
distance is computed from a normal distribution that is fitted to the cosines of these comparisons. Lookalikes cause a
few more hits. Look at the sheet before you decide. Images that are in both sets byte for byte are listed too;
prepare_data.py --leave-out makes a training set without these people.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import csv
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import StringIO
from typing import NamedTuple

import numpy as np

from facelib.alignment.photos import FaceCutter, UnusablePhotoError
from facelib.cli import add_io_flags, choose_io, print_notes, run_cli, script_parser
from facelib.data.curation.inspection import check_sheet_path, contact_sheet, save_png
from facelib.data.curation.overlap import Chance, Hits, find_hits, open_verification, sample_records
from facelib.data.curation.same_images import KnownImages, find_same
from facelib.data.readers.sources import Source, open_source
from facelib.errors import BadRecord, FaceError
from facelib.files import write_bytes
from facelib.image_decoding import Photos, decode_or_blank
from facelib.recognition.decision import Decision, about, decide_by
from facelib.recognition.photo_embeddings import Centres
from facelib.recognition.set_vectors import embed_sets
from facelib.runtimes.open_embedder import open_embedder
from facelib.sidecar import check_sidecar, keep_flags, kind_of
from facelib.wording import command, counted, spreadsheet_cell

SHOWN_NAMES = 10  # of identities with the same images
SHOWN_ROWS = 20  # identities in the printed table and on the sheet
SHEET_FACES = 4  # of each side in a row of the sheet


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    source, valid = open_source(args.train), open_verification(args.valid)
    sidecar = check_sidecar(args.model)
    io = choose_io(sidecar, args)
    decision = decide_by(args.model, args.far, args.threshold) if (args.far, args.threshold) != (None, None) else None
    flip = bool(decision and decision.flip)
    embedder = open_embedder(args.model, io, args.threads)
    sample = sample_records(source.labels, args.max_images, args.seed)
    bad: list[str] = []
    centres, images, image_idx = embed_sets(source, source.labels, sample, valid, embedder, flip, bad)
    compared = Compared(source, sample, centres, valid, image_idx)
    keep_flags(args.model, kind_of(args.model), io, sidecar)
    distance, expected = choose_distance(decision, centres.vectors, images, args)
    hits = find_hits(centres.vectors, images, distance)
    print_notes(source.notes)
    print_bad(bad)
    comparisons = f"{len(centres.labels):,} identities x {len(images):,} images"
    print(f"{comparisons} = {len(centres.labels) * len(images):,} comparisons within distance {distance:.4f}")
    if expected:
        print(f"expected by chance: {expected}")
    print_same(source, valid, args.valid.name)
    report(compared, hits, args)
    return 0


def print_same(source: Source, valid: Photos, name: str) -> None:
    """Says how many training images are verification images byte for byte, and of whom."""
    same = find_same(source, KnownImages([(name, readable(valid))]))
    if len(same):
        people = sorted({source.class_names[label] for label in source.labels[same]})
        more = f" and {len(people) - SHOWN_NAMES:,} more" if len(people) > SHOWN_NAMES else ""
        print(
            f"{counted(len(same), 'training image')} of {counted(len(people), 'identity', 'identities')} "
            f"{'is' if len(same) == 1 else 'are'} in {name} byte for byte: {', '.join(people[:SHOWN_NAMES])}{more}"
        )


def readable(photos: Photos) -> Iterator[bytes]:
    """Yields the images that can be read."""
    for i in range(len(photos)):
        with suppress(BadRecord):
            yield photos.read(i)


def choose_distance(
    decision: Decision | None, centres: np.ndarray, images: np.ndarray, args: argparse.Namespace
) -> tuple[float, str]:
    """(squared L2 distance, expected chance hits within it): as the flags say, else estimated from the comparisons."""
    if decision is None:
        chance = Chance(centres, images, args.seed)
        distance = chance.distance_for(args.chance_hits)
        return distance, f"about {about(chance.hits_within(distance))} hits; with lookalikes a few times as many"
    if decision.far is None:
        return decision.distance, ""
    return decision.distance, f"about {about(decision.far * len(centres) * len(images))} hits; {decision}"


class Compared(NamedTuple):
    """What was compared: the meaning of the rows of the hits.

    Attributes:
        source: the training set.
        sample: int64 [S], the records of `source` that were embedded.
        centres: of the training identities.
        valid: the verification images.
        valid_idx: int64 [V], the images of `valid` that were embedded.
    """

    source: Source
    sample: np.ndarray
    centres: Centres
    valid: Photos
    valid_idx: np.ndarray


def report(compared: Compared, hits: Hits, args: argparse.Namespace) -> None:
    """Prints the table; writes the CSV and the sheet; says what to do next."""
    if args.out:
        write_bytes(args.out, csv_of(compared, hits).encode("utf-8", "backslashreplace"))
    identities = list(dict.fromkeys(hits.centres.tolist()))  # closest first
    if not identities:
        print("no identity of the training set appears in the verification set")
        return
    count = "1 identity" if len(identities) == 1 else f"{len(identities):,} identities"
    print(f"{count} of the training set, close to {len(set(hits.images.tolist())):,} verification images:")
    print(f"  {'identity':<24} {'distance':>8} {'cosine':>7} {'images':>6}  closest verification image")
    for centre in identities[:SHOWN_ROWS]:
        at = np.flatnonzero(hits.centres == centre)
        name = compared.source.class_names[compared.centres.labels[centre]]
        nearest, distance = hits.images[at[0]], hits.distances[at[0]]
        where = compared.valid.describe(int(compared.valid_idx[nearest]))
        print(f"  {name:<24} {distance:8.4f} {1 - distance / 2:7.4f} {len(at):6d}  {where}")
    if len(identities) > SHOWN_ROWS:
        print(f"  ... and {len(identities) - SHOWN_ROWS:,} more identities{'' if args.out else ': --out CSV has all'}")
    if args.out:
        print(f"wrote {args.out}: {len(hits.distances):,} pairs")
    if args.sheet:
        save_png(args.sheet, sheet_of(compared, hits, identities[:SHOWN_ROWS]))
        print(f"wrote {args.sheet}: training faces left, verification images right")
    leave_out = command(
        "python", "prepare_data.py", args.train, "OUT", "--leave-out", args.valid, "--model", args.model
    )
    print(f"next: look at {args.sheet or 'the faces (--sheet PNG)'}; to leave these people out: {leave_out}")


def csv_of(compared: Compared, hits: Hits) -> str:
    """One line a pair, closest first."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["identity", "faces_in_centre", "verification_image", "distance", "cosine"])
    for centre, image, distance in zip(*(part.tolist() for part in hits), strict=True):
        label, where = compared.centres.labels[centre], compared.valid.describe(int(compared.valid_idx[image]))
        name, count = compared.source.class_names[label], compared.centres.counts[centre]
        writer.writerow(
            [spreadsheet_cell(name), count, spreadsheet_cell(where), f"{distance:.5f}", f"{1 - distance / 2:.5f}"]
        )
    return text.getvalue()


def sheet_of(compared: Compared, hits: Hits, identities: list[int]) -> np.ndarray:
    """uint8 [H, W, 3] RGB: a row for each of `identities`: training faces, a gap, verification images by distance."""
    images, captions = [], []
    blank = np.full((112, 112, 3), 255, np.uint8)
    labels = compared.source.labels[compared.sample]
    num_left = min(SHEET_FACES, max(np.sum(labels == compared.centres.labels[centre]) for centre in identities))
    num_right = min(SHEET_FACES, max(np.sum(hits.centres == centre) for centre in identities))
    for centre in identities:
        label = compared.centres.labels[centre]
        records = compared.sample[labels == label][:SHEET_FACES].tolist()
        at = np.flatnonzero(hits.centres == centre)[:SHEET_FACES]
        shown = compared.valid_idx[hits.images[at]].tolist()
        left = [face_of(compared.source, i) for i in records]
        right = [face_of(compared.valid, i) for i in shown]
        before, after = num_left - len(left), num_right - len(right)
        images += [*[blank] * before, *left, blank, *right, *[blank] * after]
        captions += [*[""] * before, compared.source.class_names[label], *[""] * len(left)]
        captions += [f"distance {distance:.3f}" for distance in hits.distances[at]] + [""] * after
    return contact_sheet(images, captions, num_left + 1 + num_right)


def face_of(photos: Photos, i: int) -> np.ndarray:
    """uint8 [112, 112, 3] RGB: the face that was embedded; a crossed-out square for an image that was left out."""
    try:
        return FaceCutter()(photos.read(i), photos.describe(i))
    except (UnusablePhotoError, BadRecord):
        return decode_or_blank(b"")


def print_bad(bad: list[str]) -> None:
    """Says which images were left out."""
    for line in bad[:10]:
        print(f"left out: {line}")
    if len(bad) > 10:
        print(f"left out: {len(bad) - 10:,} more images")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("train", type=Path, metavar="TRAIN", help="training faces in any format that prepare_data.py accepts")
    add("valid", type=Path, metavar="VALID", help="verification set: a .bin, or identity folders")
    add("--model", type=Path, required=True, metavar="X", help="face model: .h5, .pb, .tflite or .onnx")
    add(
        "--max-images",
        type=int,
        default=5,
        metavar="N",
        help="number of faces to use per identity (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="seed that chooses these faces (default: %(default)s)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--chance-hits", type=float, default=1.0, metavar="N", help="number of hits by chance to allow (default: 1)"
    )
    which.add_argument(
        "--threshold",
        type=float,
        metavar="DISTANCE",
        help="use this threshold instead, a squared L2 distance from 0 to 4",
    )
    which.add_argument("--far", type=float, metavar="RATE", help="use the model's threshold calibrated for this FAR")
    add("--out", type=Path, metavar="CSV", help="CSV file for all pairs found")
    add("--sheet", type=Path, metavar="PNG", help="where to write a contact sheet")
    add("--threads", type=int, default=os.cpu_count() or 1, help="threads of the runtime (default: %(default)s)")
    add_io_flags(parser)
    args = parser.parse_args(argv)
    check_sheet_path(args.sheet)
    if args.out and args.out.is_dir():
        raise FaceError(
            f"--out must be the path of a CSV file. '{args.out}' is a folder: choose a file in this folder."
        )
    if args.max_images < 1:
        raise FaceError(f"The centre of an identity needs at least one face. Received: --max-images {args.max_images}.")
    if not (math.isfinite(args.chance_hits) and args.chance_hits > 0):
        raise FaceError(f"--chance-hits must be a number above 0, such as 0.1. Received: {args.chance_hits:g}.")
    if args.threads < 1:
        raise FaceError(f"--threads must be at least 1. Received: {args.threads}.")
    return args


if __name__ == "__main__":
    run_cli(main)
