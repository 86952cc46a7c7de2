"""Test a trained embedder on verification sets: one table, one report. Shared by train.py and every *_test.py.

python evaluate_data.py runs/demo/embedder.h5 --valid valid_dataset/
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from facelib.bins import Pairs, decode_images, find_bins, load_bin, stream_images
from facelib.cli import FaceError, run_cli
from facelib.embedder import Embedder
from facelib.files import sha256_of
from facelib.metrics import pair_distances
from facelib.report import Report, SetResult, compare, measure_set, read_report, report_path
from facelib.runtimes import open_keras
from facelib.sidecar import Io, Sidecar, check_sidecar

DEFAULT_VALID = Path("valid_dataset")
DEFAULT_FARS = (1e-3,)
CHUNK_IMAGES = 512  # decoded at a time: 19 MB of pixels

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


def embed_pairs(
    embedder: Embedder, pairs: Pairs, *, flip: bool = False, progress: bool = False, threads: int | None = None
) -> np.ndarray:
    """Embeds both images of every pair; each distinct image once (LFW has 12,000 entries, 7,701 images).

    Args:
        flip: add the embedding of the mirrored image.   threads: for decoding.

    Returns: float32 [2N, D], not normalised where the embedder offers raw vectors. See `pair_distances`.

    Raises:
        FaceError: an unreadable image or an embedding that is not finite or zero, named by record.
    """
    return _embed_timed(embedder, pairs, flip, progress, threads).rows


def evaluate_bins(
    embedder: Embedder,
    paths: Sequence[Path],
    *,
    fars: Sequence[float] = DEFAULT_FARS,
    flip: bool = False,
    progress: bool = True,
    threads: int | None = None,
) -> Evaluation:
    """Measures `embedder` on the verification sets at `paths`, one after another; see `embed_pairs` for the rest."""
    results, num_distinct, seconds, norm_sum = [], 0, 0.0, 0.0
    for path in paths:
        pairs = load_bin(path)
        embedded = _embed_timed(embedder, pairs, flip, progress, threads)
        results.append(measure_set(pairs.name, pair_distances(embedded.rows), pairs.is_same, tuple(fars)))
        num_distinct += embedded.num_distinct
        seconds += embedded.seconds
        norm_sum += embedded.norm_sum
    mean_norm = norm_sum / num_distinct if hasattr(embedder, "raw") and num_distinct else None
    num_images = num_distinct * (2 if flip else 1)
    return Evaluation(tuple(results), num_images, seconds, mean_norm)


def check_bins(paths: Sequence[Path]) -> None:
    """Reads each verification set, decodes its first pair and counts its pairs, so that no training ends over one.

    Raises:
        FaceError: what `load_bin`, `decode_images` and the metrics refuse.
    """
    for path in paths:
        pairs = load_bin(path)
        decode_images(pairs.images[:2], source=pairs.path)
        measure_set(pairs.name, np.zeros(len(pairs)), pairs.is_same)


def test_main(argv: Sequence[str] | None, open_embedder: OpenEmbedder, description: str, kind: str) -> int:
    """The main of every test script: same flags, same table, same report, same gate.

    Args:
        open_embedder: `(path, io, threads) -> Embedder` for one runtime; called after the arguments are checked.
        description: the script's docstring, shown by --help.
        kind: of artefact, when no sidecar says it, e.g. 'tflite'.
    """
    args = _parse_args(argv, description)
    paths = find_bins(args.valid)
    reference = read_report(args.against) if args.against else None
    sidecar = check_sidecar(args.model)
    io = choose_io(sidecar, args)
    embedder = open_embedder(args.model, io, args.threads)
    evaluation = evaluate_bins(embedder, paths, fars=args.far, flip=args.flip, threads=args.threads)
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
    print(report.table())
    print(
        f"{report.size_bytes / 2**20:.2f} MiB, {report.ms_per_image:.2f} ms an image "
        f"({report.images_per_s:.0f} images/s, {args.threads} threads)"
    )
    if reference is not None:
        failures = compare(report.as_dict(), reference, args.max_acc_drop, args.max_vr_drop)
        if failures:
            raise FaceError(f"'{args.model}' is worse than '{args.against}' allows: {'; '.join(failures)}.")
        print(f"no worse than {args.against} by {args.max_acc_drop:g} points of ACC, {args.max_vr_drop:g} of VR")
    print(f"wrote {path}; next: {_next_command(report.kind, args.model)}")
    return 0


test_main.__test__ = False  # pytest collects functions by their name


def add_io_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say how to feed a model without a sidecar; `choose_io` reads them."""
    other = parser.add_argument_group("models without a sidecar")
    other.add_argument("--input", metavar="NAME", help="input tensor (default: input_1)")
    other.add_argument("--output", metavar="NAME", help="output tensor (default: embeddings)")
    other.add_argument("--color", choices=("rgb", "bgr"), help="channel order (default: rgb)")
    pixels_help = "0..255, (x-127.5)/128, or ImageNet statistics (default: raw)"
    other.add_argument("--pixels", choices=("raw", "pm1", "imagenet"), help=pixels_help)
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
                f"--color rgb|bgr --pixels raw|pm1|imagenet --layout nhwc|nchw [--input NAME --output NAME --crop H,W]"
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
    add("--valid", type=Path, default=DEFAULT_VALID, metavar="DIR_OR_BIN", help="sets (default: %(default)s/)")
    add("--flip", action=argparse.BooleanOptionalAction, default=False, help="add the embedding of the mirrored image")
    add("--far", type=float, nargs="+", action="extend", metavar="RATE", help="VR at these FARs (default: 0.001)")
    add("--report", type=Path, help="where to write the report (default: MODEL.report.json)")
    add("--against", type=Path, metavar="REPORT", help="fail when worse than this report by more than:")
    add("--max-acc-drop", type=float, default=0.5, metavar="POINTS", help="percentage points (default: %(default)s)")
    add("--max-vr-drop", type=float, default=2.0, metavar="POINTS", help="percentage points (default: %(default)s)")
    add("--threads", type=int, default=os.cpu_count() or 1, help="of the runtime (default: all cores, %(default)s)")
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


class _Embedded(NamedTuple):
    """rows: float32 [2N, D].   num_distinct: images.   seconds: in the runtime.   norm_sum: of the distinct images."""

    rows: np.ndarray
    num_distinct: int
    seconds: float
    norm_sum: float


def _embed_timed(embedder: Embedder, pairs: Pairs, flip: bool, progress: bool, threads: int | None) -> _Embedded:
    """See `embed_pairs`."""
    first_record = {}
    for record, image in enumerate(pairs.images):
        first_record.setdefault(image, record)
    images, records = list(first_record), list(first_record.values())
    embed = getattr(embedder, "raw", embedder)
    rows, mirrored, seconds = [], [], 0.0
    with tqdm(total=len(images), desc=pairs.name, unit="img", disable=None if progress else True, leave=False) as bar:
        for chunk in _stream(pairs, images, records, threads):
            if not rows:
                embed(chunk[:1])  # compiles and warms up, outside the clock
            started = time.perf_counter()
            rows.append(np.asarray(embed(chunk), np.float32))
            if flip:
                mirrored.append(np.asarray(embed(np.ascontiguousarray(chunk[:, :, ::-1])), np.float32))
            seconds += time.perf_counter() - started
            bar.update(len(chunk))
    plain = _checked_rows(np.concatenate(rows), pairs, records)
    total = _checked_rows(plain + np.concatenate(mirrored), pairs, records) if flip else plain
    position = {image: i for i, image in enumerate(images)}
    norm_sum = float(np.linalg.norm(plain.astype(np.float64), axis=1).sum())
    return _Embedded(total[[position[image] for image in pairs.images]], len(images), seconds, norm_sum)


def _stream(pairs: Pairs, images: list[bytes], records: list[int], threads: int | None) -> Iterator[np.ndarray]:
    return stream_images(images, CHUNK_IMAGES, source=pairs.path or pairs.name, records=records, num_threads=threads)


def _checked_rows(embeddings: np.ndarray, pairs: Pairs, records: list[int]) -> np.ndarray:
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    is_bad = ~(np.isfinite(norms) & (norms > 0))
    if is_bad.any():
        i = int(np.argmax(is_bad))
        raise FaceError(
            f"The model gave {'a zero' if norms[i] == 0 else 'a non-finite'} embedding for record {records[i]} of "
            f"'{pairs.path or pairs.name}' ({int(is_bad.sum())} of {len(norms)} images). "
            f"Check how the model is fed, or train it again."
        )
    return embeddings


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
