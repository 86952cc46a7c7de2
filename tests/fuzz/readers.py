"""Opens an input of each format as the scripts do. What a damaged input may raise is FaceError or BadRecord."""

from contextlib import suppress
from pathlib import Path

import numpy as np

from facelib.errors import BadRecord, FaceError


def read_bin(folder: Path) -> None:
    from facelib.data.verification.bins import decode_images, load_bin

    pairs = load_bin(folder / "x.bin")
    decode_images(pairs.images, source="x.bin", num_threads=1)


def read_source(folder: Path, name: str = "") -> None:
    """As prepare_data.py reads it, then as training does where it reads this format."""
    from facelib.data.readers.sources import open_source
    from facelib.image_decoding import check_image, decode_image, decode_or_blank

    for skip_bad in (True, False):
        source = open_source(folder / name if name else folder, skip_bad)
        _ = source.notes, source.bad, source.image_size, source.fingerprint, source.class_names
        np.bincount(source.labels, minlength=len(source.class_names))
        for i in range(min(len(source), 20)):
            try:
                image = source.read(i)
                source.describe(i)
                decode_or_blank(image)
                check_image(image)
                decode_image(image, np.empty((112, 112, 3), np.uint8), size=(112, 112), check_end=False)
            except (BadRecord, FaceError):
                pass


def read_data_dir(folder: Path) -> None:
    from facelib.data.readers.open_records import open_records

    read_source(folder)
    records = open_records(folder)
    _ = records.fingerprint, list(records.class_names)
    for read in (
        lambda: [records.read(i) for i in range(len(records))],
        lambda: records.read_sorted(np.arange(len(records))),
    ):
        with suppress(FaceError):
            read()


def read_image(folder: Path) -> None:
    from facelib.alignment.photos import decode_photo
    from facelib.data.verification.bins import decode_face
    from facelib.evaluation.verification_sets import letterboxed
    from facelib.files import read_image_file
    from facelib.image_decoding import check_image, decode_image, decode_or_blank

    data = read_image_file(folder / "x")
    for read in (
        check_image,
        decode_image,
        decode_or_blank,
        lambda image: decode_photo(image, "x"),
        lambda image: letterboxed(image, "x"),
        lambda image: decode_image(image, np.empty((24, 32, 3), np.uint8), size=(24, 32), check_end=False),
        lambda image: decode_face(image, (24, 32), "x"),
    ):
        with suppress(BadRecord, FaceError):
            read(data)


def read_pairs(folder: Path) -> None:
    from facelib.data.verification.listed_pairs import find_shot, read_pairs_txt
    from facelib.evaluation.verification_sets import find_sets

    for load in find_sets(folder, folder / "pairs.txt"):
        load()
    pairs, _, _ = read_pairs_txt(folder / "pairs.txt")
    for pair in pairs[:20]:
        for shot in pair:
            find_shot(folder, shot)


def read_recipe(folder: Path) -> None:
    from facelib.training.recipe.toml import load_recipe, to_toml

    to_toml(load_recipe(folder / "x.toml"))


def read_sidecar(folder: Path) -> None:
    from facelib.recognition.decision import decide_by
    from facelib.sidecar import check_sidecar

    check_sidecar(folder / "m.pb")
    decide_by(folder / "m.pb", None, None)


def read_reports(folder: Path) -> None:
    from facelib.reports.artefact_table import artefact_rows, format_table
    from facelib.reports.read_run import read_artefacts

    format_table(artefact_rows(read_artefacts(sorted(folder.glob("*.report.json")))))


def read_gallery(folder: Path) -> None:
    from facelib.recognition.gallery import check_gallery_model, open_gallery

    gallery = open_gallery(folder / "g.npy")
    np.asarray(gallery.vectors, np.float32).sum()
    check_gallery_model(gallery, None)


def read_checkpoint(folder: Path) -> None:
    from facelib.training.checkpoint import list_checkpoints, load_checkpoint

    for path in list_checkpoints(folder):
        load_checkpoint(path)


def read_run(folder: Path) -> None:
    from facelib.reports.artefact_table import artefact_rows, format_table
    from facelib.reports.read_run import flatten, read_run
    from facelib.training.recipe.schema import Recipe
    from facelib.training.run_dir import RunDir

    run = read_run(folder)
    format_table(artefact_rows(run.artefacts))
    flatten(run.config)
    RunDir(folder, Recipe(), folder, "ab" * 32).close()


def read_model(file: Path) -> None:
    """Opens a model as the test scripts do, and embeds two faces."""
    from facelib.model_input import Io
    from facelib.runtimes.open_embedder import open_embedder

    is_onnx = file.suffix == ".onnx"
    io = Io(size=(16, 16), layout="nchw" if is_onnx else "nhwc")
    embedder = open_embedder(file, io, 1)
    embedder(np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3)).astype(np.uint8))
