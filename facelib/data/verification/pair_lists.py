"""Draws the pairs of a verification set, from identities or from listed pairs."""

import numpy as np

from facelib.errors import FaceError


def sample_pairs(labels: np.ndarray, num_pairs: int, seed: int, folds: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Draws verification pairs, half of them genuine, in blocks of equal size: a function of its arguments.

    No identity is in two blocks, so an unshuffled KFold(folds) never tunes a threshold on a person that it tests.
    No pair is drawn twice. In each block the genuine pairs come first, as in LFW. They are spread over the identities
    as evenly as their numbers of images allow.

    Args:
        labels: int [num_images], the identity of each image.
        num_pairs: P, a positive multiple of 2 * folds. LFW has 6000.
        seed: of the choice.
        folds: number of blocks.

    Returns:
        idx: int64 [2P]; pair k is images `idx[2k]` and `idx[2k + 1]`.
        is_same: bool [P].

    Raises:
        FaceError: P is not such a multiple, or there are too few images for P different pairs.
    """
    if num_pairs < 1 or num_pairs % (2 * folds):
        raise FaceError(
            f"The number of pairs must be a multiple of {2 * folds}: there are {folds} folds, and half of the pairs of "
            f"each fold are genuine. Received: {num_pairs}. Use {max(1, round(num_pairs / (2 * folds))) * 2 * folds}."
        )
    rng = np.random.default_rng([seed, 0x9A125])
    groups = _images_by_identity(np.asarray(labels))
    blocks = split_identities(groups, folds, rng)
    wanted = num_pairs // (2 * folds)
    possible = min(min(_num_genuine(block), _num_impostor(block)) for block in blocks)
    if wanted > possible:
        raise FaceError(
            f"{len(groups)} identities with {len(labels)} images are too few to draw {num_pairs} different pairs in "
            f"{folds} folds that share no identity. "
            + (f"Use at most {possible * 2 * folds} pairs." if possible else "Add identities with 2 images or more.")
        )
    idx, is_same = [], []
    for block in blocks:
        idx += [_genuine_pairs(block, wanted, rng), _impostor_pairs(block, wanted, rng)]
        is_same += [np.ones(wanted, bool), np.zeros(wanted, bool)]
    return np.concatenate(idx).reshape(-1).astype(np.int64), np.concatenate(is_same)


def draw_listed(is_same: np.ndarray, num_pairs: int, folds: int = 10, seed: int = 0) -> np.ndarray:
    """Draws some of the listed pairs, equally many from each fold, half of them genuine: a function of its arguments.

    Args:
        is_same: bool [P], of pairs that are listed fold by fold, as in LFW.
        num_pairs: a positive multiple of 2 * folds.
        folds: number of folds in the list.
        seed: of the choice.

    Returns:
        int64 [num_pairs], ascending, so that the folds stay apart.

    Raises:
        FaceError: not such a multiple, or a fold with too few genuine or impostor pairs.
    """
    each, rest = divmod(num_pairs, 2 * folds)
    if each < 1 or rest:
        raise FaceError(
            f"--pairs must be a multiple of {2 * folds}: there are {folds} folds, and half of the pairs of each fold "
            f"are genuine. Received: {num_pairs}. Use --pairs {max(1, round(num_pairs / (2 * folds))) * 2 * folds}."
        )
    rng, picked = np.random.default_rng([seed, 0x9A125]), []
    for number, fold in enumerate(np.array_split(np.arange(len(is_same)), folds)):
        for kind in (fold[is_same[fold]], fold[~is_same[fold]]):
            if len(kind) < each:
                raise FaceError(
                    f"--pairs {num_pairs} needs {each} genuine and {each} impostor pairs in each fold. Fold {number} "
                    f"of {folds} has only {len(kind)} pairs of one kind. Use at most --pairs {2 * folds * len(kind)}."
                )
            picked.append(rng.choice(kind, size=each, replace=False))
    return np.sort(np.concatenate(picked))


def _images_by_identity(labels: np.ndarray) -> list[np.ndarray]:
    """Image indices of each identity, in label order."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(order) else []


def split_identities(groups: list[np.ndarray], folds: int, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Splits the identities into `folds` blocks of about equal size: the largest first, in alternating direction."""
    shuffled = rng.permutation(len(groups))
    order = shuffled[np.argsort([-len(groups[i]) for i in shuffled], kind="stable")] if len(groups) else shuffled
    blocks: list[list[np.ndarray]] = [[] for _ in range(folds)]
    for position, i in enumerate(order):
        lap, place = divmod(position, folds)
        blocks[place if lap % 2 == 0 else folds - 1 - place].append(groups[i])
    return blocks


def _num_genuine(block: list[np.ndarray]) -> int:
    return sum(len(group) * (len(group) - 1) // 2 for group in block)


def _num_impostor(block: list[np.ndarray]) -> int:
    sizes = [len(group) for group in block]
    return (sum(sizes) ** 2 - sum(size * size for size in sizes)) // 2


def _genuine_pairs(block: list[np.ndarray], wanted: int, rng: np.random.Generator) -> np.ndarray:
    """`wanted` different genuine pairs, int [wanted, 2]."""
    capacity = np.array([len(group) * (len(group) - 1) // 2 for group in block])
    pairs = []
    for group, count in zip(block, _spread_evenly(capacity, wanted, rng), strict=True):
        if count:
            chosen = rng.choice(len(group) * (len(group) - 1) // 2, size=count, replace=False)
            # Pair number t counts (1,0), (2,0), (2,1), (3,0), ...: row `high` starts at high * (high - 1) / 2.
            high = np.floor((1 + np.sqrt(1 + 8.0 * chosen)) / 2).astype(np.int64)
            high -= high * (high - 1) // 2 > chosen  # the square root may round up by one row
            low = chosen - high * (high - 1) // 2
            pairs.append(np.stack([group[low], group[high]], axis=1))
    return rng.permutation(np.concatenate(pairs))


def _spread_evenly(capacity: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Counts that sum to `wanted`, as even as their capacities allow."""
    counts = np.zeros_like(capacity)
    while (missing := wanted - int(counts.sum())) > 0:
        open_idx = np.flatnonzero(counts < capacity)
        if missing < len(open_idx):
            counts[rng.choice(open_idx, size=missing, replace=False)] += 1
        else:
            counts[open_idx] += np.minimum(capacity[open_idx] - counts[open_idx], missing // len(open_idx))
    return counts


def _impostor_pairs(block: list[np.ndarray], wanted: int, rng: np.random.Generator) -> np.ndarray:
    """`wanted` different impostor pairs, int [wanted, 2]; both identities of a pair are drawn uniformly."""
    if _num_impostor(block) < 4 * wanted:  # drawing without repeats would crawl: number them all instead
        images = np.concatenate(block)
        owner = np.repeat(np.arange(len(block)), [len(group) for group in block])
        left, right = np.nonzero(np.triu(owner[:, None] != owner[None, :]))
        chosen = rng.choice(len(left), size=wanted, replace=False)
        return np.stack([images[left[chosen]], images[right[chosen]]], axis=1)
    seen: dict[tuple[int, int], None] = {}
    while len(seen) < wanted:
        first, second = sorted(rng.choice(len(block), size=2, replace=False))
        seen[(int(rng.choice(block[first])), int(rng.choice(block[second])))] = None
    return np.array(list(seen))
