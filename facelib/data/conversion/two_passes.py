"""The two passes of a conversion, both sequential on disk, so that a hard disk does as well as an SSD.

1. Read the source in its own order, check each image, and append its bytes to the bucket of the shard it will stand in.
2. Shard by shard, gather the bucket in its final order, frame it, and write the shard and its rows of the index.

Labels are encoded in pass 2, when it is known which identities remain.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from facelib.data.data_dir import shard_entry, shard_name, write_all, write_frames
from facelib.data.readers.sources import Source
from facelib.data.record_reader import INDEX_DTYPE
from facelib.data.tfrecord import map_file
from facelib.errors import BadRecord, FaceError
from facelib.images import check_image, decode_image

_PIECE = 64  # records that a worker reads at once

_BUFFER_BYTES = 256 << 20  # of all buckets together


class ImageChecker:
    """Reads records and checks that each is a whole image of `size` (height, width); a call keeps their order.

    A bad one is returned as the `BadRecord` that says why.

    Args:
        decode: decode each image as a check, instead of looking at its header and end alone.
        workers: threads of `stream`. They help where the disk answers late, and where images are decoded.
    """

    def __init__(self, source: Source, size: tuple[int, int], decode: bool = False, workers: int = 1):
        self.source, self.size, self.decode, self.workers = source, tuple(size), decode, workers

    def __call__(self, records: list[int]) -> list[bytes | BadRecord]:
        images = list(map(self._read, records))
        return list(map(_decode_check, images)) if self.decode else images

    def stream(self, records: np.ndarray) -> Iterator[list[bytes | BadRecord]]:
        """The images of int [N] records, piece by piece in their order; workers are a few pieces ahead."""
        pieces = (records[k : k + _PIECE].tolist() for k in range(0, len(records), _PIECE))
        if self.workers == 1:
            yield from map(self, pieces)
            return
        executor, pending = ThreadPoolExecutor(self.workers, thread_name_prefix="read"), deque()
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
    """A conversion before its first byte is written.

    made_from: source and options, as meta.json has them.   keep: the records of the source, int64, ascending.
    check: reads them.   num_shards: of the whole data directory.
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


@dataclass
class Buckets:
    """Images by shard, in source order. All arrays are [N], one element for each kept record of these shards."""

    shards: range
    names: list[Path]  # of the shards
    shard: np.ndarray  # uint16
    position: np.ndarray  # uint32, place in the final order of all records
    length: np.ndarray  # uint32, bytes of the image; 0 for a bad record
    label: np.ndarray  # int64, in the source
    bad: list[tuple[int, str]]  # number among the kept records of the source, why


def fill_buckets(job: Job, shards: range, folder: Path) -> Buckets:
    """Pass 1 for `shards`: reads and checks the records that will stand in them."""
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
                        raise FaceError(
                            f"{bad[0][1]} ('{source.path}'). Mend or remove it, or run again with --skip-bad."
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


def write_shards(buckets: Buckets, labels: np.ndarray, folder: Path, job: Job) -> tuple[np.ndarray, list[dict]]:
    """Pass 2: the shards of the buckets, which are removed. Returns their rows of the index and of meta.json.

    Args:
        labels: int64 [N], what each record gets; -1 leaves it out.
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
