"""Test a model on IJB-B or IJB-C: 1:1 verification and 1:N identification, from the standard meta files.

    python tools/evaluate_ijb.py runs/demo/embedder.h5 --meta IJBC/meta --images IJBC/loose_crop

MODEL is any artefact: .h5, .pb, .tflite or .onnx. By default, embeddings keep their norms (N1), each is weighted by the
detector score (D1), and the embedding of the mirrored image is added (F1). TAR@FAR is measured at the loosest threshold
whose FAR is not above the stated FAR. Other scripts usually take the point of scikit-learn's ROC whose FAR is nearest
to the stated FAR. The FAR of this point may be above the stated FAR, so the TAR of other scripts can be higher. To
compare with their tables, add --nearest.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import math
import os
from collections.abc import Sequence
from typing import Any

from facelib.cli import add_io_flags, choose_io, run_cli, script_parser
from facelib.errors import FaceError
from facelib.evaluation.flags import add_far_flag, check_fars
from facelib.evaluation.identification import Identification
from facelib.evaluation.ijb.embed import IjbEmbeddings, check_images, embed_faces
from facelib.evaluation.ijb.files import PROTOCOLS, IjbFaces, IjbPaths, find_meta, read_faces, read_pairs, read_subjects
from facelib.evaluation.ijb.protocol import (
    FARS,
    Verification,
    identify_galleries,
    mean_of,
    pool_templates,
    score_pairs,
    verify,
)
from facelib.files import sha256_of, write_json
from facelib.runtimes.open_embedder import open_embedder
from facelib.self_test import run_self_test
from facelib.sidecar import check_sidecar, check_unchanged, keep_flags, kind_of
from facelib.unit_vectors import check_differ

FPIRS = (0.01, 0.1)
RANKS = (1, 5)


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse_args(argv)
    sidecar = check_sidecar(args.model)
    sha256 = sidecar.sha256 if sidecar else sha256_of(args.model)
    io = choose_io(sidecar, args)
    paths = find_meta(args.meta, args.protocol)
    faces = read_faces(paths)
    tests = [_read_test(paths, protocol, faces) for protocol in args.protocol]  # a bad line shows before the work
    check_images(faces, args.images)
    embedder = open_embedder(args.model, io, args.threads)
    run_self_test(embedder, sidecar)
    print(f"{paths.name}: {len(faces.images):,} images, {len(faces.template_ids):,} templates, {_switches(args)}")
    embedded = embed_faces(embedder, faces, args.images, flip=args.flip, threads=args.threads)
    check_unchanged(args.model, sha256)
    templates = pool_templates(embedded.rows, faces, normalize=args.normalize, detector_score=args.detector_score)
    check_differ(templates, f"'{args.model}'")
    keep_flags(args.model, kind_of(args.model), io, sidecar)
    results = {}
    for protocol, test in zip(args.protocol, tests, strict=True):
        if protocol == "1:1":
            first, second, is_same = test
            verification = verify(score_pairs(templates, first, second), is_same, args.far, nearest=args.nearest)
            results["verification"] = verification.as_dict()
            print(format_verification(verification))
        else:
            galleries, probes = test
            found = identify_galleries(templates, galleries, probes, ranks=RANKS, fpirs=FPIRS)
            mean = mean_of([found[name] for name in galleries])
            results["identification"] = {**{name: one.as_dict() for name, one in found.items()}, "mean": mean}
            print(format_identification(found, mean))
    path = args.report or args.model.with_name(args.model.name + ".ijb.report.json")
    head = _head(args, paths, faces, embedded, sidecar.kind if sidecar else None)
    write_json(path, {**head, "sha256": sha256, **results})
    print(f"wrote {path}")
    return 0


def format_verification(result: Verification) -> str:
    """The 1:1 table."""
    lines = [
        f"1:1, {result.pairs:,} pairs, {result.genuine:,} genuine: AUC {result.auc:.5f}, EER {100 * result.eer:.2f} %",
        *(["TAR at the nearest FAR of the ROC, which may be above the stated one"] if result.rule == "nearest" else []),
        f"{'FAR':>7} | {'TAR %':>6} | {'95 %':>13} | {'its FAR':>9} | cosine",
    ]
    for point in result.vr:
        if point.tar is None or point.ci95 is None or point.threshold is None:
            lines.append(f"{point.far_target:7g} | {'n/a':>6} | needs >= {point.needs_impostors:,} impostors")
            continue
        low, high = (100 * rate for rate in point.ci95)
        cosine = f"{1 - point.threshold / 2:.5f}" if math.isfinite(point.threshold) else "above all"
        lines.append(
            f"{point.far_target:7g} | {100 * point.tar:6.2f} | {low:6.2f}-{high:6.2f} | {point.far:9.3g} | {cosine}"
        )
    return "\n".join(lines)


def format_identification(found: dict[str, Identification], mean: dict[str, Any]) -> str:
    """The 1:N table: a line for each gallery, their mean, all of them together."""
    rates = [f"rank-{k} %" for k in RANKS] + [f"TPIR % @ FPIR {fpir:g}" for fpir in FPIRS]
    lines = [" | ".join([f"{'1:N':7}", "gallery", "  mated", "unmated", *rates])]
    *alone, together = found.items()
    for name, one in (*alone, ("mean", None), together):
        values = mean if one is None else one.as_dict()
        counts = ["", "", ""] if one is None else [f"{one.gallery:,}", f"{one.mated:,}", f"{one.unmated:,}"]
        shown = [values["rank"][str(k)] for k in RANKS]
        shown += [None if (miss := values["fnir"][f"{fpir:g}"]["fnir"]) is None else 1 - miss for fpir in FPIRS]
        cells = ["n/a" if rate is None else f"{100 * rate:.2f}" for rate in shown]
        cells = [cell.rjust(len(title)) for cell, title in zip(cells, rates, strict=True)]
        lines.append(" | ".join([f"{name:7}", *(count.rjust(7) for count in counts), *cells]))
    return "\n".join(lines)


def _read_test(paths: IjbPaths, protocol: str, faces: IjbFaces) -> tuple:
    """Of 1:1: first, second, is_same. Of 1:N: galleries by name, probes."""
    if protocol == "1:1":
        return read_pairs(paths.pairs, faces.template_ids)
    galleries = {name: read_subjects(path, faces.template_ids) for name, path in paths.galleries.items()}
    return galleries, read_subjects(paths.probes, faces.template_ids)


def _head(
    args: argparse.Namespace, paths: IjbPaths, faces: IjbFaces, embedded: IjbEmbeddings, kind: str | None
) -> dict[str, Any]:
    """What was tested, and how: the report without its results."""
    num_images = len(faces.images) * (2 if args.flip else 1)
    return {
        "artifact": args.model.name,
        "kind": kind or kind_of(args.model),
        "size_bytes": args.model.stat().st_size,
        "images_per_s": round(num_images / embedded.seconds, 3),
        "ms_per_image": round(1000 * embedded.seconds / num_images, 4),
        "threads": args.threads,
        "mean_norm": embedded.mean_norm,
        "flip": args.flip,
        "normalize": args.normalize,
        "detector_score": args.detector_score,
        "set": paths.name,
        "images": len(faces.images),
        "templates": len(faces.template_ids),
    }


def _switches(args: argparse.Namespace) -> str:
    return f"N{int(not args.normalize)} D{int(args.detector_score)} F{int(args.flip)}"


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add, switch = parser.add_argument, argparse.BooleanOptionalAction
    add("model", type=Path, metavar="MODEL", help="artefact to test")
    add(
        "--meta",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the meta files, such as ijbc_face_tid_mid.txt or ijbb_face_tid_mid.txt",
    )
    add(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the images, called loose_crop in the data set",
    )
    add("--protocol", nargs="+", choices=PROTOCOLS, default=PROTOCOLS, help="what to test (default: both)")
    add("--normalize", action=switch, default=False, help="N0: every image has the same weight, whatever its norm")
    add("--detector-score", action=switch, default=True, help="D1: weight each image by its detector score")
    add("--flip", action=switch, default=True, help="F1: add the embedding of the mirrored image")
    add_far_flag(parser, "measure TAR at these FARs (default: 1e-6 to 0.1)")
    add(
        "--nearest",
        action="store_true",
        help="show TAR at the ROC point whose FAR is nearest to the stated FAR, as InsightFace's scripts do",
    )
    add("--report", type=Path, help="where to write the report (default: MODEL.ijb.report.json)")
    add("--threads", type=int, default=os.cpu_count() or 1, help="threads of the runtime (default: all, %(default)s)")
    add_io_flags(parser)
    args = parser.parse_args(argv)
    args.protocol = tuple(protocol for protocol in PROTOCOLS if protocol in args.protocol)
    args.far = check_fars(args.far or FARS)
    if args.threads < 1:
        raise FaceError(f"--threads must be at least 1. Received: {args.threads}.")
    return args


if __name__ == "__main__":
    run_cli(main)
