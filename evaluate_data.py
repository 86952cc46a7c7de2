"""Test a trained embedder (.h5) on verification sets, and write one table and one report, as all test scripts do.

python evaluate_data.py runs/demo/embedder.h5 --valid valid_dataset/
"""

import facelib  # noqa: F401  first: from here on Ctrl-C ends the script without a traceback

# isort: split
import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from facelib.cli import DEFAULT_FARS, choose_io, next_step, print_notes, run_cli
from facelib.data.verification.bins import decode_images
from facelib.embedder import Embedder, RuntimeEmbedder
from facelib.errors import FaceError
from facelib.evaluation.attributes import read_attributes
from facelib.evaluation.beside_reference import BesideReference, FirstFacesChecked
from facelib.evaluation.embed_images import Embedded, embed_images
from facelib.evaluation.evaluate_set import evaluate_set
from facelib.evaluation.face_map import FaceMap, make_map
from facelib.evaluation.flags import check_test_flags, default_report, make_parser
from facelib.evaluation.gate import compare
from facelib.evaluation.keep_thresholds import write_thresholds
from facelib.evaluation.mixed_gallery import GalleryModel, embed_across
from facelib.evaluation.other_feeding import find_better_feeding
from facelib.evaluation.probability import Ratio
from facelib.evaluation.projector import check_map_folder, map_folder, write_maps
from facelib.evaluation.results import Report, SetResult, find_whole_test, read_report
from facelib.evaluation.single_calls import single_call_ms
from facelib.evaluation.thresholds import too_few_impostors
from facelib.evaluation.verification_sets import FaceSet, find_sets
from facelib.files import sha256_of
from facelib.model_input import Io
from facelib.runtimes.keras_h5 import open_keras
from facelib.runtimes.parent import find_parent, open_reference
from facelib.self_test import run_self_test
from facelib.sidecar import check_sidecar, check_unchanged, keep_flags
from facelib.unit_vectors import SAME_DISTANCE

FEW_PAIRS = 600  # of a slow runtime: 30 genuine and 30 impostor pairs of each fold
FAR_OF_FEW_PAIRS = 1e-2  # 300 impostor pairs are enough for it
OpenEmbedder = Callable[[Path, Io, int], Embedder]
MEASURED = ("mean_cosine", "min_cosine", "same_bits", "executor", "memory")  # fields of a report that an embedder has


@dataclass(frozen=True)
class Evaluation:
    """The results of an embedder on several verification sets.

    Attributes:
        results: one for each set.
        ms_per_image: milliseconds per image in the runtime alone; None when not known.
        mean_norm: mean L2 norm of the raw vectors; None when the runtime hides them.
        notes: what the user should know of the sets.
        maps: faces of each set on a plane, if asked for.
    """

    results: tuple[SetResult, ...]
    ms_per_image: float | None
    mean_norm: float | None
    notes: tuple[str, ...] = ()
    maps: tuple[FaceMap, ...] = ()

    def table(self) -> str:
        """The table that is printed."""
        return Report("", "", self.results).table()

    def check(self, model: Path, cause: str = "") -> None:
        """Refuses a set whose distances are all the same: the model tells nobody apart, or is fed in another way.

        Args:
            model: the file.
            cause: the likely one, for the error.
        """
        for result in self.results:
            if result.pairs > 1 and result.dist_max - result.dist_min <= SAME_DISTANCE:
                raise FaceError(
                    f"Distances must differ from pair to pair. '{model}' gives {result.dist_max:.4f} for all "
                    f"{result.pairs:,} pairs of '{result.name}'. Nothing was written. "
                    + (
                        f"{cause[0].upper()}{cause[1:]}."
                        if cause
                        else "Check the input of the model, or train the model again."
                    )
                )

    def thresholds(self, flip: bool, executor: str | None = None) -> dict[str, dict]:
        """What the sidecar says for deployment: see `facelib.evaluation.thresholds.write_thresholds`."""
        return {
            result.name: {
                "sha256": (result.source or {}).get("sha256"),
                "pairs": result.pairs,
                "impostors": result.pairs - result.genuine,
                "flip": flip,
                "protocol": result.protocol,
                "date": date.today().isoformat(),
                "executor": executor,
                "far": result.thresholds,
                "probability": result.probability and Ratio.of(result.probability).as_dict(),
                **{key: value for key, value in (result.source or {}).items() if key == "drawn_from"},
            }
            for result in self.results
        }

    def too_small(self) -> list[str]:
        """Says of each set that is too small for any threshold what to do."""
        found = [too_few_impostors(result.name, result.pairs - result.genuine) for result in self.results]
        return [f"{why}; test a larger set, or use --threshold DISTANCE of predict.py" for why in found if why]


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
    gallery: GalleryModel | None = None,
    with_maps: bool = False,
) -> Evaluation:
    """Measures `embedder` on verification sets, one after another.

    Args:
        embedder: the model to test.
        sets: what `find_sets` returned.
        fars: FARs of the VR, each in (0, 1].
        protocol: thresholds of listed pairs, a key of `PROTOCOLS`.
        flip: add the embedding of the mirrored image.
        attributes: {identity or image: group}; None for no groups.
        progress: whether a bar is shown.
        threads: number of threads that decode.
        gallery: embeds the second face of each pair; None for `embedder`.
        with_maps: whether faces of each set are put on a plane.
    """

    def embed(faces: FaceSet) -> Embedded:
        options: dict[str, Any] = {"flip": flip, "progress": faces.name if progress else None, "threads": threads}
        if gallery is not None:
            return embed_across(faces, embedder, gallery.embedder, **options)
        return embed_images(embedder, faces.images, where=faces.where, names=faces.names, **options)

    return evaluate_embedded(
        sets, embed, fars=fars, protocol=protocol, flip=flip, attributes=attributes, with_maps=with_maps
    )


def evaluate_embedded(
    sets: Sequence[Callable[[], FaceSet]],
    embed: Callable[[FaceSet], Embedded],
    *,
    fars: Sequence[float],
    protocol: str,
    flip: bool,
    attributes: dict[str, str] | None,
    with_maps: bool = False,
) -> Evaluation:
    """The same for embeddings of any origin.

    Args:
        sets: what `find_sets` returned.
        embed: gives the embeddings of one set; with `flip` the mirrored ones are added already.
        fars: FARs of the VR, each in (0, 1].
        protocol: thresholds of listed pairs, a key of `PROTOCOLS`.
        flip: whether each image was embedded twice.
        attributes: {identity or image: group}; None for no groups.
        with_maps: whether faces of each set are put on a plane.
    """
    results, num_distinct, seconds, norms, notes = [], 0, 0.0, [], []
    maps: list[FaceMap] = []
    for load in sets:
        faces = load()
        embedded = embed(faces)
        notes += faces.notes
        results.append(evaluate_set(faces, embedded, fars, protocol=protocol, attributes=attributes))
        maps += [make_map(faces, embedded, results[-1])] if with_maps else []
        num_distinct += embedded.num_distinct
        seconds += embedded.seconds
        norms += [embedded.norms] if embedded.norms is not None else []
    mean_norm = float(np.concatenate(norms).mean()) if norms else None
    ms_per_image = 1000 * seconds / (num_distinct * (2 if flip else 1))
    return Evaluation(tuple(results), ms_per_image or None, mean_norm, tuple(notes), tuple(maps))


def check_sets(sets: Sequence[Callable[[], FaceSet]]) -> None:
    """Reads each set, decodes its first images and measures random embeddings: an error shows before the training.

    Prints what the user should know of the sets.

    Raises:
        FaceError: what the readers and the metrics refuse.
    """
    for load in sets:
        faces = load()
        decode_images(faces.images[:2], source=faces.where, records=faces.names[:2])
        blind = np.random.default_rng(0).normal(size=(len(faces.images), 2)).astype(np.float32)
        evaluate_set(faces, Embedded(blind, None, len(blind), 0.0), DEFAULT_FARS)
        print_notes(faces.notes)


def test_main(argv: Sequence[str] | None, open_embedder: OpenEmbedder, description: str, kind: str) -> int:
    """The main of every test script: same flags, same table, same report, same gate.

    Args:
        open_embedder: `(path, io, threads) -> Embedder` for one runtime; called after the arguments are checked.
        description: the script's docstring, shown by --help.
        kind: of artefact, when no sidecar says it, e.g. 'tflite'.
    """
    return run_test(make_parser(description).parse_args(argv), open_embedder, kind)


test_main.__test__ = False  # type: ignore[attr-defined]  # pytest, which collects functions by name, reads this


def run_test(args: argparse.Namespace, open_embedder: OpenEmbedder, kind: str) -> int:
    """`test_main` after the flags of `make_parser` are parsed; a script may have added more flags."""
    check_test_flags(args)
    if args.map:
        check_map_folder(map_folder(args.report or default_report(args)))
    if args.threads < 1:
        raise FaceError(f"--threads must be at least 1. Received: {args.threads}.")
    sets = find_sets(args.valid, args.pairs, letterbox=args.letterbox, encoding=args.encoding)
    attributes = read_attributes(args.attributes, args.encoding) if args.attributes else None
    sidecar = check_sidecar(args.model)
    sha256 = sidecar.sha256 if sidecar else sha256_of(args.model)
    io = choose_io(sidecar, args)
    embedder = open_embedder(args.model, io, args.threads)
    runtime = embedder if isinstance(embedder, RuntimeEmbedder) else None  # else it stands beside a reference already
    alone: Any = getattr(embedder, "embedder", embedder)
    outcome = run_self_test(alone, sidecar)
    if outcome and outcome.is_integer:
        print(outcome)
    if runtime and args.model.suffix != ".h5" and (parent := find_parent(args.model)):  # an .h5 may be trained on
        embedder = FirstFacesChecked(runtime, partial(open_reference, parent, args.threads))
    gallery = open_gallery_model(args.gallery_model, args.threads) if args.gallery_model else None
    evaluation = evaluate_sets(
        embedder, sets, fars=args.far, protocol=args.protocol, flip=args.flip, attributes=attributes,
        threads=args.threads, gallery=gallery, with_maps=args.map,
    )  # fmt: skip
    if not getattr(embedder, "has_times", True):
        evaluation = replace(evaluation, ms_per_image=None)
    is_described = sidecar is not None and not sidecar.is_from_flags
    better = find_better_feeding(runtime, sets[0]()) if runtime and not is_described else None
    evaluation.check(args.model, str(better or ""))
    evaluation = replace(evaluation, notes=(*evaluation.notes, *([str(better)] if better else [])))
    check_unchanged(args.model, sha256)
    sidecar = keep_flags(args.model, kind, replace(io, embedding_size=embedder.embedding_size), sidecar)
    facts = {name: getattr(embedder, name, None) for name in MEASURED}
    facts["size_bytes"] = getattr(embedder, "size_bytes", args.model.stat().st_size)
    facts["ms_single"] = measure_single(embedder)
    return finish_test(args, evaluation, sidecar.kind if sidecar else kind, sha256, gallery, **facts)


def measure_single(embedder: Embedder) -> float | None:
    """Median milliseconds of a call with one face on one thread; None where the runtime does not offer that."""
    on_one_thread = getattr(embedder, "on_one_thread", None)
    single = on_one_thread() if on_one_thread else None
    return round(single_call_ms(single), 4) if single else None


def open_gallery_model(path: Path, threads: int) -> GalleryModel:
    """The model of --gallery-model, fed as its sidecar says."""
    sidecar, model = check_sidecar(path), open_reference(path, threads)
    run_self_test(model, sidecar)
    return GalleryModel(path.name, sha256_of(path), model)


def run_test_beside_reference(
    args: argparse.Namespace, open_embedder: Callable[[Path, Io, int], RuntimeEmbedder], kind: str
) -> int:
    """`run_test` of a converted artefact, whose embeddings are also compared with those of a reference.

    The reference is --reference, or what the artefact was made from. A mistake in feeding the artefact shows on the
    first faces. The embedder is closed.

    Args:
        args: the flags of `make_parser` and `add_reference_flags`, which may have more.
        open_embedder: as for `test_main`.
        kind: as for `test_main`.

    Raises:
        FaceError: the artefact is fed wrongly; then nothing is written. Or the mean cosine is too low.
    """
    args.far = args.far or [FAR_OF_FEW_PAIRS]
    if not -1 <= args.min_cosine <= 1:
        raise FaceError(f"--min-cosine must be between -1 and 1. Received: {args.min_cosine:g}.")
    opened: list[RuntimeEmbedder] = []
    compared: list[BesideReference] = []

    def open_both(path: Path, io: Io, threads: int) -> Embedder:
        reference = args.reference or find_parent(path)
        opened.append(open_embedder(path, io, threads))
        if reference is None:
            return opened[0]
        model = open_reference(reference, threads)  # errors show before the first face
        compared.append(BesideReference(opened[0], lambda: model))
        return compared[0]

    try:
        run_test(args, open_both, kind)
    finally:
        for embedder in opened:
            getattr(embedder, "close", lambda: None)()
    if not compared:
        print(
            "no cosine: the reference that the sidecar names is missing, has changed or does not run here; use "
            "--reference MODEL"
        )
        return 0
    mean, worst = compared[0].mean_cosine or 0.0, compared[0].min_cosine or 0.0
    name, num_faces = compared[0].reference.name, compared[0].num_faces
    same = f"; the same bits on {compared[0].num_same_bits}" if compared[0].num_same_bits else ""
    print(f"mean cosine to {name} on {num_faces} faces: {mean:.6f}, worst {worst:.6f}{same}")
    if mean < args.min_cosine:
        raise FaceError(
            f"A converted model must give the same embeddings as its reference: mean cosine >= {args.min_cosine:g}. "
            f"Received: {mean:.4f} for '{args.model}'. Convert the model again, with different or more calibration "
            "crops."
        )
    return 0


def add_reference_flags(parser: argparse.ArgumentParser, min_cosine: float) -> None:
    """Adds the flags of `run_test_beside_reference`; 600 pairs are the default, because a simulator is slow.

    Args:
        parser: of `make_parser`.
        min_cosine: lowest mean cosine to the reference.
    """
    reference_help = "artefact to compare embeddings with (default: what MODEL was made from, as its sidecar says)"
    parser.add_argument("--reference", type=Path, metavar="MODEL", help=reference_help)
    cosine_help = "fail if the mean cosine to the reference is lower (default: %(default)s)"
    parser.add_argument("--min-cosine", type=float, default=min_cosine, metavar="COSINE", help=cosine_help)
    parser.set_defaults(pairs=FEW_PAIRS)


def finish_test(
    args: argparse.Namespace,
    evaluation: Evaluation,
    kind: str,
    sha256: str | None,
    gallery: GalleryModel | None = None,
    **facts: Any,
) -> int:
    """The end of every test: writes the report and the thresholds, prints the table, applies the gate.

    Args:
        args: the flags of `add_test_flags`, with `model`, `flip` and `threads`. `threads` is None where the project
            does not choose them. A model that is not a file is a name in the report.
        evaluation: the results.
        kind: of artefact, e.g. 'tflite'.
        sha256: of the model before it was opened; None for one that is not a file.
        gallery: the model that embedded the second face of each pair; None if it is the same.
        facts: more fields of `Report`.

    Raises:
        FaceError: the gate, or the model was replaced meanwhile. Then nothing is written.
    """
    ms = evaluation.ms_per_image
    reference = read_report(args.against) if args.against else None  # before the report may overwrite it
    if sha256:
        check_unchanged(args.model, sha256)
    report = Report(
        artifact=args.model.name,
        kind=kind,
        sets=evaluation.results,
        sha256=sha256,
        size_bytes=facts.pop("size_bytes", None) or (args.model.stat().st_size if sha256 else None),
        images_per_s=round(1000 / ms, 3) if ms else None,
        ms_per_image=round(ms, 4) if ms else None,
        threads=args.threads,
        mean_norm=evaluation.mean_norm,
        flip=args.flip,
        gallery_model=gallery.as_dict() if gallery else None,
        **facts,
    )
    path = args.report or default_report(args)
    calibrated = write_thresholds(
        args.model, evaluation.thresholds(args.flip, report.executor), report.gallery_model, calibrate=args.calibrate
    )
    whole = find_whole_test(path, report)
    if whole is None:
        report.write(path)
    if evaluation.maps:
        write_maps(map_folder(path), evaluation.maps, sha256)
    print_notes(evaluation.notes)
    if gallery:
        print(f"probes embedded by {args.model.name}, gallery by {gallery.name}")
    print(report.table())
    if findings := report.findings():
        print(findings)
    if costs := _costs(report):
        print(costs)
    print_notes([*calibrated.notes, *evaluation.too_small()])
    if reference is not None:
        _gate(report, reference, args)
    wrote = [] if whole else [str(path)]
    wrote += [f"{map_folder(path)}/, with pictures of the faces"] if evaluation.maps else []
    wrote += [f"the thresholds in {calibrated.path}"] if calibrated.path else []
    if whole:
        print_notes([f"'{path}' keeps the test of {whole}; to keep this test as well, use --report FILE"])
    print_notes([one.say_bound() for one in evaluation.maps if len(one.faces) < one.num_faces])
    if wrote:
        print(f"wrote {' and '.join(wrote)}{next_step(*_next_command(report.kind, args.model))}")
    return 0


def _gate(report: Report, reference: dict[str, Any], args: argparse.Namespace) -> None:
    """Prints how the report compares with that of --against.

    Raises:
        FaceError: it is worse than allowed, or with --strict the pairs are too few to tell.
    """
    findings = compare(report.as_dict(), reference, args.max_acc_drop, args.max_vr_drop)
    losses = [str(finding) for finding in findings if finding.is_loss(args.strict)]
    if losses:
        raise FaceError(f"'{args.model}' is worse than '{args.against}' allows: {'; '.join(losses)}.")
    for finding in findings:
        print(f"{finding}{': passed' if finding.outcome == 'passed' else ''}")
    is_sure = all(finding.outcome == "passed" for finding in findings)
    limit = f"{args.max_acc_drop:g} points of ACC, {args.max_vr_drop:g} of VR"
    print(f"no worse than {args.against} by {limit}{'' if is_sure else ' (too few pairs to be certain)'}")


def _costs(report: Report) -> str:
    """'3.82 MiB, 4.41 ms an image (227 images/s, 2 threads)', as far as it is known."""
    parts = [f"{report.size_bytes / 2**20:.2f} MiB"] if report.size_bytes else []
    if report.ms_single:
        parts.append(f"{report.ms_single:.2f} ms a single image on one thread")
    if report.ms_per_image:
        threads = f"{report.threads} threads" if report.threads else None
        rate = ", ".join(filter(None, (f"{report.images_per_s:.0f} images/s", threads, report.executor)))
        parts.append(f"{report.ms_per_image:.2f} ms an image ({rate})")
    elif report.executor:
        parts.append(report.executor)
    return ", ".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    return test_main(argv, open_keras, __doc__, "h5")


def _next_command(kind: str, model: Path) -> tuple[object, ...]:
    commands: dict[str, tuple[object, ...]] = {
        "h5": ("python", "h5_2_pb.py", model),
        "frozen_pb": ("./optimize_pb.sh", model),
        "optimized_pb": ("python", "pb_2_tflite.py", model, "--mode", "float"),
    }
    run = model.parent.parent if model.parent.name == "export" else model.parent
    return commands.get(kind, ("python", "report.py", run))


if __name__ == "__main__":
    run_cli(main)
