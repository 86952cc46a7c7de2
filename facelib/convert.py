"""Any face data -> a data directory, in seeded random order, whole or not at all.

Two passes, both sequential on disk, so that a hard disk does as well as an SSD:

1. read the source in its own order, check each image, and append its bytes to the bucket of the shard it will stand in;
2. shard by shard, gather the bucket in its final order, frame it, and write shard and index.

Labels are encoded in pass 2, when it is known which identities remain. Everything happens in a hidden folder beside OUT
that is renamed at the end; a lock on it tells a running conversion from a killed one, whose leftovers are removed.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from facelib.cli import FaceError
from facelib.data_dir import (
    FORMAT_VERSION,
    INDEX,
    INDEX_DTYPE,
    MAX_SHARD_BYTES,
    META,
    open_records,
    shard_name,
)
from facelib.files import read_json, write_json
from facelib.image_checker import ImageChecker
from facelib.sources import Source, open_source
from facelib.tfrecord import BadRecord, encode_image_example, frame, map_file
from facelib.working_folder import working_folder

RECORDS_PER_SHARD = 1 << 14
DEFAULT_SIZE = (112, 112)  # height, width
BAD_RECORDS = "bad_records.txt"
_CHUNK = 512  # records between two looks at the progress bar
_BUFFER_BYTES = 256 << 20  # of all buckets together
_OVERHEAD_BYTES = 80  # at most, that a record is longer than its image


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


def convert(
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
    progress: bool = True,
) -> Conversion:
    """Writes the faces at `source_path` as a data directory `out`. Image bytes are kept as they are.

    Args:
        shards: number of files; by default one for each 16,384 images.
        min_images, max_images: identities with fewer images are dropped; of those with more, a seeded choice is kept.
        image_size: (height, width) in pixels of every image; by default what the source declares, or 112x112.
        seed: of the order and that choice. The same source and options give the same bytes.
        skip_bad: leave unreadable images out, and list them in bad_records.txt, instead of stopping at the first.
        decode_all: decode every image as a check, on all cores, instead of looking at its header and end only.

    Raises:
        FaceError: a bad source or image, an image of another size, or `out` holds other data.
    """
    out = Path(out)
    options = {"shards": shards, "min_images": min_images, "max_images": max_images, "seed": seed}
    options |= {"skip_bad": skip_bad, "decode_all": decode_all, "image_size": image_size and list(image_size)}
    _check_options(shards, min_images, max_images, seed)
    source = open_source(source_path, skip_bad)
    keep = select(source.labels, min_images, max_images, seed)
    size, threads = image_size or source.image_size or DEFAULT_SIZE, (os.cpu_count() or 1) if decode_all else 0
    check = ImageChecker(source, size, decode_threads=threads)
    return convert_source(source, out, options, keep=keep, check=check, skip_bad=skip_bad, progress=progress)


def convert_source(
    source: Source,
    out: Path,
    options: dict,
    *,
    keep: np.ndarray,
    check: ImageChecker,
    skip_bad: bool = False,
    files: dict[str, object] | None = None,
    progress: bool = True,
) -> Conversion:
    """Writes the records `keep` of `source` as the data directory `out`.

    Args:
        options: what makes the result what it is, 'seed' among it; meta.json has them, and a second call with others is
            refused. 'shards' and 'min_images' are used when they are there.
        keep: int64, ascending.   check: reads the records of `source`.
        files: name -> JSON value, written into `out` beside the shards.
    """
    _check_out(out, source)
    made_from = {"path": str(source.path), "kind": source.kind, "hash": source.fingerprint, "options": options}
    if (out / META).exists():
        return _already_there(out, made_from)
    shards, seed = options.get("shards"), options["seed"]
    num_shards = shards or -(-len(keep) // RECORDS_PER_SHARD)
    if num_shards > len(keep):
        raise FaceError(
            f"Every shard has a record at least. --shards {num_shards} is more than the {len(keep)} images."
        )
    with working_folder(out) as folder:
        for name, value in (files or {}).items():
            write_json(folder / name, value)
        buckets = _fill_buckets(source, keep, num_shards, seed, folder, check, skip_bad, progress)
        return _write_data_dir(source, buckets, folder, out, made_from, options.get("min_images", 1), progress)


def _check_options(shards: int | None, min_images: int, max_images: int | None, seed: int) -> None:
    if shards is not None and not 1 <= shards <= 1 << 16:
        raise FaceError(f"--shards is 1 to 65536. Received: {shards}.")
    if min_images < 1:
        raise FaceError(f"--min-images is 1 or more. Received: {min_images}.")
    if max_images is not None and max_images < min_images:
        raise FaceError(f"--max-images is at least --min-images ({min_images}). Received: {max_images}.")
    if seed < 0:
        raise FaceError(f"--seed is 0 or more. Received: {seed}.")


def _check_out(out: Path, source: Source) -> None:
    if out.exists() and not out.is_dir():
        raise FaceError(f"OUT is a folder to be made. '{out}' is a file: choose another name.")
    if out.is_dir() and not (out / META).exists() and any(out.iterdir()):
        raise FaceError(f"OUT is a new folder. '{out}' has files that are no data directory: choose another name.")
    inside = out.resolve()
    if source.kind == "identity folders" and source.path.resolve() in [inside, *inside.parents]:
        raise FaceError(f"OUT lies outside of SOURCE. Received: OUT '{out}' in '{source.path}'. Choose another place.")


def _already_there(out: Path, made_from: dict) -> Conversion:
    meta = read_json(out / META, "data directory's meta.json")
    old = meta.get("source") or {}
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
    records = open_records(out)  # checks that everything is there
    shards = len(records.files)
    return Conversion(out, len(records), records.num_classes, shards, meta.get("num_bad", 0), was_finished=True)


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


# ------------------------------------------------------------------------------- pass 1: source -> buckets


@dataclass
class _Buckets:
    """Images by shard, in source order. All arrays are [N], one element for each kept record."""

    names: list[Path]
    shard: np.ndarray  # uint16
    position: np.ndarray  # uint32, place in the final order of all records
    length: np.ndarray  # uint32, bytes of the image; 0 for a bad record
    label: np.ndarray  # int64, in the source
    image_size: tuple[int, int]
    bad: list[str]


def _fill_buckets(source, keep, num_shards, seed, folder: Path, check: ImageChecker, skip_bad, progress) -> _Buckets:
    position = np.random.default_rng([seed, 0]).permutation(len(keep)).astype(np.uint32)
    shard = (position.astype(np.int64) * num_shards // len(keep)).astype(np.uint16)
    names = [folder / f"bucket-{k:05d}" for k in range(num_shards)]
    lengths, bad = np.zeros(len(keep), np.uint32), list(source.bad)
    pending: list[list[bytes]] = [[] for _ in range(num_shards)]
    waiting = [0] * num_shards
    limit = max(1 << 16, min(4 << 20, _BUFFER_BYTES // num_shards))

    def flush(k: int) -> None:
        with open(names[k], "ab", buffering=0) as file:
            _write_all(file, b"".join(pending[k]))
        pending[k].clear()
        waiting[k] = 0

    with tqdm(total=len(keep), unit=" images", desc="read", disable=None if progress else True, leave=False) as bar:
        for start in range(0, len(keep), _CHUNK):
            chunk = keep[start : start + _CHUNK].tolist()
            images = check(chunk)
            for n, (k, image) in enumerate(zip(shard[start : start + _CHUNK].tolist(), images, strict=True), start):
                if isinstance(image, BadRecord):
                    bad.append(f"{source.describe(int(keep[n]))}: {image}")
                    if not skip_bad:
                        raise FaceError(f"{bad[0]} ('{source.path}'). Mend or remove it, or run again with --skip-bad.")
                    continue
                lengths[n] = len(image)
                pending[k].append(image)
                waiting[k] += len(image)
                if waiting[k] >= limit:
                    flush(k)
            bar.update(len(chunk))
    for k in range(num_shards):
        flush(k)
    if not lengths.any():
        raise FaceError(f"'{source.path}' has no usable image ({len(bad)} bad). The first: {bad[0]}.")
    return _Buckets(names, shard, position, lengths, source.labels[keep], check.size, bad)


def _write_all(file, data: bytes) -> None:
    """Unbuffered write: a full disk is an error here, with the file's name, and not at some later close."""
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        error.filename = error.filename or file.name
        raise


# -------------------------------------------------------------------------------- pass 2: buckets -> shards


def _write_data_dir(source, buckets: _Buckets, folder: Path, out: Path, made_from, min_images, progress) -> Conversion:
    good = buckets.length > 0
    counts = np.bincount(buckets.label[good], minlength=len(source.class_names))
    classes = np.flatnonzero(counts >= min_images)  # bad images may have left an identity too small
    if not len(classes):
        raise FaceError(f"'{source.path}': without its {len(buckets.bad)} bad images no identity has {min_images}.")
    new_label = np.full(len(counts), -1, np.int64)
    new_label[classes] = np.arange(len(classes))
    labels = np.where(good, new_label[buckets.label], -1)
    num_shards = len(buckets.names)
    index = np.zeros(int((labels >= 0).sum()), INDEX_DTYPE)
    shards, filled = [], 0
    with tqdm(total=len(index), unit=" images", desc="write", disable=None if progress else True, leave=False) as bar:
        for k, bucket in enumerate(buckets.names):
            mine = np.flatnonzero(buckets.shard == k)
            path = folder / shard_name(k, num_shards)
            rows, digest = _write_shard(bucket, path, buckets, mine, labels[mine], bar)
            rows["shard"] = k
            index[filled : filled + len(rows)] = rows
            filled += len(rows)
            shards.append({"name": path.name, "bytes": path.stat().st_size, "records": len(rows), "sha256": digest})
            bucket.unlink()
    with open(folder / INDEX, "wb") as file:
        np.save(file, index)
        _sync(file)
    if buckets.bad:
        (folder / BAD_RECORDS).write_text("\n".join(buckets.bad) + "\n", errors="surrogateescape")
    meta = {
        "format_version": FORMAT_VERSION,
        "num_images": len(index),
        "num_classes": len(classes),
        "image_size": list(buckets.image_size),
        "seed": made_from["options"]["seed"],
        "num_bad": len(buckets.bad),
        "source": made_from,
        "index": {"name": INDEX, "sha256": hashlib.sha256(index.view(np.uint8)).hexdigest()},
        "shards": shards,
        "class_names": [source.class_names[c] for c in classes.tolist()],
    }
    write_json(folder / META, meta)
    return Conversion(out, len(index), len(classes), num_shards, len(buckets.bad), list(source.notes))


def _write_shard(bucket: Path, path: Path, buckets: _Buckets, mine, labels, bar) -> tuple[np.ndarray, str]:
    """Writes one shard in final order; returns its index rows and SHA-256."""
    lengths = buckets.length[mine].astype(np.int64)
    if lengths.sum() + len(mine) * _OVERHEAD_BYTES > MAX_SHARD_BYTES:
        raise FaceError(
            f"A shard stays below 4 GiB. '{path.name}' would have {lengths.sum():,} bytes: use more --shards."
        )
    starts = np.cumsum(lengths) - lengths
    order = np.argsort(buckets.position[mine])
    order = order[labels[order] >= 0]
    rows = np.zeros(len(order), INDEX_DTYPE)
    rows["label"] = labels[order]
    digest, sizes = hashlib.sha256(), []
    data = map_file(bucket) if lengths.any() else b""
    with open(path, "wb", buffering=0) as file:
        for first in range(0, len(order), _CHUNK):
            part = order[first : first + _CHUNK]
            frames = [
                frame(encode_image_example(data[start : start + length], label))
                for start, length, label in zip(
                    starts[part].tolist(), lengths[part].tolist(), labels[part].tolist(), strict=True
                )
            ]
            sizes += map(len, frames)
            joined = b"".join(frames)
            digest.update(joined)
            _write_all(file, joined)
            bar.update(len(part))
        _sync(file)
    sizes = np.array(sizes, np.int64)
    rows["length"] = sizes - 16
    rows["offset"] = np.cumsum(sizes) - sizes
    return rows, digest.hexdigest()


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())
