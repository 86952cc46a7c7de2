"""Any face data -> a data directory, in seeded random order, whole or not at all.

The two passes that read and write are in facelib/data/conversion/two_passes.py. Everything happens in a hidden folder beside OUT
that is renamed at the end; a lock on it tells a running conversion from a killed one, whose leftovers are removed.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from facelib.data.conversion.two_passes import Buckets, ImageChecker, Job, fill_buckets, write_shards
from facelib.data.data_dir import META, write_meta
from facelib.data.readers.open_records import open_records
from facelib.data.readers.sources import Source, open_source
from facelib.errors import FaceError
from facelib.files import read_json, working_folder, write_json

RECORDS_PER_SHARD = 1 << 14
DEFAULT_WORKERS = 8  # threads that read
DEFAULT_SIZE = (112, 112)  # height, width


@dataclass
class Conversion:
    """What `convert` did. was_finished: nothing, because OUT held the same data already."""

    out: Path
    num_images: int
    num_classes: int
    num_shards: int
    num_bad: int = 0
    notes: list[str] = field(default_factory=list)
    was_finished: bool = False


def convert(source_path: Path, out: Path, **options) -> Conversion:
    """Writes the faces at `source_path` as a data directory `out`. Image bytes are kept as they are.

    Args:
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
) -> Job:
    """Opens the source and chooses its records.

    Args:
        shards: number of files; by default one for each 16,384 images.
        min_images, max_images: identities with fewer images are dropped; of those with more, a seeded choice is kept.
        image_size: (height, width) in pixels of every image; by default what the source declares, or 112x112.
        seed: of the order and that choice. The same source and options give the same bytes.
        skip_bad: leave unreadable images out, and list them in bad_records.txt, instead of stopping at the first.
        decode_all: decode every image as a check, instead of looking at its header and end only.
        workers: threads that read and check, which changes nothing in the result; by default 8, or all cores.
    """
    options = {"shards": shards, "min_images": min_images, "max_images": max_images, "seed": seed}
    options |= {"skip_bad": skip_bad, "decode_all": decode_all, "image_size": image_size and list(image_size)}
    _check_options(shards, min_images, max_images, seed, workers)
    source = open_source(source_path, skip_bad)
    keep = select(source.labels, min_images, max_images, seed)
    size = image_size or source.image_size or DEFAULT_SIZE
    check = ImageChecker(source, size, decode_all, workers or max(DEFAULT_WORKERS, os.cpu_count() or 1))
    return make_job(source, Path(out), options, keep=keep, check=check, skip_bad=skip_bad, progress=progress)


def convert_source(source: Source, out: Path, options: dict, *, files: dict[str, object], **parts) -> Conversion:
    """Writes chosen records of `source` as the data directory `out`.

    Args:
        files: name -> JSON value, written into `out` beside the shards.   parts: those of `make_job`.
    """
    return run_job(make_job(source, out, options, **parts), files)


def make_job(
    source: Source,
    out: Path,
    options: dict,
    *,
    keep: np.ndarray,
    check: ImageChecker,
    skip_bad: bool = False,
    progress: bool = True,
) -> Job:
    """A `Job`.

    Args:
        options: what makes the result what it is, 'seed' among it; meta.json has them, and a second call with others is
            refused. 'shards' and 'min_images' are used when they are there.
    """
    _check_out(out, source)
    made_from = {"path": str(source.path), "kind": source.kind, "hash": source.fingerprint, "options": options}
    num_shards = options.get("shards") or -(-len(keep) // RECORDS_PER_SHARD)
    return Job(source, out, made_from, keep, check, num_shards, options.get("min_images", 1), skip_bad, progress)


def run_job(job: Job, files: dict[str, object] | None = None) -> Conversion:
    """Writes the data directory, unless it is there."""
    if (job.out / META).exists():
        return already_there(job.out, job.made_from)
    check_num_shards(job)
    with working_folder(job.out) as folder:
        for name, value in (files or {}).items():
            write_json(folder / name, value)
        buckets = fill_buckets(job, range(job.num_shards), folder)
        if not buckets.length.any():
            raise FaceError(
                f"'{job.source.path}' has no usable image ({len(buckets.bad)} bad). The first: {buckets.bad[0][1]}."
            )
        labels, classes = _remaining(job, buckets)
        index, shards = write_shards(buckets, labels, folder, job)
        bad = [*job.source.bad, *(line for _, line in buckets.bad)]
        names = [job.source.class_names[c] for c in classes.tolist()]
        write_meta(folder, index, shards, bad, names, job.check.size, job.made_from)
        return Conversion(job.out, len(index), len(names), job.num_shards, len(bad), list(job.source.notes))


def check_num_shards(job: Job) -> None:
    """Raises FaceError when there are more shards than images."""
    if job.num_shards > len(job.keep):
        raise FaceError(
            f"Every shard has a record at least. --shards {job.num_shards} is more than the {len(job.keep)} images."
        )


def _remaining(job: Job, buckets: Buckets) -> tuple[np.ndarray, np.ndarray]:
    """(final label of each record of the buckets, -1 for none; the source's classes that remain)."""
    good = buckets.length > 0
    counts = np.bincount(buckets.label[good], minlength=len(job.source.class_names))
    classes = np.flatnonzero(counts >= job.min_images)  # bad images may have left an identity too small
    if not len(classes):
        raise too_small(job.made_from, len(job.source.bad) + len(buckets.bad), job.min_images)
    return np.where(good, new_labels(classes, len(counts))[buckets.label], -1), classes


def new_labels(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 [num_classes]: the place of each class among `classes`, -1 for those that are not there."""
    labels = np.full(num_classes, -1, np.int64)
    labels[classes] = np.arange(len(classes))
    return labels


def too_small(made_from: dict, num_bad: int, min_images: int) -> FaceError:
    """The error of a source whose bad images leave no identity."""
    return FaceError(f"'{made_from['path']}': without its {num_bad} bad images no identity has {min_images}.")


def _check_options(shards: int | None, min_images: int, max_images: int | None, seed: int, workers) -> None:
    if shards is not None and not 1 <= shards <= 1 << 16:
        raise FaceError(f"--shards is 1 to 65536. Received: {shards}.")
    if min_images < 1:
        raise FaceError(f"--min-images is 1 or more. Received: {min_images}.")
    if max_images is not None and max_images < min_images:
        raise FaceError(f"--max-images is at least --min-images ({min_images}). Received: {max_images}.")
    if seed < 0:
        raise FaceError(f"--seed is 0 or more. Received: {seed}.")
    if workers is not None and workers < 1:
        raise FaceError(f"--workers is 1 or more. Received: {workers}.")


def _check_out(out: Path, source: Source) -> None:
    if out.exists() and not out.is_dir():
        raise FaceError(f"OUT is a folder to be made. '{out}' is a file: choose another name.")
    if out.is_dir() and not (out / META).exists() and any(out.iterdir()):
        raise FaceError(f"OUT is a new folder. '{out}' has files that are no data directory: choose another name.")
    inside = out.resolve()
    if source.kind == "identity folders" and source.path.resolve() in [inside, *inside.parents]:
        raise FaceError(f"OUT lies outside of SOURCE. Received: OUT '{out}' in '{source.path}'. Choose another place.")


def already_there(out: Path, made_from: dict) -> Conversion:
    """The finished data directory `out`, when it was made from the same."""
    meta = read_json(out / META, "data directory's meta.json")
    check_made_from(out, meta.get("source") or {}, made_from)
    records = open_records(out)  # checks that everything is there
    shards = len(records.files)
    return Conversion(out, len(records), records.num_classes, shards, meta.get("num_bad", 0), was_finished=True)


def check_made_from(out: Path, old: dict, made_from: dict) -> None:
    """Raises FaceError when `out` was made from another source, or with other options."""
    differences = []
    if old.get("hash") != made_from["hash"]:
        differences.append(f"other face data ({old.get('path')!r}, {old.get('kind')})")
    options = old.get("options") or {}
    for name, value in made_from["options"].items():
        if options.get(name) != value:
            differences.append(f"--{name.replace('_', '-')} {json.dumps(options.get(name))}")
    if differences:
        raise FaceError(
            f"'{out}' was made with {', '.join(differences)}. Choose another OUT, or delete it to make it again."
        )


def select(labels: np.ndarray, min_images: int, max_images: int | None, seed: int) -> np.ndarray:
    """The records to keep, int64, ascending: of identities with `min_images` or more, at most `max_images` each.

    Raises:
        FaceError: none remains.
    """
    counts = np.bincount(labels)
    keep = np.flatnonzero(counts[labels] >= min_images)
    if max_images is not None and counts.max() > max_images:
        order = np.random.default_rng([seed, 1]).permutation(len(keep))
        order = order[np.argsort(labels[keep[order]], kind="stable")]  # by identity, in random order within
        sorted_labels = labels[keep[order]]
        rank = np.arange(len(order)) - np.searchsorted(sorted_labels, sorted_labels)
        keep = np.sort(keep[order[rank < max_images]])
    if not len(keep):
        raise FaceError(f"No identity has --min-images {min_images} images: the largest has {counts.max()}.")
    return keep
