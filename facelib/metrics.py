"""Verification metrics, exact: no grid of thresholds, no interpolation between them.

A pair is accepted when its distance is at most the threshold. Candidate thresholds are the observed distances, so
equal distances are accepted together and nothing depends on the order of the pairs. `REJECT_ALL` (-inf) stands below
all of them. TAR (true-accept rate) is what the field prints as VR. Everything sorts once: O(P log P).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from facelib.cli import FaceError

REJECT_ALL = -math.inf
NUM_FOLDS = 10


class Roc(NamedTuple):
    """thresholds: float [K], ascending, first REJECT_ALL.   far, tar: float64 [K], rates at those thresholds."""

    thresholds: np.ndarray
    far: np.ndarray
    tar: np.ndarray


class OperatingPoint(NamedTuple):
    """One threshold and its rates on the pairs it was taken from."""

    tar: float
    far: float
    threshold: float


class FoldAccuracy(NamedTuple):
    """mean, std: over folds (population std), as fractions.   thresholds, accuracies: float64 [folds]."""

    mean: float
    std: float
    thresholds: np.ndarray
    accuracies: np.ndarray


@dataclass(frozen=True)
class FoldTar:
    """TAR measured on folds that did not choose the threshold; `tar is None` when the set cannot resolve the FAR.

    tar, far: means over test folds.   tar_std: population std.   ci95: Wilson interval of the pooled accepts.
    threshold: mean over folds.   needs_impostors: how many impostor pairs the set would need.
    """

    far_target: float
    tar: float | None
    tar_std: float | None
    far: float | None
    ci95: tuple[float, float] | None
    threshold: float | None
    needs_impostors: int


def pair_distances(embeddings: np.ndarray) -> np.ndarray:
    """Squared L2 distance of unit vectors, pair by pair: 0 (same direction) to 4 (opposite).

    Args:
        embeddings: float [2N, D], rows 2k and 2k + 1 are pair k; normalised here, in float64.

    Returns: float64 [N].
    """
    unit = normalize(embeddings)
    return np.square(unit[0::2] - unit[1::2]).sum(axis=1)


def normalize(embeddings: np.ndarray) -> np.ndarray:
    """Rows of unit L2 norm, float64 [N, D]."""
    embeddings = np.asarray(embeddings, np.float64)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        row = int(np.flatnonzero(~(np.isfinite(norms) & (norms > 0)).ravel())[0])
        raise FaceError(f"An embedding has a finite length above 0. Row {row} has {norms[row, 0]:g}. Check the model.")
    return embeddings / norms


def roc(distances: np.ndarray, is_same: np.ndarray) -> Roc:
    """False- and true-accept rates at every distinct observed distance, from reject-all to accept-all.

    Args:
        distances: float [P], smaller is more alike.   is_same: bool [P].
    """
    genuine, impostor = _split_sorted(distances, is_same)
    thresholds = np.unique(np.concatenate([genuine, impostor]))
    tar = np.searchsorted(genuine, thresholds, side="right") / len(genuine)
    far = np.searchsorted(impostor, thresholds, side="right") / len(impostor)
    zero = [0.0]
    return Roc(np.concatenate([[REJECT_ALL], thresholds]), np.concatenate([zero, far]), np.concatenate([zero, tar]))


def auc(distances: np.ndarray, is_same: np.ndarray) -> float:
    """Chance that a genuine pair is closer than an impostor pair, ties counting one half. Exact, from ranks."""
    genuine, impostor = _split_sorted(distances, is_same)
    not_farther = np.searchsorted(impostor, genuine, side="left")  # impostors strictly closer
    closer_or_tied = np.searchsorted(impostor, genuine, side="right")
    losses = int(not_farther.sum(dtype=np.int64)) + int(closer_or_tied.sum(dtype=np.int64))
    return 1.0 - losses / (2 * len(genuine) * len(impostor))


def eer(distances: np.ndarray, is_same: np.ndarray) -> float:
    """Equal error rate: where the ROC, its points joined by straight lines, has FAR = 1 - TAR."""
    curve = roc(distances, is_same)
    excess = curve.far + curve.tar - 1.0  # rises from -1 to 1
    right = int(np.argmax(excess >= 0))
    left = right - 1
    share = -excess[left] / (excess[right] - excess[left])
    return float(curve.far[left] + share * (curve.far[right] - curve.far[left]))


def tar_at_far(distances: np.ndarray, is_same: np.ndarray, far: float) -> OperatingPoint:
    """True-accept rate (VR) at the loosest threshold whose false-accept rate is <= `far`.

    Exact: thresholds are the observed distances, ties accepted together; no interpolation, no grid.

    Args:
        distances: float [P], smaller is more alike.   is_same: bool [P].   far: in (0, 1].

    Returns: the rate, the FAR that the threshold really has, and the threshold (REJECT_ALL when even the closest
        pair is one impostor too many).

    Raises:
        FaceError: if fewer than 1 / far impostor pairs exist.
    """
    genuine, impostor = _split_sorted(distances, is_same)
    if not can_resolve(len(impostor), far):
        n = len(impostor)
        raise FaceError(
            f"FAR={far:g} cannot be measured with {n} impostor pairs: the smallest non-zero rate is {1 / n:g}. "
            f"Ask for --far {1 / n:g} or larger, or use a longer pair list."
        )
    return _point_at_far(genuine, impostor, far)


def kfold_accuracy(distances: np.ndarray, is_same: np.ndarray, folds: int = NUM_FOLDS) -> FoldAccuracy:
    """Accuracy on each of `folds` contiguous folds, at the threshold that is best on the other folds.

    All candidates are tried: reject-all, then the distinct distances of the train folds, ascending; the first that
    reaches the best train accuracy is taken. Folds as scikit-learn's unshuffled KFold. This is the LFW protocol
    without its grid.

    Args:
        distances: float [P], smaller is more alike.   is_same: bool [P].
    """
    distances, is_same = _checked(distances, is_same)
    fold = _fold_of(len(distances), folds)
    order = np.argsort(distances, kind="stable")
    ranked, ranked_same, ranked_fold = distances[order], is_same[order], fold[order]
    thresholds, accuracies = np.empty(folds), np.empty(folds)
    for k in range(folds):
        train = ranked_fold != k
        thresholds[k] = _best_threshold(ranked[train], ranked_same[train])
        test = fold == k
        accuracies[k] = np.mean((distances[test] <= thresholds[k]) == is_same[test])
    return FoldAccuracy(float(accuracies.mean()), float(accuracies.std()), thresholds, accuracies)


def kfold_tar_at_far(distances: np.ndarray, is_same: np.ndarray, far: float, folds: int = NUM_FOLDS) -> FoldTar:
    """TAR (VR) and FAR on each test fold at the loosest threshold whose FAR on the train folds is <= `far`.

    A FAR that some train folds cannot resolve (fewer than 1 / far impostors) gives `tar=None`: never a number.
    A fold without genuine (impostor) pairs has no TAR (FAR) and stays out of that mean.
    """
    distances, is_same = _checked(distances, is_same)
    needs = impostors_needed(far, folds)
    fold = _fold_of(len(distances), folds)
    tars, fars, thresholds, accepted = [], [], [], 0
    for k in range(folds):
        test = fold == k
        if not can_resolve(np.count_nonzero(~is_same & ~test), far):
            return FoldTar(far, None, None, None, None, None, needs)
        threshold = tar_at_far(distances[~test], is_same[~test], far).threshold
        genuine, impostor = distances[test & is_same] <= threshold, distances[test & ~is_same] <= threshold
        accepted += int(genuine.sum())
        thresholds.append(threshold)
        tars += [genuine.mean()] if len(genuine) else []
        fars += [impostor.mean()] if len(impostor) else []
    interval = wilson_interval(accepted, int(is_same.sum()))
    return FoldTar(
        far,
        float(np.mean(tars)),
        float(np.std(tars)),
        float(np.mean(fars)),
        interval,
        float(np.mean(thresholds)),
        needs,
    )


def can_resolve(num_impostors: int, far: float) -> bool:
    """Whether `num_impostors` pairs can show a rate of `far`: at least 1 / far of them."""
    if not 0 < far <= 1:
        raise FaceError(f"A FAR is a rate above 0 and at most 1, such as 0.001. Received: --far {far:g}.")
    return _allowed_accepts(num_impostors, far) >= 1


def impostors_needed(far: float, folds: int = NUM_FOLDS) -> int:
    """Impostor pairs, spread evenly over folds, that leave 1 / far of them in every set of train folds."""
    train = math.ceil(1 / far - 1e-9)
    return train + math.ceil(train / (folds - 1))


def wilson_interval(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927), as fractions: sane also at 0 and 1. `z`: normal quantile."""
    if trials == 0:
        return 0.0, 1.0
    rate, spread = successes / trials, z * z / trials
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def _checked(distances: np.ndarray, is_same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distances, is_same = np.asarray(distances), np.asarray(is_same, dtype=bool)
    if distances.ndim != 1 or distances.shape != is_same.shape:
        raise FaceError(
            f"Every pair has one distance and one mark. Received: {distances.shape} distances, {is_same.shape} marks."
        )
    if np.isnan(distances).any():
        pair = int(np.argmax(np.isnan(distances)))
        raise FaceError(
            f"Distances are numbers. The distance of pair {pair} is NaN: check the embeddings of its images."
        )
    num_genuine = int(is_same.sum())
    if num_genuine in (0, len(is_same)):
        raise FaceError(
            f"A verification set needs genuine and impostor pairs. "
            f"Received: {num_genuine} genuine, {len(is_same) - num_genuine} impostor. Use another pair list."
        )
    return distances, is_same


def _split_sorted(distances: np.ndarray, is_same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distances, is_same = _checked(distances, is_same)
    return np.sort(distances[is_same]), np.sort(distances[~is_same])


def _allowed_accepts(num_impostors: int, far: float) -> int:
    """The largest count of false accepts with count / num_impostors <= far."""
    count = math.floor(far * num_impostors)
    if count < num_impostors and (count + 1) / num_impostors <= far:
        return count + 1  # 0.29 * 100 is 28.999...
    return count


def _point_at_far(genuine: np.ndarray, impostor: np.ndarray, far: float) -> OperatingPoint:
    """The operating point from sorted distances: everything strictly below the first impostor that must stay out."""
    allowed = _allowed_accepts(len(impostor), far)
    if allowed >= len(impostor):
        return OperatingPoint(1.0, 1.0, float(max(genuine[-1], impostor[-1])))
    num_genuine = int(np.searchsorted(genuine, impostor[allowed], side="left"))
    num_impostor = int(np.searchsorted(impostor, impostor[allowed], side="left"))
    accepted = [*genuine[max(num_genuine - 1, 0) : num_genuine], *impostor[max(num_impostor - 1, 0) : num_impostor]]
    threshold = float(max(accepted, default=REJECT_ALL))
    return OperatingPoint(num_genuine / len(genuine), num_impostor / len(impostor), threshold)


def _fold_of(num_pairs: int, folds: int) -> np.ndarray:
    """int8/int64 [P]: the fold of each pair, contiguous, the first `num_pairs % folds` folds one longer."""
    if not 2 <= folds <= num_pairs:
        raise FaceError(f"{folds}-fold accuracy needs at least {folds} pairs. Received: {num_pairs}. Use more pairs.")
    sizes = np.full(folds, num_pairs // folds)
    sizes[: num_pairs % folds] += 1
    return np.repeat(np.arange(folds), sizes)


def _best_threshold(ranked: np.ndarray, ranked_same: np.ndarray) -> float:
    """The first threshold of best accuracy. `ranked`: distances, ascending; `ranked_same`: bool, same order."""
    gained = np.cumsum(np.where(ranked_same, 1, -1))  # accepting one more pair wins a genuine, loses an impostor
    is_candidate = np.append(ranked[1:] != ranked[:-1], True)  # the last of each tie group
    candidates, gains = ranked[is_candidate], gained[is_candidate]
    best = int(np.argmax(gains))
    return float(candidates[best]) if gains[best] > 0 else REJECT_ALL
