"""Test an Ascend model: read the embeddings that msame wrote. Table, report and gate are as in the other test scripts.

python om/calculate_om_acc.py om_output valid_dataset/lfw.bin --model runs/demo/export/model.om

OUT_DIR is the folder that om_eval.sh wrote (the newest run in this folder is used), or a folder of results. The name of
each result file says to which face it belongs. The size of a file shows whether its values are float16 or float32. If
there are results of mirrored faces, their embeddings are added.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Sequence

from evaluate_data import evaluate_embedded, finish_test
from facelib.cli import run_cli, script_parser
from facelib.data.verification.bins import decode_images
from facelib.errors import FaceError
from facelib.evaluation.attributes import read_attributes
from facelib.evaluation.beside_reference import MIN_FACES, NUM_FACES, refuse_mistake
from facelib.evaluation.embed_images import Embedded
from facelib.evaluation.flags import add_test_flags, check_test_flags
from facelib.evaluation.verification_sets import FaceSet, find_sets
from facelib.export.om.msame import LOG_NAME, find_results, read_embeddings, read_timing
from facelib.files import require_file, sha256_of
from facelib.runtimes import executors
from facelib.runtimes.parent import find_parent, open_reference
from facelib.sidecar import check_sidecar
from facelib.unit_vectors import check_norms, row_norms


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("out_dir", type=Path, metavar="OUT_DIR", help="folder that msame wrote")
    add("bin", type=Path, metavar="FILE.bin", help="verification set that was passed to image2bin.py")
    add(
        "--model",
        type=Path,
        metavar="X.om",
        help="model; the embedding size is read from its sidecar, MODEL.om.json",
    )
    add(
        "--embedding-size",
        type=int,
        default=0,
        metavar="D",
        help="number of values in an embedding; needed if the results are .bin files and the model has no sidecar",
    )
    add(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="add the embeddings of mirrored faces (default: yes, if there are results of mirrored faces)",
    )
    add_test_flags(parser)
    args = check_test_flags(parser.parse_args(argv))
    if args.embedding_size < 0:
        raise FaceError(f"--embedding-size must be at least 1. Received: {args.embedding_size}.")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    sets = find_sets(require_file(args.bin, "verification set"))
    attributes = read_attributes(args.attributes) if args.attributes else None
    sidecar = check_sidecar(args.model) if args.model else None
    sha256 = (sidecar.sha256 if sidecar else sha256_of(args.model)) if args.model else None
    known = sidecar.io.embedding_size if sidecar else 0
    if sidecar and args.embedding_size and known not in (0, args.embedding_size):
        raise FaceError(
            f"--embedding-size {args.embedding_size} contradicts the sidecar '{sidecar.path}', which says {known}. "
            "Leave out this flag."
        )
    folder = find_results(args.out_dir)
    print(f"results of {folder}")
    faces = sets[0]()
    plain, flipped = read_embeddings(folder, len(faces.images), args.embedding_size or known)
    if args.flip and flipped is None:
        raise FaceError(f"'{folder}' has no mirrored faces (0_flip_output_0). Run image2bin.py --flip and om_eval.sh.")
    args.flip = flipped is not None if args.flip is None else args.flip
    total = plain + flipped if args.flip else plain
    ms = find_ms(folder, args.out_dir)

    def embed(faces: FaceSet) -> Embedded:
        norms = row_norms(plain)
        if sidecar and len(plain) >= MIN_FACES and (parent := find_parent(args.model)):
            images = decode_images(faces.images[:NUM_FACES], source=faces.where, records=faces.names)
            refuse_mistake(args.model.name, plain, images, open_reference(parent, 1))
        check_norms(norms, lambda i: f"'{i}_output_0' of '{folder}'")
        check_norms(row_norms(total), lambda i: f"face {i} of '{folder}', mirrored too")
        executions = len(total) * (2 if args.flip else 1)
        return Embedded(total, norms, len(total), executions * (ms or 0.0) / 1000)

    evaluation = evaluate_embedded(
        [lambda: faces], embed, fars=args.far, protocol=args.protocol, flip=args.flip, attributes=attributes,
        with_maps=args.map,
    )  # fmt: skip
    args.model, args.threads = args.model or args.out_dir, None
    evaluation.check(args.model)
    return finish_test(args, evaluation, "om", sha256, executor=executors.MSAME, ms_single=evaluation.ms_per_image)


def find_ms(*folders: Path) -> float | None:
    """Milliseconds per execution, from the first msame.log in `folders` that has them; None if none has."""
    for folder in folders:
        log = folder / LOG_NAME
        if log.is_file() and (timing := read_timing(log.read_text(encoding="utf-8", errors="replace"))):
            return timing.ms
    print(f"no average time: {LOG_NAME} of {folders[0]} has none")
    return None


if __name__ == "__main__":
    run_cli(main)
