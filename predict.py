"""Compare two faces, or find a face among enrolled people, with any artefact (.h5, .pb, .tflite, .onnx).

    python predict.py A.jpg B.jpg --model X [--out PNG]     same person or not, at the calibrated threshold
    python predict.py enroll FOLDERS GALLERY --model X      one folder per person -> GALLERY (.npy) and GALLERY.json
    python predict.py search PHOTO GALLERY                  which person of the gallery it is, or unknown
    python predict.py gallery GALLERY [--remove NAME ...]   who is enrolled; add, remove or rename people
    python predict.py watch SOURCE GALLERY [--out MP4]      who is seen in a video, or by a camera (number, address)

A 112x112 image is treated as an aligned crop. In any other photo, one face is found and aligned. If there are several
faces, predict.py uses the one that is large and near the middle, like align_faces.py. With --face all, comparing and
searching use all faces. The distance is the squared L2 distance between unit embeddings, from 0 to 4. The threshold is
in the model's sidecar: the model's test script writes it there.
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from facelib.alignment.align import Crop
from facelib.alignment.flags import add_face_flags, several_note
from facelib.alignment.photos import FaceCutter, PhotoFaces
from facelib.cli import add_io_flags, choose_io, print_next, print_notes, run_cli, script_parser
from facelib.data.readers.sources import open_source
from facelib.embedder import Embedder
from facelib.errors import BadRecord, FaceError
from facelib.evaluation.nearest import Nearest
from facelib.evaluation.probability import Ratio, probability
from facelib.evaluation.thresholds import read_ratio
from facelib.extras import require
from facelib.files import read_image_file, require_file, sha256_of, write_bytes
from facelib.model_input import Io
from facelib.recognition.decision import Decision, about, decide_by, verdict_picture
from facelib.recognition.edit_gallery import add_people, people_table, remove_people, rename_person
from facelib.recognition.enrolment import enrol_photos
from facelib.recognition.gallery import (
    Gallery,
    check_gallery_model,
    check_gallery_path,
    open_gallery,
    save_gallery,
    write_gallery,
)
from facelib.recognition.open_set import check_fpir, for_its_size, open_set_decision, size_notes
from facelib.recognition.photo_embeddings import unit_vectors
from facelib.recognition.score_normalisation import Found, NormalisedSearch, open_normalised
from facelib.recognition.video.command import add_watch_flags, check_watch_flags, run_watch, say
from facelib.runtimes.open_embedder import open_embedder
from facelib.self_test import run_self_test
from facelib.sidecar import Sidecar, check_sidecar, check_unchanged, keep_flags, kind_of, sidecar_path
from facelib.unit_vectors import check_differ

SHOWN_PAIRS = 20  # of two photos of groups; all pairs of one person are shown
MANY_CHANCE_HITS = 0.01  # a search says so when a stranger is expected to be taken for somebody more often


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    command = {"enroll": enroll, "search": search, "gallery": gallery, "watch": watch}.get(argv[0] if argv else "")
    return command(argv[1:]) if command else compare(argv)


def compare(argv: list[str]) -> int:
    """A B --model X: the distance of two faces, and the verdict."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "a",
        type=Path,
        metavar="A",
        help="photo or crop (if the file has the name of a command, write it as a path, such as ./enroll)",
    )
    parser.add_argument("b", type=Path, metavar="B", help="second photo or crop")
    parser.add_argument("--out", type=Path, metavar="PNG", help="PNG to write, with the two faces and the verdict")
    prior_help = "probability that the two people are the same, before the faces are compared (default: %(default)s)"
    parser.add_argument("--prior", type=float, default=0.5, metavar="P", help=prior_help)
    add_face_flags(parser, quality=False)
    args = parse(parser, argv)
    if not 0 < args.prior < 1:
        raise FaceError(f"A prior must be a probability between 0 and 1. Received: --prior {args.prior:g}.")
    if args.out and args.out.suffix.lower() != ".png":
        raise FaceError(f"The name of the picture must end in .png. Received: --out {args.out}.")
    if args.out:
        require("matplotlib")
    decision = decide_by(args.model, args.far, args.threshold)
    embedder, io, sidecar = open_model(args)
    cut = FaceCutter(args.face)
    photos = [read_faces(path, cut) for path in (args.a, args.b)]
    a, b = (embed_faces(embedder, *photo, decision.flip) for photo in zip(photos, (args.a, args.b), strict=True))
    if not np.array_equal(photos[0].crops[0].pixels, photos[1].crops[0].pixels):
        check_differ(np.concatenate([a, b]), f"'{args.model}'")
    keep_flags(args.model, kind_of(args.model), io, sidecar)
    distances = np.square(a[:, None] - b).sum(axis=2)
    i, j = np.unravel_index(np.argmin(distances), distances.shape)
    distance = float(distances[i, j])
    if distances.size > 1:
        print("\n".join(pair_lines(photos, (args.a, args.b), distances, decision)))
    else:
        verdict = "same person" if distance <= decision.distance else "different people"
        print(f"{verdict}: distance {distance:.4f}, cosine {1 - distance / 2:.4f}")
        if found := read_ratio(args.model, decision.flip):
            print(probability_line(*found, distance, args.prior))
    print(decision)
    print_several(photos, (args.a, args.b), args.face)
    if args.out:
        faces = [photos[0].crops[i].pixels, photos[1].crops[j].pixels]
        write_bytes(args.out, verdict_picture(faces, [args.a.name, args.b.name], distance, decision))
        print(f"wrote {args.out}{': the nearest pair' if distances.size > 1 else ''}")
    return 0


def probability_line(ratio: Ratio, set_name: str, distance: float, prior: float) -> str:
    """The probability that a pair at `distance` is the same person, with its interval and its origin."""
    ratios = (float(ratio.at(distance)), *ratio.interval(distance))
    middle, low, high = (f"{probability(one, prior):.4f}" for one in ratios)
    return (
        f"P(same person) {middle} [{low}, {high}] at prior {prior:g}; log-likelihood ratio {ratios[0]:+.2f} "
        f"[{ratios[1]:+.2f}, {ratios[2]:+.2f}], calibrated on {set_name}"
    )


def pair_lines(
    photos: Sequence[PhotoFaces], paths: Sequence[Path], distances: np.ndarray, decision: Decision
) -> list[str]:
    """Which faces of two photos of several people match: where each face is, and the pairs, nearest first.

    Args:
        photos: two.
        paths: of them.
        distances: squared L2 of every face of the first and every face of the second.
        decision: the threshold.
    """
    is_same = distances <= decision.distance
    lines = [f"{is_same.sum()} of {distances.size} pairs are the same person"]
    for letter, photo, path in zip("AB", photos, paths, strict=True):
        places = [f"{letter}{k} {place_of(crop)}" for k, crop in enumerate(photo.crops, 1)]
        lines.append(f"  {path.name}: {', '.join(places)}")
    lines.append(f"  {'':2} {'pair':<9} {'distance':>8} {'cosine':>8}")
    shown = max(SHOWN_PAIRS, int(is_same.sum()))
    for cell in np.argsort(distances, axis=None, kind="stable").tolist()[:shown]:
        i, j = divmod(cell, distances.shape[1])
        mark, pair, distance = "*" if is_same[i, j] else "", f"A{i + 1} B{j + 1}", distances[i, j]
        lines.append(f"  {mark:2} {pair:<9} {distance:8.4f} {1 - distance / 2:8.4f}")
    return [*lines, "* same person"]


def place_of(crop: Crop) -> str:
    """Where a face is in its photo: the middle of its box and its side, in pixels."""
    if crop.box is None:
        return "(the whole crop)"
    x, y, width, height = crop.box
    return f"({width:.0f} pixels wide, at {x + width / 2:.0f},{y + height / 2:.0f})"


def print_several(photos: Sequence[PhotoFaces], paths: Sequence[Path], rule: str) -> None:
    """Says which photos show several faces and which were taken."""
    several = {path.name: photo.num_faces for path, photo in zip(paths, photos, strict=True) if photo.num_faces > 1}
    print_notes(several_note(several, rule))


def enroll(argv: list[str]) -> int:
    """FOLDERS GALLERY --model X: the mean embedding of each person's photos, one folder per person."""
    parser = argparse.ArgumentParser(prog="predict.py enroll", description=enroll.__doc__)
    parser.add_argument(
        "folders",
        type=Path,
        help="one folder per person, or face data in any other format that prepare_data.py accepts",
    )
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="file to write, such as people.npy")
    add_face_flags(parser, ("central", "largest"))
    args = parse(parser, argv, is_search=True)
    check_gallery_path(args.gallery)
    source = open_source(args.folders)
    sha256 = sha256_of(require_file(args.model, "model"))
    decision = threshold_or_none(args)
    embedder, io, sidecar = open_model(args)
    flip = bool(decision and decision.flip)
    cut = FaceCutter(args.face, args.min_quality)
    people = enrol_photos(source, args.folders, embedder, flip, cut, args.model)
    if args.fpir is not None:
        decision = open_set_decision(people.vectors, args.fpir, args.model, flip)
    check_unchanged(args.model, sha256)
    keep_flags(args.model, kind_of(args.model), io, sidecar)
    write_gallery(
        args.gallery, people.vectors, people.names, people.num_photos, model=args.model, io=io, flip=flip,
        decision=decision, quality=people.quality, norms=people.norms,
    )  # fmt: skip
    print("\n".join(people.notes), end="\n" * bool(people.notes))
    print(
        f"wrote {args.gallery}: {len(people.names):,} people, {sum(people.num_photos):,} photos; "
        f"{decision or 'no threshold'}"
    )
    print_notes(size_notes(decision))
    if decision is None:
        print(
            "the model has no calibrated threshold: search with --threshold DISTANCE, or calibrate the model "
            "with its test script"
        )
    print_next("python", "predict.py", "search", "PHOTO", args.gallery)
    return 0


def search(argv: list[str]) -> int:
    """PHOTO GALLERY [--top K]: the nearest people of the gallery; unknown when none is within the threshold."""
    parser = argparse.ArgumentParser(prog="predict.py search", description=search.__doc__)
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="photo or crop")
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="gallery that the command enroll wrote")
    parser.add_argument(
        "--top", type=int, default=5, metavar="K", help="number of people to list (default: %(default)s)"
    )
    cohort_help = "gallery of other people. Their cosines to each face normalise the scores (AS-norm); needs --fpir"
    parser.add_argument("--cohort", type=Path, metavar="GALLERY", help=cohort_help)
    add_face_flags(parser, quality=False)
    args = parse(parser, argv, has_gallery=True, is_search=True)
    if args.top < 1:
        raise FaceError(f"A search must list at least one person. Received: --top {args.top}.")
    gallery = open_gallery(args.gallery)
    args.model, enrolled_by = check_gallery_model(gallery, args.model)
    sidecar = check_sidecar(args.model)
    threshold: Decision | NormalisedSearch
    find: Callable[[np.ndarray, int], Found]
    if args.cohort:
        threshold = find = open_by_cohort(gallery, args, enrolled_by)
        notes = []
    else:
        threshold = search_decision(gallery, args, enrolled_by)
        find, notes = by_distance(gallery, threshold), chance_notes(gallery, threshold)
    photo = read_faces(args.photo, FaceCutter(args.face))
    embedder = open_searching(gallery, args, sidecar, enrolled_by)
    queries = embed_faces(embedder, photo, args.photo, gallery.flip)
    if queries.shape[1] != gallery.vectors.shape[1]:
        raise FaceError(
            f"A photo and a gallery must have embeddings of the same size. '{args.model}' gives {queries.shape[1]} "
            f"values, '{gallery.path}' has {gallery.vectors.shape[1]}. Enrol the gallery again with this model."
        )
    for crop, query in zip(photo.crops, queries, strict=True):
        print_found(gallery, find(query, args.top), f"face {place_of(crop)}: " if len(queries) > 1 else "")
    print(f"* within the {threshold}")
    print_several([photo], [args.photo], args.face)
    print_notes(notes)
    return 0


def by_distance(gallery: Gallery, decision: Decision) -> Callable[[np.ndarray, int], Found]:
    """The search of a gallery for the nearest people: (query, how many people) -> who."""
    nearest = Nearest(gallery.vectors)

    def find(query: np.ndarray, top: int) -> Found:
        found = nearest(query, top)
        return Found(found.rows, found.cosines, distances_of(found.cosines) <= decision.distance)

    return find


def open_by_cohort(gallery: Gallery, args: argparse.Namespace, enrolled_by: str | None) -> NormalisedSearch:
    """The search with the cohort of --cohort."""
    if enrolled_by or args.far is not None or args.threshold is not None:
        raise FaceError(
            "--cohort works only with --fpir, and only if the gallery is searched with the model that made it. Leave "
            "out --far, --threshold and other models."
        )
    return open_normalised(gallery, args.cohort, args.fpir)


def gallery(argv: list[str]) -> int:
    """GALLERY [--remove NAME ...] [--rename OLD NEW] [--add FOLDERS]: lists the people of a gallery, or changes them.

    Several changes in one command are made in this order: remove, rename, add.
    """
    parser = argparse.ArgumentParser(
        prog="predict.py gallery", description=gallery.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="gallery that the command enroll wrote")
    parser.add_argument("--remove", nargs="+", default=[], metavar="NAME", help="remove these people")
    parser.add_argument(
        "--rename", nargs=2, action="append", default=[], metavar=("OLD", "NEW"), help="change the name of a person"
    )
    add_help = "also enrol the people of these folders, with the model that made the gallery"
    parser.add_argument("--add", type=Path, metavar="FOLDERS", help=add_help)
    add_face_flags(parser, ("central", "largest"))
    args = parse(parser, argv, has_gallery=True, has_threshold=False)
    changed = before = open_gallery(args.gallery)
    description = sidecar_path(args.gallery)
    sha256 = sha256_of(description)
    if args.remove:
        changed = remove_people(changed, args.remove)
    for old, new in args.rename:
        changed = rename_person(changed, old, new)
    if args.add:
        changed, notes = with_added(changed, args)
        print("\n".join(notes), end="\n" * bool(notes))
    if changed is before:
        print(people_table(before))
        return 0
    changed, notes = for_its_size(changed)
    check_unchanged(description, sha256)  # by another edit, which would be lost
    save_gallery(changed)
    print(f"wrote {args.gallery}: {len(changed):,} people, {len(before):,} before")
    print_notes(notes)
    return 0


def with_added(changed: Gallery, args: argparse.Namespace) -> tuple[Gallery, list[str]]:
    """(a gallery with the people of --add, what to say of their photos)."""
    args.model, enrolled_by = check_gallery_model(changed, args.model)
    if enrolled_by:
        raise FaceError(
            f"People must be added with the model that made the gallery. '{changed.path}' was made with "
            f"'{changed.model.name}', '{args.model}' is a different model. Pass '{changed.model.name}' with --model."
        )
    embedder = open_searching(changed, args, check_sidecar(args.model), None)
    cut = FaceCutter(args.face, args.min_quality)
    people = enrol_photos(open_source(args.add), args.add, embedder, changed.flip, cut, args.model)
    if people.vectors.shape[1] != changed.vectors.shape[1]:
        raise FaceError(
            f"All people of a gallery must have embeddings of the same size. '{args.model}' gives "
            f"{people.vectors.shape[1]} values, '{changed.path}' has {changed.vectors.shape[1]}. Enrol the gallery "
            "again."
        )
    return add_people(changed, people.in_gallery(changed)), people.notes


def chance_notes(gallery: Gallery, decision: Decision) -> list[str]:
    """The note that a stranger is often taken for somebody in this gallery; none if it is rare."""
    if decision.open_set:
        return size_notes(decision)
    expected = (decision.far or 0.0) * len(gallery)
    if expected <= MANY_CHANCE_HITS:
        return []
    return [
        f"{len(gallery):,} comparisons at this FAR match a stranger with {about(expected)} people on average; "
        f"choose an --fpir, a smaller --far or a --threshold"
    ]


def watch(argv: list[str]) -> int:
    """SOURCE GALLERY [--out MP4]: who is seen in a video or by a camera; a line of JSON for each appearance."""
    parser = argparse.ArgumentParser(prog="predict.py watch", description=watch.__doc__)
    source_help = "video file, the number of a camera, or an address such as rtsp://HOST/PATH"
    parser.add_argument("source", metavar="SOURCE", help=source_help)
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="gallery that the command enroll wrote")
    add_watch_flags(parser)
    args = parse(parser, argv, has_gallery=True, is_search=True)
    check_watch_flags(args)
    gallery = open_gallery(args.gallery)
    args.model, enrolled_by = check_gallery_model(gallery, args.model)
    sidecar = check_sidecar(args.model)
    decision = search_decision(gallery, args, enrolled_by)
    for note in chance_notes(gallery, decision):
        say(f"note: {note}")
    calibrated = None if enrolled_by else read_ratio(args.model, gallery.flip)
    embedder = open_searching(gallery, args, sidecar, enrolled_by)
    return run_watch(args, gallery, decision, embedder, calibrated[0] if calibrated else None)


def print_found(gallery: Gallery, found: Found, face: str) -> None:
    """Prints who a face is, or that it is unknown, and the nearest people.

    Args:
        gallery: that was searched.
        found: in it.
        face: what stands before the answer where a photo has several faces.
    """
    distances, scores = distances_of(found.cosines), found.scores
    if found.is_within[0]:
        score = "" if scores is None else f", score {scores[0]:.4f}"
        name = gallery.names[found.rows[0]]
        print(f"{face}{name}: distance {distances[0]:.4f}, cosine {1 - distances[0] / 2:.4f}{score}")
    else:
        print(f"{face}unknown: none of {len(gallery):,} people is within the threshold")
    head = "" if scores is None else f" {'score':>8}"
    print(f"  {'':2} {'identity':<28} {'distance':>8} {'cosine':>8} {'photos':>6}{head}")
    for i, (row, distance) in enumerate(zip(found.rows.tolist(), distances, strict=True)):
        mark, score = "*" if found.is_within[i] else "", "" if scores is None else f" {scores[i]:8.4f}"
        print(
            f"  {mark:2} {gallery.names[row]:<28} {distance:8.4f} {1 - distance / 2:8.4f} "
            f"{gallery.num_photos[row]:6d}{score}"
        )


def distances_of(cosines: np.ndarray) -> np.ndarray:
    """Squared L2 distances of unit vectors, float64, from their cosines."""
    return np.clip(2.0 - 2.0 * cosines.astype(np.float64), 0.0, 4.0)


def threshold_or_none(args: argparse.Namespace) -> Decision | None:
    """The threshold to record if --fpir does not set it. A model without one can enrol, unless --far is given."""
    if args.far is None and args.threshold is None:
        sidecar = check_sidecar(args.model)
        if sidecar is None or not sidecar.rest.get("thresholds"):
            return None
    try:
        return decide_by(args.model, args.far, args.threshold)
    except FaceError:
        if args.fpir is None:
            raise
        return None


def search_decision(gallery: Gallery, args: argparse.Namespace, enrolled_by: str | None) -> Decision:
    """The threshold: of --threshold or --fpir; else the model's for --far; else the gallery's; else the model's.

    If another model enrolled the gallery, whose SHA-256 is `enrolled_by`, the model's threshold for the two together.
    """
    if args.fpir is not None and enrolled_by:
        raise FaceError(
            f"--fpir works only if the gallery is searched with the model that made it. '{gallery.path}' was made "
            f"with '{gallery.model.name}', '{args.model}' is another model. Use --far or --threshold instead."
        )
    if args.fpir is not None:
        return open_set_decision(gallery.vectors, args.fpir, args.model, gallery.flip)
    if args.threshold is None and args.far is None and gallery.decision is not None and enrolled_by is None:
        return gallery.decision
    decision = decide_by(args.model, args.far, args.threshold, enrolled_by)
    if decision.calibrated and decision.flip != gallery.flip:
        raise FaceError(
            f"A threshold and a gallery must both be made with mirrored faces, or both without. '{gallery.path}' was "
            f"enrolled {'with' if gallery.flip else 'without'} mirrored faces, and '{args.model}' was calibrated "
            f"{'with' if decision.flip else 'without'} mirrored faces. Enrol the gallery again."
        )
    return decision


def open_model(args: argparse.Namespace) -> tuple[Embedder, Io, Sidecar | None]:
    """(the embedder of `--model`, how it is fed, its sidecar): as the sidecar says, or the flags."""
    sidecar = check_sidecar(args.model)
    io = choose_io(sidecar, args)
    embedder = open_embedder(args.model, io, args.threads)
    run_self_test(embedder, sidecar)
    return embedder, io, sidecar


def open_searching(
    gallery: Gallery, args: argparse.Namespace, sidecar: Sidecar | None, enrolled_by: str | None
) -> Embedder:
    """The model that searches a gallery: fed as it was for the gallery, or as its sidecar says if it is another one."""
    embedder = open_embedder(args.model, sidecar.io if sidecar and enrolled_by else gallery.io, args.threads)
    run_self_test(embedder, sidecar)
    return embedder


def read_faces(path: Path, cut: FaceCutter) -> PhotoFaces:
    """The faces that are taken from a photo."""
    try:
        data = read_image_file(require_file(path, "photo"))
    except BadRecord as error:
        raise FaceError(f"The photo '{path}': {error}. Use a different photo.") from error
    return cut.cut(data, f"'{path}'")


def embed_faces(embedder: Embedder, photo: PhotoFaces, path: Path, flip: bool) -> np.ndarray:
    """Unit vectors, float32 [N, D], of the faces of a photo."""
    faces = np.stack([crop.pixels for crop in photo.crops])
    return unit_vectors(embedder, faces, flip, [f"'{path}'"] * len(faces))


def parse(
    parser: argparse.ArgumentParser,
    argv: list[str],
    has_gallery: bool = False,
    has_threshold: bool = True,
    is_search: bool = False,
) -> argparse.Namespace:
    """Adds the flags that the commands share, and parses. A gallery knows its model and how it is fed."""
    other = "X with the same content" if has_gallery else ".h5, .pb, .tflite or .onnx"
    parser.add_argument("--model", type=Path, required=not has_gallery, metavar="X", help=other)
    if has_threshold:
        add_threshold_flags(parser, is_search)
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="threads of the runtime (default: %(default)s)"
    )
    if not has_gallery:
        add_io_flags(parser)
    args = parser.parse_args(argv)
    if args.threads < 1:
        raise FaceError(f"--threads must be at least 1. Received: {args.threads}.")
    if is_search and args.fpir is not None:
        check_fpir(args.fpir)
    return args


def add_threshold_flags(parser: argparse.ArgumentParser, is_search: bool) -> None:
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
    if is_search:
        fpir_help = (
            "choose the threshold for this gallery so that at most this share of the searches for strangers finds "
            "somebody"
        )
        which.add_argument("--fpir", type=float, metavar="RATE", help=fpir_help)


if __name__ == "__main__":
    run_cli(main)
