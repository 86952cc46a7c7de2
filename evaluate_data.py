"""Test a trained embedder on verification sets: one table, one report. Shared by train.py and every *_test.py.

python evaluate_data.py runs/demo/embedder.h5 --valid valid_dataset/
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from facelib.attributes import group_faces, read_attributes
from facelib.bins import decode_images
from facelib.cli import FaceError, run_cli
from facelib.embed_images import Embedded, embed_images
from facelib.embedder import Embedder
from facelib.files import sha256_of
from facelib.measure import PROTOCOLS, measure_folder, measure_pairs
from facelib.metrics import pair_distances
from facelib.report import Report, SetResult, compare, read_report, report_path
from facelib.runtimes import open_keras
from facelib.sidecar import IO_CHOICES, Io, Sidecar, check_sidecar
from facelib.thresholds import write_thresholds
from facelib.valid_sets import FaceSet, find_sets

DEFAULT_VALID = Path("valid_dataset")
DEFAULT_FARS = (1e-3,)

OpenEmbedder = Callable[[Path, Io, int], Embedder]


@dataclass(frozen=True)
class Evaluation:
    """results: one a set.   num_images, seconds: embedded in all, in the runtime alone.   mean_norm: of raw vectors."""

    results: tuple[SetResult, ...]
    num_images: int
    seconds: float
    mean_norm: float | None

    def table(self) -> str:
        """The table that is printed."""
        return Report("", "", self.results).table()

    def thresholds(self, flip: bool) -> dict[str, dict]:
        """What the sidecar says for deployment: see `facelib.thresholds.write_thresholds`."""
        return {
            result.name: {
                "sha256": result.source["sha256"],
                "impostors": result.pairs - result.genuine,
                "flip": flip,
                "far": result.thresholds,
            }
            for result in self.results
        }


def evaluate_sets(
    embedder: Embedder,
    sets: Sequence[Callable[[], FaceSet]],
    *,
    fars: Sequence[float] = DEFAULT_FARS,
    protocol: str = "exact",
    flip: bool = False,
    attributes: dict[str, str] | None = None,
    progress: bool = True,
    threads: int | None = None,
) -> Evaluation:
    """Measures `embedder` on verification sets, one after another.

    Args:
        sets: what `find_sets` gave.   fars: of the VR.   protocol: of listed pairs, 'exact' | 'insightface'.
        flip: add the embedding of the mirrored image.   attributes: {identity or image: group}.
        threads: for decoding.
    """
    results, num_distinct, seconds, norms = [], 0, 0.0, []
    for load in sets:
        faces = load()
        label = faces.name if progress else None
        embedded = embed_images(
            embedder, faces.images, where=faces.where, names=faces.names, flip=flip, progress=label, threads=threads
        )
        results.append(_measure(faces, embedded, fars, protocol, attributes))
        num_distinct += embedded.num_distinct
        seconds += embedded.seconds
        norms += [embedded.norms] if embedded.norms is not None else []
    mean_norm = float(np.concatenate(norms).mean()) if norms else None
    return Evaluation(tuple(results), num_distinct * (2 if flip else 1), seconds, mean_norm)


def check_sets(sets: Sequence[Callable[[], FaceSet]]) -> None:
    """Reads each verification set, decodes its first images and measures it blindly, so that no training ends over one.

    Raises:
        FaceError: what the readers and the metrics refuse.
    """
    for load in sets:
        faces = load()
        decode_images(faces.images[:2], source=faces.where, records=faces.names[:2])
        blind = np.random.default_rng(0).normal(size=(len(faces.images), 2)).astype(np.float32)
        _measure(faces, Embedded(blind, None, len(blind), 0.0), DEFAULT_FARS, "exact", None)


def _measure(
    faces: FaceSet, embedded: Embedded, fars: Sequence[float], protocol: str, attributes: dict[str, str] | None
) -> SetResult:
    groups = group_faces(attributes, faces.names, faces.identities, faces.where) if attributes else None
    common = {"norms": embedded.norms, "groups": groups, "images": faces.names, "source": faces.source}
    if faces.labels is not None:
        return measure_folder(faces.name, embedded.rows, faces.labels, fars, **common)
    distances = pair_distances(embedded.rows)
    return measure_pairs(faces.name, distances, faces.is_same, fars, protocol=protocol, **common)


def test_main(argv: Sequence[str] | None, open_embedder: OpenEmbedder, description: str, kind: str) -> int:
    """The main of every test script: same flags, same table, same report, same gate.

    Args:
        open_embedder: `(path, io, threads) -> Embedder` for one runtime; called after the arguments are checked.
        description: the script's docstring, shown by --help.
        kind: of artefact, when no sidecar says it, e.g. 'tflite'.
    """
    args = _parse_args(argv, description)
    sets = find_sets(args.valid, args.pairs, letterbox=args.letterbox)
    attributes = read_attributes(args.attributes) if args.attributes else None
    reference = read_report(args.against) if args.against else None
    sidecar = check_sidecar(args.model)
    io = choose_io(sidecar, args)
    embedder = open_embedder(args.model, io, args.threads)
    evaluation = evaluate_sets(
        embedder, sets, fars=args.far, protocol=args.protocol, flip=args.flip, attributes=attributes,
        threads=args.threads,
    )  # fmt: skip
    report = Report(
        artifact=args.model.name,
        kind=sidecar.kind if sidecar else kind,
        sets=evaluation.results,
        sha256=sha256_of(args.model),
        size_bytes=args.model.stat().st_size,
        images_per_s=round(evaluation.num_images / evaluation.seconds, 3),
        ms_per_image=round(1000 * evaluation.seconds / evaluation.num_images, 4),
        threads=args.threads,
        mean_norm=evaluation.mean_norm,
        flip=args.flip,
    )
    path = args.report or report_path(args.model)
    report.write(path)
    calibrated = write_thresholds(args.model, evaluation.thresholds(args.flip))
    print(report.table())
    if findings := report.findings():
        print(findings)
    print(
        f"{report.size_bytes / 2**20:.2f} MiB, {report.ms_per_image:.2f} ms an image "
        f"({report.images_per_s:.0f} images/s, {args.threads} threads)"
    )
    if reference is not None:
        failures = compare(report.as_dict(), reference, args.max_acc_drop, args.max_vr_drop)
        if failures:
            raise FaceError(f"'{args.model}' is worse than '{args.against}' allows: {'; '.join(failures)}.")
        print(f"no worse than {args.against} by {args.max_acc_drop:g} points of ACC, {args.max_vr_drop:g} of VR")
    also = f" and the thresholds in {calibrated}" if calibrated else ""
    print(f"wrote {path}{also}; next: {_next_command(report.kind, args.model)}")
    return 0


test_main.__test__ = False  # pytest collects functions by their name


def add_io_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say how to feed a model without a sidecar; `choose_io` reads them."""
    other = parser.add_argument_group("models without a sidecar")
    other.add_argument("--input", metavar="NAME", help="input tensor (default: input_1)")
    other.add_argument("--output", metavar="NAME", help="output tensor (default: embeddings)")
    other.add_argument("--color", choices=("rgb", "bgr"), help="channel order (default: rgb)")
    pixels_help = "0..255, (x-127.5)/128, (x-127.5)/127.5, or ImageNet statistics (default: raw)"
    other.add_argument("--pixels", choices=IO_CHOICES["pixels"], help=pixels_help)
    other.add_argument("--layout", choices=("nhwc", "nchw"), help="order of the axes (default: nhwc)")
    other.add_argument("--crop", type=_parse_crop, metavar="H,W", help="pixels, cut from the centre (default: 112,112)")


def choose_io(sidecar: Sidecar | None, args: argparse.Namespace) -> Io:
    """How to feed the artefact: from its sidecar, else from the third-party flags; the two must not disagree."""
    flags = {
        "input": args.input, "output": args.output, "colour": args.color,
        "pixels": args.pixels, "layout": args.layout, "size": args.crop,
    }  # fmt: skip
    given = {name: value for name, value in flags.items() if value is not None}
    if sidecar is None:
        if not given:
            raise FaceError(
                f"'{args.model}' has no sidecar '{args.model.name}.json' that says how to feed it. Say it by flags: "
                f"--color rgb|bgr --pixels {'|'.join(IO_CHOICES['pixels'])} --layout nhwc|nchw "
                f"[--input NAME --output NAME --crop H,W]"
            )
        return replace(Io(), **given)
    for name, value in given.items():
        if getattr(sidecar.io, name) != value:
            flag = {"colour": "color", "size": "crop"}.get(name, name)
            raise FaceError(
                f"--{flag} {value} contradicts the sidecar '{sidecar.path}', which says {getattr(sidecar.io, name)}. "
                f"Leave the flag out."
            )
    return sidecar.io


def main(argv: Sequence[str] | None = None) -> int:
    return test_main(argv, open_keras, __doc__, "h5")


def _parse_args(argv: Sequence[str] | None, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="the artefact to test")
    add(
        "--valid",
        type=Path,
        default=DEFAULT_VALID,
        metavar="DIR_OR_BIN",
        help="a .bin, a folder of them, or a folder of identities (default: %(default)s/)",
    )
    add("--pairs", type=Path, metavar="TXT", help="pair list in LFW's form; --valid is the folder of its photos")
    add("--letterbox", action=argparse.BooleanOptionalAction, default=False, help="fit photos of any size, grey beside")
    add("--attributes", type=Path, metavar="CSV", help="ACC and VR by group; lines: identity or image,group")
    protocol_help = "of 10-fold ACC and VR; insightface: its threshold grids, for old tables (default: %(default)s)"
    add("--protocol", choices=tuple(PROTOCOLS), default="exact", help=protocol_help)
    add("--flip", action=argparse.BooleanOptionalAction, default=False, help="add the embedding of the mirrored image")
    add("--far", type=float, nargs="+", action="extend", metavar="RATE", help="VR at these FARs (default: 0.001)")
    add("--report", type=Path, help="where to write the report (default: MODEL.report.json)")
    add("--threads", type=int, default=os.cpu_count() or 1, help="of the runtime (default: all cores, %(default)s)")
    add = parser.add_argument_group("gate").add_argument
    add("--against", type=Path, metavar="REPORT", help="fail when worse than this report by more than:")
    add("--max-acc-drop", type=float, default=0.5, metavar="POINTS", help="percentage points (default: %(default)s)")
    add("--max-vr-drop", type=float, default=2.0, metavar="POINTS", help="percentage points (default: %(default)s)")
    add_io_flags(parser)
    args = parser.parse_args(argv)
    args.far = tuple(dict.fromkeys(args.far or DEFAULT_FARS))
    for far in args.far:
        if not 0 < far <= 1:
            raise FaceError(f"A FAR is a rate above 0 and at most 1, such as 0.001. Received: --far {far:g}.")
    if args.threads < 1:
        raise FaceError(f"A runtime has at least one thread. Received: --threads {args.threads}.")
    for flag, value in (("--max-acc-drop", args.max_acc_drop), ("--max-vr-drop", args.max_vr_drop)):
        if not 0 <= value <= 100:
            raise FaceError(f"{flag} is in percentage points, 0 to 100. Received: {value:g}.")
    return args


def _parse_crop(text: str) -> tuple[int, int]:
    height, _, width = text.partition(",")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"H,W in pixels, such as 112,96. Received: {text}")
    return int(height), int(width)


def _next_command(kind: str, model: Path) -> str:
    commands = {
        "h5": f"python h5_2_pb.py {model}",
        "frozen_pb": f"./optimize_pb.sh {model}",
        "optimized_pb": f"python pb_2_tflite.py {model} --mode int8",
    }
    run = model.parent.parent if model.parent.name == "export" else model.parent
    return commands.get(kind, f"python report.py {run}")


if __name__ == "__main__":
    run_cli(main)
