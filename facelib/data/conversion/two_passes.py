"""The two passes of a conversion. Both read and write files in sequence, so a hard disk does as well as an SSD.

1. Read the source in its stored order, check each image, and append its bytes to the bucket of its shard.
2. For each shard, read its bucket in the final order and write the records and their rows of the index.

Pass 2 writes the labels, because only then is it known which identities remain.
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from facelib.data.data_dir import shard_entry, shard_name, write_all, write_frames
from facelib.data.readers.sources import Source
from facelib.data.record_reader import INDEX_DTYPE
from facelib.data.tfrecord import map_file
from facelib.errors import BadRecord, FaceError
from facelib.image_decoding import OtherSize, check_image, decode_image

_PIECE = 64  # records that a worker reads at once

_BUFFER_BYTES = 256 << 20  # of all buckets together


class ImageChecker:
    """Reads records in order and checks that each is a whole image of one size.

    A bad image is returned as the `BadRecord` that says why.

    Args:
        source: labelled faces.
        size: (height, width) in pixels that every image must have.
        decode: decode each image as a check, instead of looking at its header and end only.
        workers: threads of `stream`. They help with a slow disk, and when images are decoded.
    """

    def __init__(self, source: Source, size: tuple[int, int], decode: bool = False, workers: int = 1):
        height, width = size
        self.source, self.size, self.decode, self.workers = source, (height, width), decode, workers

    def __call__(self, records: list[int]) -> list[bytes | BadRecord]:
        images = list(map(self._read, records))
        return list(map(_decode_check, images)) if self.decode else images

    def stream(self, records: np.ndarray) -> Generator[list[bytes | BadRecord], None, None]:
        """Yields the images of `records`, int [N], in order, in lists of at most 64. Threads read a few lists ahead."""
        pieces = (records[k : k + _PIECE].tolist() for k in range(0, len(records), _PIECE))
        if self.workers == 1:
            yield from map(self, pieces)
            return
        executor = ThreadPoolExecutor(self.workers, thread_name_prefix="read")
        pending: deque[Future[list[bytes | BadRecord]]] = deque()
        try:
            for piece in pieces:
                pending.append(executor.submit(self, piece))
                if len(pending) > 2 * self.workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _read(self, i: int) -> bytes | BadRecord:
        try:
            image = self.source.read(i)
            check_image(image, self.size)
            return image
        except BadRecord as error:
            return error


@dataclass(frozen=True)
class Job:
    """A conversion that has not begun to write.

    Attributes:
        source: labelled faces.
        out: the data directory to make.
        made_from: source and options, as meta.json holds them.
        keep: int64, ascending, the records of the source to write.
        check: reads the records and checks them.
        num_shards: files of the whole data directory.
        min_images: identities with fewer images are left out.
        skip_bad: leave bad images out instead of stopping at the first.
        progress: show a progress bar.
        held_out: int64, ascending, the records of the source to write into folders beside `out`.
    """

    source: Source
    out: Path
    made_from: dict
    keep: np.ndarray
    check: ImageChecker
    num_shards: int
    min_images: int
    skip_bad: bool
    progress: bool
    held_out: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass
class Buckets:
    """The images of some shards, a file a shard, in source order. Arrays have one element for each kept record.

    Attributes:
        shards: numbers of the shards.
        names: the file of each shard's images.
        shard: uint16 [N].
        position: uint32 [N], place in the final order of all records.
        length: uint32 [N], bytes of the image; 0 for a bad record.
        label: int64 [N], class of the source.
        bad: (number among the kept records of the source, reason).
    """

    shards: range
    names: list[Path]
    shard: np.ndarray
    position: np.ndarray
    length: np.ndarray
    label: np.ndarray
    bad: list[tuple[int, str]]


def fill_buckets(job: Job, shards: range, folder: Path) -> Buckets:
    """Pass 1: reads and checks the records of `shards` and writes a bucket for each into `folder`."""
    source, keep = job.source, job.keep
    position = np.random.default_rng([job.made_from["options"]["seed"], 0]).permutation(len(keep)).astype(np.uint32)
    shard = (position.astype(np.int64) * job.num_shards // len(keep)).astype(np.uint16)
    number = np.flatnonzero((shard >= shards.start) & (shard < shards.stop))
    keep, position, shard = keep[number], position[number], shard[number]
    names = [folder / f"bucket-{k:05d}" for k in shards]
    lengths, bad = np.zeros(len(keep), np.uint32), []
    pending: list[list[bytes]] = [[] for _ in shards]
    waiting = [0] * len(shards)
    limit = max(1 << 16, min(4 << 20, _BUFFER_BYTES // len(shards)))

    def flush(k: int) -> None:
        with open(names[k], "ab", buffering=0) as file:
            write_all(file, b"".join(pending[k]))
        pending[k].clear()
        waiting[k] = 0

    with (
        tqdm(total=len(keep), unit=" images", desc="read", disable=None if job.progress else True, leave=False) as bar,
        closing(job.check.stream(keep)) as pieces,
    ):
        start = 0
        for images in pieces:
            places = (shard[start : start + len(images)] - shards.start).tolist()
            for n, (k, image) in enumerate(zip(places, images, strict=True), start):
                if isinstance(image, BadRecord):
                    bad.append((int(number[n]), f"{source.describe(int(keep[n]))}: {image}"))
                    if not job.skip_bad:
                        is_option = isinstance(image, OtherSize) and "image_size" in job.made_from["options"]
                        hint = " If all images have this size, pass it with --image-size." if is_option else ""
                        raise FaceError(
                            f"{bad[0][1]} ('{source.path}'). Replace or remove this image, or run again with "
                            f"--skip-bad.{hint}"
                        )
                    continue
                lengths[n] = len(image)
                pending[k].append(image)
                waiting[k] += len(image)
                if waiting[k] >= limit:
                    flush(k)
            start += len(images)
            bar.update(len(images))
    for k in range(len(shards)):
        flush(k)
    return Buckets(shards, names, shard, position, lengths, source.labels[keep], bad)


def remaining_labels(job: Job, buckets: Buckets) -> tuple[np.ndarray, np.ndarray]:
    """Labels without gaps for what the bad images leave: an identity may now have too few images.

    Returns:
        labels: int64 [N], of each record of the buckets; -1 for records to leave out.
        classes: int64 [C], the classes of the source that remain, ascending.

    Raises:
        FaceError: no identity remains.
    """
    good = buckets.length > 0
    counts = np.bincount(buckets.label[good], minlength=len(job.source.class_names))
    classes = np.flatnonzero(counts >= job.min_images)
    if not len(classes):
        raise too_small(job.made_from, len(job.source.bad) + len(buckets.bad), job.min_images)
    return np.where(good, new_labels(classes, len(counts))[buckets.label], -1), classes


def new_labels(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 [num_classes]: the place of each class among `classes`, or -1 for those that are not there."""
    labels = np.full(num_classes, -1, np.int64)
    labels[classes] = np.arange(len(classes))
    return labels


def too_small(made_from: dict, num_bad: int, min_images: int) -> FaceError:
    """The error of a source whose bad images leave no identity with enough images."""
    return FaceError(
        f"After {num_bad} bad images were left out, no identity of '{made_from['path']}' has at least {min_images} "
        "images. Lower --min-images, or replace the images."
    )


def write_shards(buckets: Buckets, labels: np.ndarray, folder: Path, job: Job) -> tuple[np.ndarray, list[dict]]:
    """Pass 2: writes the shards and removes their buckets.

    Args:
        buckets: of pass 1.
        labels: int64 [N], the label of each record; -1 leaves it out.
        folder: where the shards are written.
        job: the conversion.

    Returns:
        The rows of the index, and the entries of meta.json.
    """
    index = np.zeros(int((labels >= 0).sum()), INDEX_DTYPE)
    shards, filled = [], 0
    by_shard = np.argsort(buckets.shard, kind="stable")
    bounds = np.searchsorted(buckets.shard[by_shard], [*buckets.shards, buckets.shards.stop])
    progress = {"unit": " images", "desc": "write", "disable": None if job.progress else True, "leave": False}
    with tqdm(total=len(index), **progress) as bar:
        for k, bucket, (first, last) in zip(buckets.shards, buckets.names, pairwise(bounds), strict=True):
            mine = by_shard[first:last]
            path = folder / shard_name(k, job.num_shards)
            rows, digest = _write_shard(bucket, path, buckets, mine, labels[mine], bar)
            rows["shard"] = k
            index[filled : filled + len(rows)] = rows
            filled += len(rows)
            shards.append(shard_entry(path, len(rows), digest))
            bucket.unlink()
    return index, shards


def _write_shard(bucket: Path, path: Path, buckets: Buckets, mine, labels, bar) -> tuple[np.ndarray, str]:
    """Writes one shard in final order; returns its index rows and SHA-256."""
    lengths = buckets.length[mine].astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    order = np.argsort(buckets.position[mine])
    order = order[labels[order] >= 0]
    data = map_file(bucket) if lengths.any() else b""
    starts, stops, labels = starts[order].tolist(), (starts + lengths)[order].tolist(), labels[order].tolist()
    images = (data[start:stop] for start, stop in zip(starts, stops, strict=True))
    return write_frames(path, images, labels, int(lengths.sum()), bar)


def _decode_check(image: bytes | BadRecord) -> bytes | BadRecord:
    if isinstance(image, BadRecord):
        return image
    try:
        decode_image(image)
        return image
    except BadRecord as error:
        return error
