"""Write a kit for a chip that MobileArc has no converter for: models, crops, expected embeddings and a test script.

python export_kit.py runs/demo --valid lfw.bin --calibration DATA

The kit has ONNX models (channels first and channels last), float TFLite, calibration crops, 64 test crops with their
embeddings, thresholds, and the script accept.py. This script reads the embeddings of the device and prints the cosine,
ACC, VR, pass or fail, and the likely mistake; it needs only NumPy. The kit contains your crops, so keep it as private
as the crops.
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facelib.cli import DEFAULT_VALID, print_next, print_notes, run_cli, script_parser
from facelib.data.readers.calibration_crops import load_crops
from facelib.data.verification.bins import decode_images, find_bins, load_bin
from facelib.errors import FaceError
from facelib.evaluation.thresholds import Calibrated, read_thresholds
from facelib.export.kit.files import draw_pairs, write_crops, write_facts, write_test
from facelib.files import atomic_path, working_folder
from facelib.model_input import Io, fit_faces
from facelib.runtimes.parent import open_reference
from facelib.self_test import make_self_test
from facelib.sidecar import Sidecar, check_sidecar, portable_path
from facelib.wrong_input import EXPLAINS, MISTAKES, RIGHT, SAME_FACE, as_function_of_values

NUM_PAIRS = 32  # 64 crops
LIMITS = {"min_cosine": 0.95, "max_acc_drop": 0.5, "max_vr_drop": 2.0,
          "right_cosine": RIGHT, "explains": EXPLAINS, "same_face": SAME_FACE}  # fmt: skip


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add(
        "run",
        type=Path,
        metavar="RUN",
        help="run directory (the --out of train.py) with export/optimized.pb and its test report",
    )
    valid_help = "the .bin with the test crops; if this is a folder, its first .bin is used (default: %(default)s/)"
    add("--valid", type=Path, default=DEFAULT_VALID, metavar="DIR_OR_BIN", help=valid_help)
    add(
        "--calibration",
        type=Path,
        metavar="DATA",
        help="face crops to calibrate int8 models (default: crops of --valid)",
    )
    add(
        "--num-calibration",
        type=int,
        default=300,
        metavar="N",
        help="number of calibration crops (default: %(default)s)",
    )
    pairs_help = "number of test pairs, half of them genuine; each pair has two crops (default: %(default)s)"
    add("--pairs", type=int, default=NUM_PAIRS, metavar="N", help=pairs_help)
    far_help = "use the threshold calibrated for this FAR (default: %(default)s)"
    add("--far", type=float, default=1e-3, metavar="RATE", help=far_help)
    add("--out", type=Path, metavar="OUT", help="folder or .zip to write (default: RUN/export/kit)")
    args = parser.parse_args(argv)
    args.out = args.out or args.run / "export" / "kit"
    if args.pairs < 2 or args.pairs % 2:
        raise FaceError(
            f"--pairs must be an even number, because half of the pairs are genuine. Received: {args.pairs}."
        )
    if args.out.is_file() or (args.out.is_dir() and any(args.out.iterdir())):
        raise FaceError(
            f"A kit must be written to a new path. '{args.out}' already exists: remove it or choose a different --out."
        )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    graph, sidecar, threshold = find_graph(args.run, args.far)
    io = sidecar.io
    valid = find_bins(args.valid)[0]
    pairs = load_bin(valid)
    picked = draw_pairs(pairs.is_same, args.pairs)
    ends = np.stack([2 * picked, 2 * picked + 1], axis=1).ravel()
    faces = decode_images([pairs.images[i] for i in ends], source=str(valid), records=ends.tolist())
    notes: list[str] = []
    source = args.calibration or valid
    crops, calibration = load_crops(source, args.num_calibration, 0, io.size, notes, io.fit)
    print_notes(notes)
    expected, mistakes, self_test = embed_rightly_and_wrongly(graph, faces, io)
    facts = {
        "genuine": pairs.is_same[picked].tolist(),
        "threshold": {"set": threshold.set_name, "far": threshold.far, "distance": threshold.distance},
        "limits": LIMITS,
        "mistakes": [{"name": each.name, "advice": each.advice} for each in MISTAKES],
        "calibration": calibration,
        "self_test": self_test,
        "made_from": {"path": portable_path(graph, args.run), "sha256": sidecar.sha256},
        "licence": sidecar.licence,
        "training_data": sidecar.training_data,
    }
    from facelib.export.kit.models import write_models

    def fill(folder: Path) -> None:
        (folder / "models").mkdir()
        models = write_models(graph, io, folder / "models", faces, expected)
        write_crops(folder / "calibration", crops)
        write_test(folder / "test", faces, io, expected, mistakes)
        write_facts(folder, args.run.resolve().name, models, expected, facts)

    write_kit(args.out, fill)
    print(f"wrote {args.out}: 3 models, {len(crops)} calibration crops, {len(faces)} test crops")
    print_next("python", args.out / "accept.py", "OUTPUT")
    return 0


def find_graph(run: Path, far: float) -> tuple[Path, Sidecar, Calibrated]:
    """The optimised graph of a run, its sidecar, and the threshold that its test calibrated."""
    graph = run / "export" / "optimized.pb"
    if not graph.is_file():
        raise FaceError(
            f"A kit needs an optimised graph. There is no '{graph}'. Make the graph: python h5_2_pb.py "
            f"{run}/embedder.h5, then ./optimize_pb.sh {run}/export/frozen.pb."
        )
    sidecar = check_sidecar(graph)
    if sidecar is None:
        raise FaceError(
            f"A graph needs a sidecar that describes its input. '{graph}' has no sidecar: make the graph again with "
            "optimize_pb.sh."
        )
    threshold = read_thresholds(graph, far)
    if threshold.flip:
        raise FaceError(
            f"The kit needs a threshold measured without --flip, because a device embeds each face once. '{graph}' "
            "was calibrated with --flip: test the graph again without this flag."
        )
    return graph, sidecar, threshold


def embed_rightly_and_wrongly(graph: Path, faces: np.ndarray, io: Io) -> tuple[np.ndarray, np.ndarray, dict]:
    """(float32 [N, D], the embeddings of uint8 faces; float32 [M, N, D], under each of `MISTAKES`; the self test)."""
    reference = open_reference(graph, 1)
    values, embed = fit_faces(faces, io.size, io.fit).astype(np.float32), as_function_of_values(reference)
    wrong = [embed(each.apply(values)) for each in MISTAKES]
    return reference.raw(faces), np.stack(wrong), make_self_test(reference, "optimized_pb")


def write_kit(out: Path, fill) -> None:
    """Makes the folder or .zip `out`, whole or not at all; `fill(folder)` writes the files."""
    if out.suffix != ".zip":
        with working_folder(out) as folder:
            fill(folder)
        return
    with tempfile.TemporaryDirectory() as made, atomic_path(out) as part:
        (folder := Path(made) / out.stem).mkdir()
        fill(folder)
        shutil.move(shutil.make_archive(f"{made}/kit", "zip", made, out.stem), part)


if __name__ == "__main__":
    run_cli(main)
