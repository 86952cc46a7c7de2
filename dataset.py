"""Training batches: an exact shuffle of all records, decoding in threads, and resuming at any step.

Each epoch visits every record exactly once. The order is a permutation of all records and depends only on the seed and
the epoch. So the batch of any step can be computed. An interrupted run therefore resumes at once, with the same batches
as without the interruption. A shuffle buffer would not be enough, because face data are stored one identity after
another.
"""

import copy
from collections import ChainMap, deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facelib.data import sampling
from facelib.data.augment import Augmentation, is_flipped, make_augment, random_flip
from facelib.data.readers.open_records import open_records
from facelib.data.record_reader import Image, Records
from facelib.data.sampling import block_order, pk_order, record_keys, record_order
from facelib.errors import BadRecord, FaceError
from facelib.image_decoding import decode_image
from facelib.machine import cores
from facelib.model_input import fit_faces
from facelib.training.recipe.schema import Recipe


@dataclass(frozen=True)
class Batch:
    """One training batch, or one worker's part of it.

    Attributes:
        images: uint8 [B, H, W, 3], RGB.
        labels: int64 [B], 0 to num_classes - 1.
        record_idx: uint32 [B], the record of each image.
        epoch: from 0.
        step: of the epoch, from 0.
        keys: uint64 [B]; the augmentation of each image follows from its key.
        is_flipped: bool [B], whether each image was mirrored left to right.
    """

    images: np.ndarray
    labels: np.ndarray
    record_idx: np.ndarray
    epoch: int
    step: int
    keys: np.ndarray
    is_flipped: np.ndarray


class TrainingData:
    """Batches of a data directory, or of the TFRecords of an older system.

    An epoch has `steps_per_epoch` batches. Their sizes differ by at most one, and none is larger than `batch_size`.
    Every record is in exactly one batch. No batch is a small remainder, which would disturb batch normalization.

    Args:
        path: what `prepare_data.py` wrote, older TFRecords, or open records.
        batch_size: images in a step, at most.
        seed: of the order and of the augmentation.
        shuffle: 'records' shuffles all records exactly; 'blocks' shuffles blocks that are read in sequence.
        augment: see `facelib.data.augment`; None for no augmentation and no mirroring.
        image_size: (height, width) in pixels of the batches.
        fit: what is done with images of another size: 'exact' refuses them, 'crop' cuts their centre out, 'resize'
            scales them.
        num_threads: threads that read and decode; by default one for each core that this process may use.
    """

    def __init__(
        self,
        path: Path | Records,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: str = "records",
        augment: Augmentation | None = random_flip,
        image_size: tuple[int, int] = (112, 112),
        fit: str = "exact",
        num_threads: int | None = None,
    ):
        if shuffle not in ("records", "blocks"):
            raise FaceError(f"shuffle must be 'records' or 'blocks'. Received: shuffle='{shuffle}'.")
        if batch_size < 1:
            raise FaceError(f"A batch must hold at least one record. Received: batch_size={batch_size}.")
        self.records = path if isinstance(path, Records) else open_records(path)
        self.batch_size, self.seed, self.shuffle, self.augment = batch_size, seed, shuffle, augment
        height, width = image_size
        self.image_size = height, width
        self.fit = fit
        self.num_threads = num_threads or cores()
        self.steps_per_epoch = -(-len(self.records) // batch_size)
        self.images_per_identity = 1
        self.rank, self.num_workers = 0, 1
        self._num_images = len(self.records)

    @classmethod
    def of_recipe(
        cls, recipe: Recipe, records: Records, image_size: tuple[int, int], num_threads: int | None = None
    ) -> "TrainingData":
        """The data as a recipe's [data] table and seed ask for them.

        Args:
            recipe: the recipe of the run.
            records: open records.
            image_size: (height, width) in pixels of the net's input.
            num_threads: threads that read and decode; by default one for each core that this process may use.
        """
        data = recipe.data
        augment = make_augment(data.augment, data.flip)
        return cls(
            records, data.batch_size, seed=recipe.seed, shuffle=data.shuffle, augment=augment, image_size=image_size,
            fit=data.fit, num_threads=num_threads,
        )  # fmt: skip

    def __len__(self) -> int:
        """Images an epoch, of all workers."""
        return self._num_images

    def shard(self, rank: int, count: int) -> "TrainingData":
        """The data of one worker: a contiguous part of every batch, see `part`.

        Length, order, bounds and `steps_per_epoch` are those of all workers together. The parts of a step, in the order
        of the ranks, are the batch that a single worker would have. With shuffle='blocks' each worker reads only its
        records of a pool, in stored order, so all workers together read every record once.

        Args:
            rank: of the worker, 0 to count - 1. A shard of a shard is a shard of the whole data.
            count: number of workers.

        Raises:
            FaceError: a batch too small for so many workers.
        """
        if not 0 <= rank < count:
            raise ValueError(f"rank is 0 to count - 1. Received: rank={rank}, count={count}")
        data = copy.copy(self)
        data.rank, data.num_workers = rank, count
        return data._checked()

    def part(self, step: int) -> tuple[int, int]:
        """The positions in the epoch's order of this worker's part of a batch: (first, last + 1)."""
        first, last = self.bounds(step)
        size = last - first
        return first + size * self.rank // self.num_workers, first + size * (self.rank + 1) // self.num_workers

    def _checked(self) -> "TrainingData":
        """Returns itself, after a check that no worker's part of a batch can be empty."""
        smallest = len(self) // self.steps_per_epoch
        if self.num_workers > 1 and (self.batch_size < 2 * self.num_workers or smallest < self.num_workers):
            raise FaceError(
                f"A batch must hold at least two images for each worker. Received: batch_size={self.batch_size} for "
                f"{self.num_workers} workers; the smallest batch has {smallest} images. Raise data.batch_size, or use "
                "fewer workers."
            )
        return self

    def balanced(self, images_per_identity: int) -> "TrainingData":
        """The same data in batches of identities, with a fixed number of images of each; see `facelib.data.sampling`.

        It reads one record at a time whatever `shuffle` says, because the images of an identity lie far apart.

        Args:
            images_per_identity: images of each identity in a batch.
        """
        data = copy.copy(self)
        data.images_per_identity, data.shuffle = images_per_identity, "records"
        data._num_images = len(data.order(0))
        per_batch = min(self.batch_size // images_per_identity, self.records.num_classes) * images_per_identity
        data.steps_per_epoch = data._num_images // per_batch
        return data._checked()

    def order(self, epoch: int) -> np.ndarray:
        """The records in the order of `epoch`: uint32 [len(self)]."""
        if self.images_per_identity > 1:
            return pk_order(self.records.labels, self.batch_size, self.images_per_identity, self.seed, epoch)
        make = record_order if self.shuffle == "records" else block_order
        return make(len(self.records), self.seed, epoch)

    def bounds(self, step: int) -> tuple[int, int]:
        """The positions in the epoch's order of the batch of `step`: (first, last + 1)."""
        return step * len(self) // self.steps_per_epoch, (step + 1) * len(self) // self.steps_per_epoch

    def batches(self, epoch: int = 0, start_step: int = 0) -> Generator[Batch, None, None]:
        """Yields the batches of one epoch from `start_step` on; for a shard, this worker's part of each."""
        return self._run((epoch, step) for step in range(start_step, self.steps_per_epoch))

    def stream(self, epoch: int = 0, start_step: int = 0, *, last_epoch: int) -> Generator[Batch, None, None]:
        """Yields the batches from `start_step` of `epoch` to the end of `last_epoch`, with no pause between epochs."""
        positions = ((e, s) for e in range(epoch, last_epoch + 1) for s in range(self.steps_per_epoch))
        return self._run(p for p in positions if p >= (epoch, start_step))

    def _run(self, positions: Iterator[tuple[int, int]]) -> Generator[Batch, None, None]:
        executor = ThreadPoolExecutor(self.num_threads, thread_name_prefix="decode")
        pools = _Pools(self, executor) if self.shuffle == "blocks" else None
        pending: deque[Future[Batch]] = deque()
        nothing = np.empty(0, np.uint32)
        order, order_epoch = nothing, -1
        try:
            for epoch, step in positions:
                if epoch != order_epoch:  # one order at a time: 4 bytes a record
                    order, order_epoch = nothing, epoch
                    order = self.order(epoch)
                first, last = self.part(step)
                held = pools.of_batch(order, epoch, first, last) if pools else None
                pending.append(executor.submit(self._load, order[first:last].copy(), epoch, step, held))
                if len(pending) > 2 * self.num_threads:
                    yield pending.popleft().result()
            order = nothing
            while pending:
                yield pending.popleft().result()
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _load(self, record_idx: np.ndarray, epoch: int, step: int, pools: list[Future] | None) -> Batch:
        images = np.empty((len(record_idx), *self.image_size, 3), np.uint8)
        labels = np.empty(len(record_idx), np.int64)
        keys = record_keys(record_idx, self.seed, epoch)
        size = self.image_size if self.fit == "exact" else None
        read = ChainMap(*(pool.result() for pool in pools)).__getitem__ if pools else self.records.read
        for i, ((encoded, label), key) in enumerate(zip(map(read, record_idx.tolist()), keys.tolist(), strict=True)):
            row = images[i]
            try:
                image = decode_image(encoded, row, size=size, check_end=False)
                if size is None:
                    image = fit_faces(image[None], self.image_size, self.fit)[0]
            except (BadRecord, FaceError) as error:
                raise self._bad_image(int(record_idx[i]), error) from error
            if self.augment:
                image = self.augment(image, key)
            if image is not row:
                row[:] = image
            labels[i] = label
        flips = is_flipped(keys) if self.augment and self.augment.flip else np.zeros(len(keys), bool)
        return Batch(images, labels, record_idx, epoch, step, keys, flips)

    def _bad_image(self, record: int, error: Exception) -> FaceError:
        height, width = self.image_size
        return FaceError(
            f"Every record must hold a valid image of {height}x{width} pixels. '{self.records.path}', "
            f"{self.records.describe(record)}: {error}. For images of a different size, set data.fit = 'resize' or "
            "'crop', or model.input_size. For damaged images, run prepare_data.py again with --decode-all --skip-bad."
        )


class _Pools:
    """Reads records for shuffle='blocks': this worker's part of each pool of blocks, in stored order, one pool ahead.

    A single worker reads whole blocks, each in one sequential read.
    """

    def __init__(self, data: TrainingData, executor: ThreadPoolExecutor):
        self.data, self.executor = data, executor
        self._futures: dict[tuple[int, int], Future] = {}

    def of_batch(self, order: np.ndarray, epoch: int, first: int, last: int) -> list[Future]:
        """The pools that hold positions `first` to `last` of the order, each {record: (image, label)}.

        These pools and the next one enter the executor's queue before the batch does. So a thread never waits for a
        pool that only itself could read. A pool is freed when no batch holds it.
        """
        pools = range(first // sampling.POOL_RECORDS, (last - 1) // sampling.POOL_RECORDS + 1)
        ahead = range(pools.start, min(pools.stop + 1, -(-len(order) // sampling.POOL_RECORDS)))
        known = self._futures
        self._futures = {(epoch, k): known.get((epoch, k)) or self._begin(order, k) for k in ahead}
        return [self._futures[epoch, k] for k in pools]

    def _begin(self, order: np.ndarray, number: int) -> Future:
        """Submits the reading of this worker's records of the pool, for all batches."""
        start, stop = number * sampling.POOL_RECORDS, min((number + 1) * sampling.POOL_RECORDS, len(order))
        steps = range(self._step_of(start), self._step_of(stop - 1) + 1)
        parts = [self.data.part(step) for step in steps]
        wanted = [order[max(first, start) : min(last, stop)] for first, last in parts if first < stop and last > start]
        return self.executor.submit(self._load, np.concatenate([*wanted, order[:0]]))  # a copy: the order can go

    def _step_of(self, position: int) -> int:
        return ((position + 1) * self.data.steps_per_epoch - 1) // len(self.data)

    def _load(self, wanted: np.ndarray) -> dict[int, tuple[Image, int]]:
        wanted = np.sort(wanted)
        loaded: dict[int, tuple[Image, int]] = {}
        cuts = np.flatnonzero(np.diff(wanted // sampling.BLOCK_RECORDS)) + 1
        for block in np.split(wanted, cuts):
            loaded.update(zip(block.tolist(), self.data.records.read_sorted(block), strict=True))
        return loaded
