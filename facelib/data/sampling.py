"""The order of the records in an epoch, and the random key of each record, from which its augmentation follows.

Orders: all shuffled, shuffled by blocks, or the PK sampler. The PK sampler makes batches of P identities with K images
each, for losses that compare the faces of a batch. Hermans et al., In Defense of the Triplet Loss,
https://arxiv.org/abs/1703.07737, section 2.
"""

import numpy as np

from facelib.errors import FaceError

_BUCKETS = 256  # of 42 million numbers: 660 kB each, which a core's cache holds
_CHUNK = 1 << 17
BLOCK_RECORDS = 128  # one read of about 0.6 MB
POOL_RECORDS = 64 * BLOCK_RECORDS  # mixed with each other; about 40 MB of JPEGs
SCATTERED_RECORDS = 1 << 24  # above it a plain shuffle takes too long; below, it must give the orders it always gave
_ORDER = 0x0DE2  # keeps this generator apart from prepare_data's, whose equal draws would undo its shuffle

_PK = 0x9A11  # keeps this generator apart from those of the other orders


def pk_order(labels: np.ndarray, batch_size: int, images_per_identity: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch in batches of P identities with K images each: a function of its arguments alone.

    P is batch_size // K, or the number of identities if that is smaller. There are just enough batches to hold as many
    images as there are records. The identities of a batch are all different. They come in passes, each a permutation of
    all identities; identities at the end of a pass that do not fill a batch are left out of it. Every time an identity
    comes, it gives the next K images of its own permutation, which starts again at its end. So an identity with fewer
    than K images repeats some.

    Args:
        labels: int [N], the identity of each record; every identity from 0 on has at least one record.
        batch_size: images in a batch, at most.
        images_per_identity: K.
        seed: of the run.
        epoch: from 0.

    Returns:
        uint32 [steps * P * K]: batch k is positions k P K to (k + 1) P K.

    Raises:
        FaceError: fewer than 2 identities, or a batch too small for two.
    """
    num_images, per_batch = len(labels), batch_size // images_per_identity
    counts = np.bincount(labels)
    num_classes = len(counts)
    if num_classes < 2 or per_batch < 2:
        raise FaceError(
            f"A batch must hold at least two identities, with {images_per_identity} images of each. Received: "
            f"batch_size={batch_size}, {num_classes} identities. Lower images_per_identity or raise data.batch_size."
        )
    per_batch = min(per_batch, num_classes)
    steps = -(-num_images // (per_batch * images_per_identity))
    rng = np.random.default_rng([_PK, seed, epoch])
    shuffled = rng.permutation(num_images).astype(np.uint32)
    by_identity = shuffled[np.argsort(labels[shuffled], kind="stable")]  # each identity's images in an order of chance
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    batches_a_pass = num_classes // per_batch
    passes = -(-steps // batches_a_pass)
    identities = np.concatenate([rng.permutation(num_classes)[: batches_a_pass * per_batch] for _ in range(passes)])
    identities = identities[: steps * per_batch]
    turns = _occurrence(identities)
    within = (turns[:, None] * images_per_identity + np.arange(images_per_identity)) % counts[identities][:, None]
    return by_identity[starts[identities][:, None] + within].reshape(-1)


def _occurrence(values: np.ndarray) -> np.ndarray:
    """How often each value has come before: [3, 5, 3, 3] -> [0, 0, 1, 2]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(values)), 0))
    found = np.empty(len(values), np.int64)
    found[order] = np.arange(len(values)) - first
    return found


def scattered_permutation(count: int, rng: np.random.Generator) -> np.ndarray:
    """A uniformly random permutation of 0 .. count - 1, uint32 [count], in half the time of `rng.shuffle`.

    Each number goes to a random bucket, in one pass that writes in sequence. Then each bucket is shuffled within the
    cache. All permutations are equally likely, whatever the sizes of the buckets. Takes 5 bytes a number and 2 MB.

    Reference: Rao, 1961, and Sandelius, 1962; see Bacher et al., https://arxiv.org/abs/1508.03167, section 1.
    """
    bucket = rng.integers(0, _BUCKETS, count, np.uint8)
    sizes = np.stack([np.bincount(bucket[k : k + _CHUNK], minlength=_BUCKETS) for k in range(0, count, _CHUNK)])
    stops = np.cumsum(sizes.sum(axis=0))
    starts = stops - sizes.sum(axis=0)
    order, filled = np.empty(count, np.uint32), starts.tolist()
    for number, row in enumerate(sizes.tolist()):
        first, at = number * _CHUNK, 0
        by_bucket = np.argsort(bucket[first : first + _CHUNK], kind="stable").astype(np.uint32)
        by_bucket += np.uint32(first)
        for k, size in enumerate(row):
            order[filled[k] : filled[k] + size] = by_bucket[at : at + size]
            filled[k] += size
            at += size
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        rng.shuffle(order[start:stop])
    return order


def record_order(num_records: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of all records, uint32 [num_records]: a function of its arguments alone."""
    rng = np.random.default_rng([_ORDER, seed, epoch])
    if num_records > SCATTERED_RECORDS:
        return scattered_permutation(num_records, rng)
    order = np.arange(num_records, dtype=np.uint32)
    rng.shuffle(order)
    return order


def block_order(num_records: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation for slow disks, uint32 [num_records]: blocks are shuffled, then the records of each pool of blocks.

    prepare_data.py has stored the records in a random order, so the records of a block are of many identities.
    """
    rng = np.random.default_rng([_ORDER, seed, epoch])
    starts = np.arange(0, num_records, BLOCK_RECORDS)
    rng.shuffle(starts)
    order, filled = np.empty(num_records, np.uint32), 0
    for start in starts.tolist():  # in place: 4 bytes a record, no copies
        stop = min(start + BLOCK_RECORDS, num_records)
        order[filled : filled + stop - start] = np.arange(start, stop)
        filled += stop - start
    for first in range(0, num_records, POOL_RECORDS):
        rng.shuffle(order[first : first + POOL_RECORDS])
    return order


class Draws:
    """Random numbers that follow from a 64-bit key: SplitMix64, at a hundredth of the cost of a NumPy generator.

    Steele et al., https://doi.org/10.1145/2714064.2660195, figure 17.

    Args:
        key: uint64.
    """

    def __init__(self, key: int):
        self.state = key

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """From [low, high)."""
        mask = 0xFFFFFFFFFFFFFFFF
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return low + (high - low) * ((z ^ (z >> 31)) >> 11) * 2.0**-53

    def integer(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return low + int(self.uniform() * (high - low + 1))


def record_keys(record_idx: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """One random key for each record of an epoch. The augmentation of the image follows from it.

    SplitMix64's finaliser over a counter: Steele et al., https://doi.org/10.1145/2714064.2660195, figure 19.

    Args:
        record_idx: uint32 [B].
        seed: of the run.
        epoch: from 0.

    Returns:
        uint64 [B].
    """
    mask = 2**64 - 1
    base = np.uint64((seed * 0x9E3779B97F4A7C15 + epoch * 0xD1342543DE82EF95) & mask)
    z = (record_idx.astype(np.uint64) + base) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
