"""Converts any face data to a data directory, in a seeded random order, completely or not at all.

`two_passes.py` reads and writes. Everything happens in a hidden folder beside OUT, which is renamed at the end. A lock
on it tells a running conversion from a killed one, whose leftovers are removed.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from facelib.data.conversion.held_out import LeaveOut, choose_held_out, write_held_out
from facelib.data.conversion.two_passes import ImageChecker, Job, fill_buckets, remaining_labels, write_shards
from facelib.data.data_dir import META, open_data_dir, write_meta
from facelib.data.readers.open_records import open_records
from facelib.data.readers.sources import Source, open_source
from facelib.data.record_reader import Records
from facelib.data.storage import StoredPath, size_of, upload_folder
from facelib.errors import FaceError, short_repr
from facelib.files import read_json, target_of, working_folder, write_json
from facelib.wording import counted

RECORDS_PER_SHARD = 1 << 14
DEFAULT_WORKERS = 8  # threads that read
DEFAULT_SIZE = (112, 112)  # height, width


@dataclass
class Conversion:
    """The result of a conversion.

    Attributes:
        out: the data directory.
        num_images: written.
        num_classes: identities written.
        num_shards: files written.
        num_bad: images left out because they are bad.
        notes: lines that the user should see.
        was_finished: True when `out` held the same data already and nothing was done.
    """

    out: Path | StoredPath
    num_images: int
    num_classes: int
    num_shards: int
    num_bad: int = 0
    notes: list[str] = field(default_factory=list)
    was_finished: bool = False

    @property
    def counts(self) -> str:
        """'1,200 images, 40 identities'."""
        return f"{counted(self.num_images, 'image')}, {counted(self.num_classes, 'identity', 'identities')}"


def convert(source_path: Path, out: Path, **options) -> Conversion:
    """Writes face data as a data directory. Image bytes are kept as they are.

    Args:
        source_path: face data of any format.
        out: the folder to make.
        options: those of `open_job`.

    Raises:
        FaceError: a bad source or image, an image of another size, or `out` holds other data.
    """
    return run_job(open_job(source_path, out, **options))


def open_job(
    source_path: Path,
    out: Path,
    *,
    shards: int | None = None,
    min_images: int = 1,
    max_images: int | None = None,
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    decode_all: bool = False,
    workers: int | None = None,
    progress: bool = True,
    encoding: str | None = None,
    hold_out: int | None = None,
    leave_out: LeaveOut | None = None,
) -> Job:
    """Opens the source and chooses its records.

    Args:
        source_path: face data of any format.
        out: the folder to make.
        shards: number of files; by default one for each 16,384 images.
        min_images: identities with fewer images are dropped.
        max_images: of identities with more images, this many are kept, a seeded choice; None keeps all.
        image_size: (height, width) in pixels of every image; by default what the source declares, or 112x112.
        seed: of the order and the choice. The same source and options give the same bytes.
        skip_bad: leave unreadable images out and list them in bad_records.txt, instead of stopping at the first.
        decode_all: decode every image as a check, instead of looking at its header and end only.
        workers: threads that read and check; any number gives the same result. By default as many as cores, at least 8.
        progress: show a progress bar.
        encoding: of a list of faces; None finds it.
        hold_out: how many identities to write into folders beside `out` in place of it, a seeded choice.
        leave_out: identities to leave out.
    """
    options: dict[str, object] = {"shards": shards, "min_images": min_images, "max_images": max_images, "seed": seed}
    options |= {"skip_bad": skip_bad, "decode_all": decode_all, "image_size": image_size and list(image_size)}
    options |= {"hold_out": hold_out, "leave_out": leave_out and leave_out.described}
    _check_options(shards, min_images, max_images, seed, workers)
    source = open_source(source_path, skip_bad, encoding)
    keep = select(source.labels, min_images, max_images, seed)
    held = keep[:0]
    if not (Path(out) / META).exists():  # else nothing will be written
        if leave_out:
            keep = keep[~np.isin(source.labels[keep], leave_out.find(source))]
        if hold_out is not None:
            is_held = np.isin(source.labels[keep], choose_held_out(source.labels[keep], hold_out, seed))
            held, keep = keep[is_held], keep[~is_held]
        if not len(keep):
            raise FaceError("No identity remains, because --leave-out removes all of them.")
    size = image_size or source.image_size or DEFAULT_SIZE
    check = ImageChecker(source, size, decode_all, workers or max(DEFAULT_WORKERS, os.cpu_count() or 1))
    job = make_job(source, Path(out), options, keep=keep, check=check, skip_bad=skip_bad, progress=progress)
    return replace(job, held_out=held)


def make_job(
    source: Source,
    out: Path,
    options: dict,
    *,
    check: ImageChecker,
    keep: np.ndarray | None = None,
    skip_bad: bool = False,
    progress: bool = True,
) -> Job:
    """The conversion of an open source.

    Args:
        source: labelled faces.
        out: the folder to make.
        options: what decides the result, 'seed' among it. meta.json holds them, and a second call with others is
            refused. 'shards' and 'min_images' are used when they are there.
        check: reads the records and checks them.
        keep: int64, ascending, the records of the source to write; None for all.
        skip_bad: leave bad images out instead of stopping at the first.
        progress: show a progress bar.
    """
    _check_out(out, source)
    keep = np.arange(len(source)) if keep is None else keep
    made_from = {"path": str(source.path), "kind": source.kind, "hash": source.fingerprint, "options": options}
    num_shards = options.get("shards") or -(-len(keep) // RECORDS_PER_SHARD)
    return Job(source, out, made_from, keep, check, num_shards, options.get("min_images", 1), skip_bad, progress)


def run_job(job: Job, files: Mapping[str, object] | None = None) -> Conversion:
    """Writes the data directory, unless it is there.

    Args:
        job: of `open_job` or `make_job`.
        files: name -> JSON value, written into the data directory beside the shards.
    """
    if (job.out / META).exists():
        return already_there(job.out, job.made_from)
    check_num_shards(job)
    if len(job.held_out):
        write_held_out(job)
    with working_folder(job.out) as folder:
        for name, value in (files or {}).items():
            write_json(folder / name, value)
        buckets = fill_buckets(job, range(job.num_shards), folder)
        if not buckets.length.any():
            raise FaceError(
                f"'{job.source.path}' has no usable image ({len(buckets.bad)} bad). The first: {buckets.bad[0][1]}."
            )
        labels, classes = remaining_labels(job, buckets)
        index, shards = write_shards(buckets, labels, folder, job)
        bad = [*job.source.bad, *(line for _, line in buckets.bad)]
        names = [job.source.class_names[c] for c in classes.tolist()]
        write_meta(folder, index, shards, bad, names, job.check.size, job.made_from)
        return Conversion(job.out, len(index), len(names), job.num_shards, len(bad), list(job.source.notes))


def check_num_shards(job: Job) -> None:
    """Raises FaceError when there are more shards than images."""
    if job.num_shards > len(job.keep):
        raise FaceError(
            f"Each shard must hold at least one record. Received: --shards {job.num_shards} for {len(job.keep)} images."
        )


def _check_options(shards: int | None, min_images: int, max_images: int | None, seed: int, workers) -> None:
    if shards is not None and not 1 <= shards <= 1 << 16:
        raise FaceError(f"--shards must be from 1 to 65536. Received: {shards}.")
    if min_images < 1:
        raise FaceError(f"--min-images must be 1 or more. Received: {min_images}.")
    if max_images is not None and max_images < min_images:
        raise FaceError(f"--max-images must not be less than --min-images ({min_images}). Received: {max_images}.")
    if seed < 0:
        raise FaceError(f"--seed must be 0 or more. Received: {seed}.")
    if workers is not None and workers < 1:
        raise FaceError(f"--workers must be 1 or more. Received: {workers}.")


def _check_out(out: Path, source: Source) -> None:
    if out.exists() and not out.is_dir():
        raise FaceError(f"OUT must be a folder. '{out}' is a file: choose a different name.")
    if out.is_dir() and not (out / META).exists() and any(out.iterdir()):
        raise FaceError(
            f"OUT must be a new folder or a data directory. '{out}' is a folder with other files: choose a different "
            "name."
        )
    inside = target_of(out)
    if source.kind == "identity folders" and source.path.resolve() in [inside, *inside.parents]:
        raise FaceError(
            f"OUT must not be inside SOURCE. Received: OUT '{out}', SOURCE '{source.path}'. Choose a different folder."
        )


def already_there(out: Path, made_from: dict) -> Conversion:
    """The finished data directory `out`, after a check that it is complete and was made from the same source."""
    check_made_from(out, made_from_of(out), made_from)
    return _finished(open_data_dir(out, out), out)


def made_from_of(out: Path) -> dict:
    """What meta.json says the data directory `out` was made from; {} when it does not say."""
    source = read_json(out / META, "data directory's meta.json").get("source")
    return source if isinstance(source, dict) else {}


def _finished(records: Records, out: Path | StoredPath) -> Conversion:
    shards, num_bad = len(records.files), records.meta.get("num_bad") or 0
    return Conversion(out, len(records), records.num_classes, shards, num_bad, was_finished=True)


def check_made_from(out: Path | StoredPath, old: dict, made_from: dict) -> None:
    """Raises FaceError when `out` was made from another source, or with other options."""
    differences = []
    if old.get("hash") != made_from["hash"]:
        differences.append(f"different face data ({short_repr(old.get('path'))}, {short_repr(old.get('kind'))[1:-1]})")
    options = old["options"] if isinstance(old.get("options"), dict) else {}
    for name, value in made_from["options"].items():
        if options.get(name) != value:
            differences.append(f"--{name.replace('_', '-')} {json.dumps(options.get(name))[:80]}")
    if differences:
        raise FaceError(
            f"'{out}' was made with {', '.join(differences)}. Choose a different OUT, or delete this folder and "
            "run the command again."
        )


def select(labels: np.ndarray, min_images: int, max_images: int | None, seed: int) -> np.ndarray:
    """Chooses the records to keep.

    Args:
        labels: int64 [N], the identity of each record.
        min_images: identities with fewer records are dropped.
        max_images: of each identity at most this many are kept, a seeded choice; None keeps all.
        seed: of the choice.

    Returns:
        int64, ascending, numbers of records.

    Raises:
        FaceError: none remains.
    """
    if not len(labels):
        raise FaceError("None of the images can be read. Copy the files again.")
    counts = np.bincount(labels)
    keep = np.flatnonzero(counts[labels] >= min_images)
    if max_images is not None and counts.max() > max_images:
        order = np.random.default_rng([seed, 1]).permutation(len(keep))
        order = order[np.argsort(labels[keep[order]], kind="stable")]  # by identity, in random order within
        sorted_labels = labels[keep[order]]
        rank = np.arange(len(order)) - np.searchsorted(sorted_labels, sorted_labels)
        keep = np.sort(keep[order[rank < max_images]])
    if not len(keep):
        raise FaceError(
            f"No identity has at least {min_images} images (--min-images). The largest identity has {counts.max()}. "
            "Lower --min-images."
        )
    return keep


def convert_to_storage(source_path: Path, out: StoredPath, **options) -> Conversion:
    """Writes the faces at `source_path` as a data directory in object storage.

    The cache of this machine needs room for all of it until it is uploaded. meta.json is uploaded last, so an upload
    that was stopped is not a data directory. Run the same command again to upload what was converted.

    Args:
        source_path: face data of any format.
        out: address of the data directory, such as s3://BUCKET/NAME.
        options: those of `facelib.data.conversion.job.open_job`.

    Raises:
        FaceError: those of `convert`, and what the storage says.
    """
    local = out.cache / "upload"
    if local.exists() and not (local / META).exists():  # its removal was killed
        shutil.rmtree(local)
    job = open_job(source_path, local, **options)
    if size_of(out / META) is not None:
        records = open_records(out)
        check_made_from(out, records.meta.get("source") or {}, job.made_from)
        if local.exists():  # that upload was killed at its very end
            shutil.rmtree(local)
        return _finished(records, out)
    if (local / META).exists() and read_json(local / META, "meta.json of an upload").get("source") != job.made_from:
        shutil.rmtree(local)  # of an upload to the same address that was given up
    done = run_job(job)
    upload_folder(local, out, last=META)
    shutil.rmtree(local)
    return replace(done, out=out, was_finished=False)
