"""The 10-fold protocol of LFW: a threshold is chosen on nine folds and measured on the tenth.

Exact: candidate thresholds are the observed distances. `grid_` functions follow InsightFace's grids of thresholds
instead, for comparison with published tables; there a pair is accepted when its distance is *below* the threshold
(deepinsight/insightface, recognition/arcface_torch/eval/verification.py). Folds are contiguous, as scikit-learn's
unshuffled KFold has them: verification sets lie fold by fold.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from facelib.errors import FaceError
from facelib.evaluation.metrics import REJECT_ALL, can_resolve, check_pairs, cluster_interval, tar_at_far

NUM_FOLDS = 10


class FoldAccuracy(NamedTuple):
    """Accuracy over folds.

    Attributes:
        mean: mean over folds, a fraction.
        std: population standard deviation over folds.
        ci95: 95 % interval of the pooled decisions.
        thresholds: float64 [folds], squared L2.
        accuracies: float64 [folds], fractions.
        is_right: bool [P], which pairs are decided rightly; None where the accuracy is not one of listed pairs.
    """

    mean: float
    std: float
    ci95: tuple[float, float]
    thresholds: np.ndarray
    accuracies: np.ndarray
    is_right: np.ndarray | None = None

    @classmethod
    def of(
        cls, thresholds: np.ndarray, accuracies: np.ndarray, sizes: np.ndarray, is_right: np.ndarray
    ) -> "FoldAccuracy":
        """The summary of all folds.

        Args:
            thresholds: float64 [folds].
            accuracies: float64 [folds], fractions.
            sizes: int [folds], pairs in each fold.
            is_right: bool [P], which pairs are decided rightly.
        """
        interval = cluster_interval(np.rint(accuracies * sizes), sizes)
        return cls(float(accuracies.mean()), float(accuracies.std()), interval, thresholds, accuracies, is_right)


@dataclass(frozen=True)
class FoldTar:
    """TAR measured on folds that did not choose the threshold.

    All numbers but `far_target` and `needs_impostors` are None when the set has too few impostor pairs for the FAR.

    Attributes:
        far_target: the FAR asked for, in (0, 1].
        tar: mean TAR over the test folds.
        tar_std: population standard deviation of the TAR over the test folds.
        far: mean FAR over the test folds.
        ci95: 95 % interval of the pooled TAR, with folds as clusters.
        threshold: mean over folds, squared L2.
        needs_impostors: number of impostor pairs that the set would need for this FAR.
        is_accepted: bool [G], the decision on each genuine pair, cluster by cluster.
        clusters: int [K], genuine pairs in each cluster of the interval: folds, or identities.
    """

    far_target: float
    tar: float | None
    tar_std: float | None
    far: float | None
    ci95: tuple[float, float] | None
    threshold: float | None
    needs_impostors: int
    is_accepted: np.ndarray | None = field(default=None, compare=False)
    clusters: np.ndarray | None = field(default=None, compare=False)


def kfold_accuracy(distances: np.ndarray, is_same: np.ndarray, folds: int = NUM_FOLDS) -> FoldAccuracy:
    """Accuracy on each of `folds` contiguous folds, at the threshold that is best on the other folds.

    Candidates are reject-all and the distinct distances of the train folds, ascending; the first with the best train
    accuracy is taken. This is the LFW protocol without its grid.

    Args:
        distances: float [P], smaller means more similar.
        is_same: bool [P], which pairs are genuine.
        folds: number of folds, at least 2.
    """
    distances, is_same = check_pairs(distances, is_same)
    fold = fold_of(len(distances), folds)
    order = np.argsort(distances, kind="stable")
    ranked, ranked_same, ranked_fold = distances[order], is_same[order], fold[order]
    thresholds, accuracies = np.empty(folds), np.empty(folds)
    for k in range(folds):
        train = ranked_fold != k
        thresholds[k] = _best_threshold(ranked[train], ranked_same[train])
        test = fold == k
        accuracies[k] = np.mean((distances[test] <= thresholds[k]) == is_same[test])
    is_right = (distances <= thresholds[fold]) == is_same
    return FoldAccuracy.of(thresholds, accuracies, count_folds(fold, folds), is_right)


def kfold_tar_at_far(distances: np.ndarray, is_same: np.ndarray, far: float, folds: int = NUM_FOLDS) -> FoldTar:
    """TAR (VR) and FAR on each test fold at the loosest threshold whose FAR on the train folds is <= `far`.

    Where the train folds have fewer than 1 / far impostor pairs, `tar` is None. A fold without genuine pairs has no
    TAR, a fold without impostor pairs has no FAR; the means leave such a fold out.

    Args:
        distances: float [P], smaller means more similar.
        is_same: bool [P], which pairs are genuine.
        far: in (0, 1].
        folds: number of folds, at least 2.
    """
    distances, is_same = check_pairs(distances, is_same)
    fold = fold_of(len(distances), folds)
    thresholds = np.empty(folds)
    for k in range(folds):
        test = fold == k
        if not can_resolve(int(np.count_nonzero(~is_same & ~test)), far):
            return no_tar(far, impostors_needed(far, folds))
        thresholds[k] = tar_at_far(distances[~test], is_same[~test], far).threshold
    return pool_tar(far, thresholds, distances <= thresholds[fold], is_same, fold, folds)


def no_tar(far: float, needs_impostors: int) -> FoldTar:
    """The result where the set cannot resolve `far`."""
    return FoldTar(far, None, None, None, None, None, needs_impostors)


def pool_tar(
    far: float, thresholds: np.ndarray, is_accepted: np.ndarray, is_same: np.ndarray, fold: np.ndarray, folds: int
) -> FoldTar:
    """The TAR of decisions that were made at one threshold per fold.

    Args:
        far: the FAR asked for.
        thresholds: float [folds].
        is_accepted: bool [P], the decisions.
        is_same: bool [P], which pairs are genuine.
        fold: int [P], the fold of each pair.
        folds: number of folds.
    """
    genuine, impostor = count_folds(fold[is_same], folds), count_folds(fold[~is_same], folds)
    hits, alarms = count_folds(fold[is_same & is_accepted], folds), count_folds(fold[~is_same & is_accepted], folds)
    tars = hits[genuine > 0] / genuine[genuine > 0]
    fars = alarms[impostor > 0] / impostor[impostor > 0]
    return FoldTar(
        far_target=far,
        tar=float(tars.mean()),
        tar_std=float(tars.std()),
        far=float(fars.mean()),
        ci95=cluster_interval(hits, genuine),
        threshold=float(thresholds.mean()),
        needs_impostors=impostors_needed(far, folds),
        is_accepted=is_accepted[is_same],
        clusters=genuine,
    )


def impostors_needed(far: float, folds: int = NUM_FOLDS) -> int:
    """Impostor pairs, spread evenly over folds, that leave 1 / far of them in every set of train folds."""
    train = math.ceil(1 / far - 1e-9)
    return train + math.ceil(train / (folds - 1))


def fold_of(num_pairs: int, folds: int) -> np.ndarray:
    """The fold of each pair, int64 [P]: scikit-learn's unshuffled KFold, so folds are contiguous."""
    if not 2 <= folds <= num_pairs:
        raise FaceError(f"{folds}-fold accuracy needs at least {folds} pairs. Received: {num_pairs}. Use more pairs.")
    return np.repeat(np.arange(folds), [len(part) for part in np.array_split(np.arange(num_pairs), folds)])


def count_folds(fold: np.ndarray, folds: int) -> np.ndarray:
    """int64 [folds]: how many of `fold` are in each."""
    return np.bincount(fold, minlength=folds)


def _best_threshold(ranked: np.ndarray, ranked_same: np.ndarray) -> float:
    """The first threshold with the best accuracy.

    Args:
        ranked: float [P], distances, ascending.
        ranked_same: bool [P], which pairs are genuine, in the same order.
    """
    gained = np.cumsum(np.where(ranked_same, 1, -1))  # one more accepted pair: +1 if genuine, -1 if impostor
    is_candidate = np.append(ranked[1:] != ranked[:-1], True)  # the last of each tie group
    candidates, gains = ranked[is_candidate], gained[is_candidate]
    best = int(np.argmax(gains))
    return float(candidates[best]) if gains[best] > 0 else REJECT_ALL


ACCURACY_GRID = np.arange(0, 4, 0.01)


VAL_GRID = np.arange(0, 4, 0.001)


def grid_accuracy(distances: np.ndarray, is_same: np.ndarray, folds: int = NUM_FOLDS) -> FoldAccuracy:
    """10-fold accuracy; the threshold is the first on the grid 0, 0.01, .. 3.99 that is best on the other folds.

    Args:
        distances: float [P], squared L2 of unit vectors.
        is_same: bool [P], which pairs are genuine.
        folds: number of folds, at least 2.
    """
    distances, is_same = check_pairs(distances, is_same)
    fold = fold_of(len(distances), folds)
    correct = _accepts(distances, is_same, fold, ACCURACY_GRID, folds) + _rejects(
        distances, ~is_same, fold, ACCURACY_GRID, folds
    )
    sizes = count_folds(fold, folds)
    thresholds, accuracies = np.empty(folds), np.empty(folds)
    for k in range(folds):
        best = int(np.argmax((correct.sum(axis=0) - correct[k]) / (len(distances) - sizes[k])))
        thresholds[k], accuracies[k] = ACCURACY_GRID[best], correct[k, best] / sizes[k]
    return FoldAccuracy.of(thresholds, accuracies, sizes, (distances < thresholds[fold]) == is_same)


def best_of_set_accuracy(distances: np.ndarray, is_same: np.ndarray, folds: int = NUM_FOLDS) -> FoldAccuracy:
    """Accuracy of the whole set at the one threshold that is best on it, as leondgarse/Keras_insightface reports it.

    Candidates are the distances of the nearest tenth of the impostor pairs, ascending; the first best one is taken, and
    a pair is accepted when its distance is below it (evals.py, eval_callback). The pairs that choose the threshold are
    also measured, so the figure is too high, by up to 0.2 points on LFW.

    Args:
        distances: float [P], smaller means more similar.
        is_same: bool [P], which pairs are genuine.
        folds: of the standard deviation and the interval, which the original does not have.

    Raises:
        FaceError: fewer than 10 impostor pairs.
    """
    distances, is_same = check_pairs(distances, is_same)
    genuine, impostor = np.sort(distances[is_same]), np.sort(distances[~is_same])
    candidates = impostor[: len(impostor) // 10]
    if not len(candidates):
        raise FaceError(
            f"The protocol keras_insightface needs 10 impostor pairs or more. Received: {len(impostor)}. Use "
            "--protocol exact."
        )
    accepted = np.searchsorted(genuine, candidates) + len(impostor) - np.searchsorted(impostor, candidates)
    threshold = candidates[np.argmax(accepted)]
    fold, is_right = fold_of(len(distances), folds), (distances < threshold) == is_same
    sizes, right = count_folds(fold, folds), count_folds(fold[is_right], folds)
    found = FoldAccuracy.of(np.full(folds, threshold), right / sizes, sizes, is_right)
    return found._replace(mean=float(is_right.mean()))


def grid_tar_at_far(distances: np.ndarray, is_same: np.ndarray, far: float, folds: int = NUM_FOLDS) -> FoldTar:
    """VAL@FAR: the threshold where the FAR of the train folds, on the grid 0, 0.001, .. 3.999, reaches `far`.

    The original interpolates with SciPy's `interp1d`, which fails where several thresholds have the same FAR. NumPy's
    `interp` is used here: a line that leaves such a plateau starts at its last threshold, a line that reaches it ends
    at its first. Where the train FAR never reaches `far` the threshold is 0, as in the original. Where the train folds
    have too few impostor pairs for `far` there is no number.

    Args:
        distances: float [P], squared L2 of unit vectors.
        is_same: bool [P], which pairs are genuine.
        far: in (0, 1].
        folds: number of folds, at least 2.
    """
    distances, is_same = check_pairs(distances, is_same)
    fold = fold_of(len(distances), folds)
    false_accepts = _accepts(distances, ~is_same, fold, VAL_GRID, folds)
    impostors = count_folds(fold[~is_same], folds)
    thresholds = np.empty(folds)
    for k in range(folds):
        others = int(impostors.sum() - impostors[k])
        if not can_resolve(others, far):
            return no_tar(far, impostors_needed(far, folds))
        train_far = (false_accepts.sum(axis=0) - false_accepts[k]) / others
        thresholds[k] = np.interp(far, train_far, VAL_GRID) if train_far.max() >= far else 0.0
    is_accepted = distances < thresholds[fold]
    return pool_tar(far, thresholds, is_accepted, is_same, fold, folds)


def _accepts(distances: np.ndarray, wanted: np.ndarray, fold: np.ndarray, grid: np.ndarray, folds: int) -> np.ndarray:
    """int [folds, len(grid)]: how many `wanted` pairs of each fold are below each threshold."""
    return np.stack(
        [np.searchsorted(np.sort(distances[wanted & (fold == k)]), grid, side="left") for k in range(folds)]
    )


def _rejects(distances: np.ndarray, wanted: np.ndarray, fold: np.ndarray, grid: np.ndarray, folds: int) -> np.ndarray:
    return count_folds(fold[wanted], folds)[:, None] - _accepts(distances, wanted, fold, grid, folds)
