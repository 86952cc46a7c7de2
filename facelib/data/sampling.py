"""The order of a PK sampler: batches of P identities with K images each, for losses that compare faces of a batch.

Hermans et al., In Defense of the Triplet Loss, https://arxiv.org/abs/1703.07737, section 2.
"""

import numpy as np

from facelib.errors import FaceError

_PK = 0x9A11  # keeps this generator apart from those of the other orders


def pk_order(labels: np.ndarray, batch_size: int, images_per_identity: int, seed: int, epoch: int) -> np.ndarray:
    """The records of an epoch, uint32 [steps * P * K]: batch k is positions k P K to (k + 1) P K.

    P is batch_size // K, or the number of identities where that is smaller, and there are as many batches as hold as
    many images as there are records. In a batch all identities differ. They come in passes, each a permutation of all
    of them; those that do not fill a batch at its end are left to the next pass. Each time an identity comes it gives
    the next K images of a permutation of its own, from the beginning again at its end, so one with fewer than K repeats
    some. All of it is a function of the arguments alone.

    Args:
        labels: int [N], every identity from 0 on has at least one.

    Raises:
        FaceError: fewer than 2 identities, or a batch too small for two.
    """
    num_images, per_batch = len(labels), batch_size // images_per_identity
    counts = np.bincount(labels)
    num_classes = len(counts)
    if num_classes < 2 or per_batch < 2:
        raise FaceError(
            f"A batch of {images_per_identity} images of each identity holds at least two identities. Received: "
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
