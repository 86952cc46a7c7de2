"""Compare two faces, or find a face among enrolled people, with any artefact (.h5, .pb, .tflite, .onnx).

    python predict.py A.jpg B.jpg --model X [--out PNG]     same person or not, at the calibrated threshold
    python predict.py enroll FOLDERS GALLERY --model X      one folder per person -> GALLERY (.npy) and GALLERY.json
    python predict.py search PHOTO GALLERY                  which person of the gallery it is, or unknown

A 112x112 image is treated as an aligned crop; in any other photo the largest face is found and aligned. The distance is
the squared L2 of unit embeddings, 0 to 4; the threshold comes from the model's sidecar (its test script writes it).
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facelib.alignment.photos import FaceCutter
from facelib.cli import add_io_flags, choose_io, print_next, print_notes, run_cli, script_parser
from facelib.data.readers.sources import open_source
from facelib.embedder import Embedder
from facelib.errors import BadRecord, FaceError
from facelib.evaluation.nearest import Nearest
from facelib.extras import require
from facelib.files import read_image_file, require_file, sha256_of, write_bytes
from facelib.model_input import Io
from facelib.recognition.decision import Decision, about, decide_by, verdict_picture
from facelib.recognition.gallery import (
    Gallery,
    check_gallery_model,
    check_gallery_path,
    check_names,
    open_gallery,
    write_gallery,
)
from facelib.recognition.photo_embeddings import class_centres, embed_photos, unit_vectors
from facelib.runtimes.open_embedder import open_embedder
from facelib.sidecar import Sidecar, check_sidecar, check_unchanged, keep_flags, kind_of
from facelib.unit_vectors import check_differ

MANY_CHANCE_HITS = 0.01  # a search says so when a stranger is expected to be taken for somebody more often


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    command = {"enroll": enroll, "search": search}.get(argv[0] if argv else "")
    return command(argv[1:]) if command else compare(argv)


def compare(argv: list[str]) -> int:
    """A B --model X: the distance of two faces, and the verdict."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "a", type=Path, metavar="A", help="a photo or crop (write a file called enroll or search as ./enroll)"
    )
    parser.add_argument("b", type=Path, metavar="B", help="another photo or crop")
    parser.add_argument("--out", type=Path, metavar="PNG", help="where to draw the two faces and the verdict")
    args = parse(parser, argv)
    if args.out and args.out.suffix.lower() != ".png":
        raise FaceError(f"The picture is a .png. Received: --out {args.out}.")
    if args.out:
        require("matplotlib")
    decision = decide_by(args.model, args.far, args.threshold)
    embedder, io, sidecar = open_model(args)
    cut = FaceCutter()
    faces = [read_face(path, cut) for path in (args.a, args.b)]
    a, b = (embed_one(embedder, face, decision.flip, path) for face, path in zip(faces, (args.a, args.b), strict=True))
    if not np.array_equal(faces[0], faces[1]):
        check_differ(np.stack([a, b]), f"'{args.model}'")
    keep_flags(args.model, kind_of(args.model), io, sidecar)
    distance = float(np.square(a - b).sum())
    verdict = "same person" if distance <= decision.distance else "different people"
    print(f"{verdict}: distance {distance:.4f}, cosine {1 - distance / 2:.4f}")
    print(decision)
    if args.out:
        write_bytes(args.out, verdict_picture(faces, [args.a.name, args.b.name], distance, decision))
        print(f"wrote {args.out}")
    return 0


def enroll(argv: list[str]) -> int:
    """FOLDERS GALLERY --model X: the mean embedding of each person's photos, one folder per person."""
    parser = argparse.ArgumentParser(prog="predict.py enroll", description=enroll.__doc__)
    parser.add_argument(
        "folders", type=Path, help="one folder per person, or face data of another format that prepare_data.py takes"
    )
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="file to write, such as people.npy")
    args = parse(parser, argv)
    check_gallery_path(args.gallery)
    source = open_source(args.folders)
    check_names(source.class_names)
    sha256 = sha256_of(require_file(args.model, "model"))
    decision = threshold_or_none(args)
    embedder, io, sidecar = open_model(args)
    flip = bool(decision and decision.flip)
    bad: list[str] = []
    embedded = embed_photos(source, range(len(source)), embedder, flip, bad=bad, desc="enroll")
    centres = class_centres(embedded, source.labels)
    if not len(centres.labels):
        raise FaceError(f"Nobody in '{args.folders}' could be enrolled. The first of {len(bad)} bad photos: {bad[0]}")
    check_differ(centres.vectors, f"'{args.model}'")
    names = [source.class_names[label] for label in centres.labels]
    check_unchanged(args.model, sha256)
    keep_flags(args.model, kind_of(args.model), io, sidecar)
    write_gallery(
        args.gallery, centres.vectors, names, centres.counts.tolist(),
        model=args.model, io=io, flip=flip, decision=decision,
    )  # fmt: skip
    print_notes(source.notes)
    for line in bad:
        print(f"left out: {line}")
    for label in sorted(set(source.labels.tolist()) - set(centres.labels.tolist())):
        print(f"not enrolled: {source.class_names[label]}, none of whose photos shows a face")
    print(
        f"wrote {args.gallery}: {len(names):,} people, {int(centres.counts.sum()):,} photos; "
        f"{decision or 'no threshold'}"
    )
    if decision is None:
        print(
            "the model has no calibrated threshold: search with --threshold DISTANCE, or calibrate by its test script"
        )
    print_next("python", "predict.py", "search", "PHOTO", args.gallery)
    return 0


def search(argv: list[str]) -> int:
    """PHOTO GALLERY [--top K]: the nearest people of the gallery; unknown when none is within the threshold."""
    parser = argparse.ArgumentParser(prog="predict.py search", description=search.__doc__)
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="a photo or crop")
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="the gallery that the command enroll wrote")
    parser.add_argument(
        "--top", type=int, default=5, metavar="K", help="number of people to list (default: %(default)s)"
    )
    args = parse(parser, argv, has_gallery=True)
    if args.top < 1:
        raise FaceError(f"A search lists one person or more. Received: --top {args.top}.")
    gallery = open_gallery(args.gallery)
    args.model, enrolled_by = check_gallery_model(gallery, args.model)
    sidecar = check_sidecar(args.model)
    decision = search_decision(gallery, args, enrolled_by)
    face = read_face(args.photo, FaceCutter())
    io = sidecar.io if sidecar and enrolled_by else gallery.io
    embedder = open_embedder(args.model, io, args.threads)
    query = embed_one(embedder, face, gallery.flip, args.photo)
    if len(query) != gallery.vectors.shape[1]:
        raise FaceError(
            f"A probe and a gallery have embeddings of one size. '{args.model}' gives {len(query)} values, "
            f"'{gallery.path}' has {gallery.vectors.shape[1]}. Enrol again."
        )
    found = Nearest(gallery.vectors)(query, args.top)
    distances = np.clip(2.0 - 2.0 * found.cosines.astype(np.float64), 0.0, 4.0)
    if distances[0] <= decision.distance:
        print(f"{gallery.names[found.rows[0]]}: distance {distances[0]:.4f}, cosine {1 - distances[0] / 2:.4f}")
    else:
        print(f"unknown: nobody of {len(gallery):,} people is within the threshold")
    print(f"  {'':2} {'identity':<28} {'distance':>8} {'cosine':>8} {'photos':>6}")
    for row, distance in zip(found.rows.tolist(), distances.tolist(), strict=True):
        mark = "*" if distance <= decision.distance else ""
        photos = gallery.num_photos[row]
        print(f"  {mark:2} {gallery.names[row]:<28} {distance:8.4f} {1 - distance / 2:8.4f} {photos:6d}")
    print(f"* within the {decision}")
    expected = (decision.far or 0.0) * len(gallery)
    if expected > MANY_CHANCE_HITS:
        print(
            f"note: {len(gallery):,} comparisons at that FAR take a stranger for {about(expected)} people on average; "
            f"choose a smaller --far or a --threshold"
        )
    return 0


def threshold_or_none(args: argparse.Namespace) -> Decision | None:
    """The threshold to record. A model without a calibrated threshold can enrol, unless --far is given."""
    if args.far is None and args.threshold is None:
        sidecar = check_sidecar(args.model)
        if sidecar is None or not sidecar.rest.get("thresholds"):
            return None
    return decide_by(args.model, args.far, args.threshold)


def search_decision(gallery: Gallery, args: argparse.Namespace, enrolled_by: str | None) -> Decision:
    """The threshold: of --threshold; else the model's for --far; else the one in the gallery; else the model's.

    If another model enrolled the gallery, whose SHA-256 is `enrolled_by`, the model's threshold for the two together.
    """
    if args.threshold is None and args.far is None and gallery.decision is not None and enrolled_by is None:
        return gallery.decision
    decision = decide_by(args.model, args.far, args.threshold, enrolled_by)
    if decision.calibrated and decision.flip != gallery.flip:
        raise FaceError(
            f"A threshold and a gallery are both made with mirrored faces, or both without. '{gallery.path}' was "
            f"enrolled {'with' if gallery.flip else 'without'} them, and '{args.model}' was calibrated "
            f"{'with' if decision.flip else 'without'} them. Enrol again."
        )
    return decision


def open_model(args: argparse.Namespace) -> tuple[Embedder, Io, Sidecar | None]:
    """(the embedder of `--model`, how it is fed, its sidecar): as the sidecar says, or the flags."""
    sidecar = check_sidecar(args.model)
    io = choose_io(sidecar, args)
    return open_embedder(args.model, io, args.threads), io, sidecar


def read_face(path: Path, cut: FaceCutter) -> np.ndarray:
    """The face in a photo: uint8 [112, 112, 3] RGB."""
    try:
        data = read_image_file(require_file(path, "photo"))
    except BadRecord as error:
        raise FaceError(f"The photo '{path}': {error}. Take another one.") from error
    return cut(data, f"'{path}'")


def embed_one(embedder: Embedder, face: np.ndarray, flip: bool, path: Path) -> np.ndarray:
    """Unit vector, float32 [D], of a face uint8 [112, 112, 3] RGB."""
    return unit_vectors(embedder, face[None], flip, [f"'{path}'"])[0]


def parse(parser: argparse.ArgumentParser, argv: list[str], has_gallery: bool = False) -> argparse.Namespace:
    """Adds the flags that the commands share, and parses. A gallery knows its model and how it is fed."""
    other = "X with the same content" if has_gallery else ".h5, .pb, .tflite or .onnx"
    parser.add_argument("--model", type=Path, required=not has_gallery, metavar="X", help=other)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--far", type=float, metavar="RATE", help="use the threshold calibrated for this FAR (default: 0.001)"
    )
    which.add_argument(
        "--threshold",
        type=float,
        metavar="DISTANCE",
        help="use this threshold instead, a squared L2 distance from 0 to 4",
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="threads of the runtime (default: %(default)s)"
    )
    if not has_gallery:
        add_io_flags(parser)
    args = parser.parse_args(argv)
    if args.threads < 1:
        raise FaceError(f"A runtime has at least one thread. Received: --threads {args.threads}.")
    return args


if __name__ == "__main__":
    run_cli(main)
