"""InsightFace's verification protocol with its grids of thresholds, for comparison with published tables.

Source: deepinsight/insightface, recognition/arcface_torch/eval/verification.py. A pair is accepted when its distance is
*below* the threshold. The exact protocol is in `facelib.evaluation.ten_fold`.
"""

import numpy as np

from facelib.evaluation.metrics import can_resolve, check_pairs
from facelib.evaluation.ten_fold import (
    NUM_FOLDS,
    FoldAccuracy,
    FoldTar,
    count_folds,
    fold_of,
    impostors_needed,
    no_tar,
    pool_tar,
)

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
    return FoldAccuracy.of(thresholds, accuracies, sizes)


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
