"""Test a model on TinyFace: how often a low-resolution face is found among 157,871 others, at rank 1, 5 and 20.

    python tools/evaluate_tinyface.py runs/demo/embedder.h5 --images TinyFace_aligned

MODEL is any artefact. --images holds the folders Probe, Gallery_Match and Gallery_Distractor with aligned 112x112
crops; with --letterbox, the unchanged images of Testing_Set. Ranks are counted over the images of the gallery, as in
papers.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import os
from collections.abc import Sequence

import numpy as np

from facelib.cli import add_io_flags, choose_io, print_notes, run_cli, script_parser
from facelib.errors import FaceError
from facelib.evaluation.results import format_interval
from facelib.evaluation.tinyface import (
    DISTRACTORS,
    GALLERY,
    PROBES,
    PUBLISHED,
    embed_files,
    find_tinyface,
    rank_rates,
    ranks_of_probes,
)
from facelib.files import sha256_of, write_json
from facelib.runtimes.open_embedder import open_embedder
from facelib.self_test import run_self_test
from facelib.sidecar import check_sidecar, check_unchanged, keep_flags, kind_of
from facelib.unit_vectors import check_differ


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    sidecar = check_sidecar(args.model)
    sha256 = sidecar.sha256 if sidecar else sha256_of(args.model)
    io = choose_io(sidecar, args)
    found = find_tinyface(args.images)
    embedder = open_embedder(args.model, io, args.threads)
    run_self_test(embedder, sidecar)
    options = {"flip": args.flip, "letterbox": args.letterbox, "threads": args.threads}
    parts = {role: embed_files(embedder, found.files[role], progress=role, **options) for role in PUBLISHED}
    check_unchanged(args.model, sha256)
    check_differ(np.concatenate([part.rows for part in parts.values()]), f"'{args.model}'")
    keep_flags(args.model, kind_of(args.model), io, sidecar)
    ranks = ranks_of_probes(
        parts[PROBES].rows, found.probe_ids, parts[GALLERY].rows, found.gallery_ids, parts[DISTRACTORS].rows
    )
    rates, missing = rank_rates(ranks), int((ranks == 0).sum())
    report = {
        "artifact": args.model.name,
        "kind": sidecar.kind if sidecar else kind_of(args.model),
        "sha256": sha256,
        "flip": args.flip,
        "letterbox": args.letterbox,
        "probes": len(ranks),
        "gallery": len(found.gallery_ids),
        "distractors": len(found.files[DISTRACTORS]),
        "not_in_gallery": missing,
        "rank": rates,
    }
    path = args.report or args.model.with_name(args.model.name + ".tinyface.report.json")
    write_json(path, report)
    print_notes(found.notes)
    if missing:
        print_notes([f"{missing:,} probes show people without an image in {GALLERY}; they count as not found"])
    print(f"TinyFace, {report['probes']:,} probes, {report['gallery']:,} + {report['distractors']:,} gallery images")
    for k, rate in rates.items():
        print(f"rank-{k:<2} {rate['rate']:.4f} {format_interval(rate['ci95'])}")
    print(f"wrote {path}")
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    add, switch = parser.add_argument, argparse.BooleanOptionalAction
    add("model", type=Path, metavar="MODEL", help="artefact to test")
    add("--images", type=Path, required=True, metavar="DIR", help="folder of Probe, Gallery_Match, Gallery_Distractor")
    add("--letterbox", action=switch, default=False, help="scale images of any size to the input, with grey bars")
    add("--flip", action=switch, default=False, help="add the embedding of the mirrored image")
    add("--report", type=Path, help="where to write the report (default: MODEL.tinyface.report.json)")
    add("--threads", type=int, default=os.cpu_count() or 1, help="threads of the runtime (default: all, %(default)s)")
    add_io_flags(parser)
    args = parser.parse_args(argv)
    if args.threads < 1:
        raise FaceError(f"--threads must be at least 1. Received: {args.threads}.")
    return args


if __name__ == "__main__":
    run_cli(main)
