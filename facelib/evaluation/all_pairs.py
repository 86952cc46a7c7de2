"""All-against-all verification: every pair of faces in identity folders, in bounded memory.

Identities are distributed over folds, so that a threshold is tested on people it was not chosen on. The test pairs of
fold k are the pairs within k; its train pairs are the pairs without a face in k. Impostor distances are stored as
float32 in cells, one for each two folds: 88 million pairs take 350 MB.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facelib.data.verification.pair_lists import split_identities
from facelib.errors import FaceError
from facelib.evaluation.metrics import REJECT_ALL, Scores, allowed_accepts, can_resolve, cluster_interval
from facelib.evaluation.probability import Calibration, calibrate_ratio, count_distances
from facelib.evaluation.ten_fold import NUM_FOLDS, FoldAccuracy, FoldTar, impostors_needed, no_tar
from facelib.unit_vectors import normalize

MAX_PAIRS = 400_000_000  # 1.6 GB of distances, and as much again for the sorted copy
NUM_HARDEST = 12


@dataclass(frozen=True)
class Hard:
    """A pair of faces that is hard to decide.

    Attributes:
        first: row of one face.
        second: row of the other face, above `first`.
        distance: squared L2 of unit vectors.
    """

    first: int
    second: int
    distance: float


class AllPairs:
    """The distances between all faces of a set, by folds of identities.

    Args:
        embeddings: float [N, D]; normalised here.
        labels: int [N], the identity of each face.

    Attributes:
        num_folds: 10, or fewer where there are too few identities.
        scores: `Scores` of all pairs.
        genuine: float32 [G], distances of the genuine pairs.
        genuine_label: int [G], identity of each genuine pair.
        genuine_rows: int [G, 2], rows of the two faces.
        closest_impostors: the hardest impostor pairs, worst first.
        farthest_genuine: the hardest genuine pairs, worst first.

    Raises:
        FaceError: too few identities, more than `MAX_PAIRS` pairs, or a row that is zero or not finite.
    """

    def __init__(self, embeddings: np.ndarray, labels: np.ndarray):
        labels = np.asarray(labels)
        self._check(labels)
        unit = normalize(embeddings).astype(np.float32)
        self.num_folds, rows_of_fold = _deal(labels)
        self._cells: dict[tuple[int, int], np.ndarray] = {}
        genuine, owner, rows, closest = [], [], [], []
        for i, first in enumerate(rows_of_fold):
            for j in range(i, self.num_folds):
                second = rows_of_fold[j]
                distances = np.clip(2.0 - 2.0 * (unit[first] @ unit[second].T), 0.0, 4.0)
                is_same = labels[first][:, None] == labels[second][None, :]
                is_pair = np.triu(np.ones_like(is_same), 1) if i == j else np.ones_like(is_same)
                a, b = np.nonzero(is_pair & is_same)
                genuine.append(distances[a, b])
                owner.append(labels[first][a])
                rows.append(np.stack([first[a], second[b]], axis=1))
                closest += _closest(np.where(is_pair & ~is_same, distances, np.inf), first, second)
                cell = distances[is_pair & ~is_same]
                cell.sort()
                self._cells[i, j] = cell
        self.genuine, self.genuine_label = np.concatenate(genuine), np.concatenate(owner)
        self.genuine_rows = np.concatenate(rows)
        fold_of_label = {int(label): k for k, chosen in enumerate(rows_of_fold) for label in labels[chosen].tolist()}
        self._genuine_fold = np.array([fold_of_label[int(label)] for label in self.genuine_label])
        self.scores = Scores(self.genuine.copy(), np.concatenate(list(self._cells.values())))
        self.closest_impostors = sorted(closest, key=lambda hard: hard.distance)[:NUM_HARDEST]
        worst = np.argsort(-self.genuine, kind="stable")[:NUM_HARDEST]
        self.farthest_genuine = [_hard(self.genuine_rows[i].tolist(), float(self.genuine[i])) for i in worst]

    @staticmethod
    def _check(labels: np.ndarray) -> None:
        sizes = np.unique_counts(labels).counts.astype(np.int64)
        num_pairs = len(labels) * (len(labels) - 1) // 2
        if np.count_nonzero(sizes > 1) < 2 or len(sizes) < 4:
            raise FaceError(
                "A test of all pairs needs at least 4 identities, 2 of them with at least 2 images. Received: "
                f"{len(sizes)} identities, {np.count_nonzero(sizes > 1)} with more than one image. Add photos."
            )
        if num_pairs > MAX_PAIRS:
            raise FaceError(
                f"A test of all pairs can have at most {MAX_PAIRS:,} pairs. Received: {len(labels):,} images, which "
                f"make {num_pairs:,} pairs. Draw random pairs instead: python make_bin.py FOLDERS OUT.bin"
            )

    def kfold_accuracy(self) -> FoldAccuracy:
        """*Balanced* accuracy, (TAR + 1 - FAR) / 2, on each fold at the threshold that is best on the other folds.

        Plain accuracy says nothing here: with so many impostor pairs, rejecting every pair reaches more than 99 %.
        """
        candidates = np.unique(self.genuine)  # the best threshold is one of a genuine pair, or below all
        hits = np.stack([np.searchsorted(np.sort(self._of_fold(k)), candidates, "right") for k in self._folds()])
        alarms = {cell: np.searchsorted(values, candidates, "right") for cell, values in self._cells.items()}
        thresholds, accuracies = np.empty(self.num_folds), np.empty(self.num_folds)
        for k in self._folds():
            train = self._train_cells(k)
            num_genuine = len(self.genuine) - len(self._of_fold(k))
            gain = (hits.sum(axis=0) - hits[k]) / num_genuine
            gain -= sum(alarms[cell] for cell in train) / sum(len(self._cells[cell]) for cell in train)
            best = int(np.argmax(gain))
            thresholds[k] = candidates[best] if gain[best] > 0 else REJECT_ALL
            tar, far = self._rates(k, thresholds[k])
            accuracies[k] = (tar + 1.0 - far) / 2
        interval = self._balanced_interval(thresholds)
        return FoldAccuracy(float(accuracies.mean()), float(accuracies.std()), interval, thresholds, accuracies)

    def kfold_tar_at_far(self, far: float) -> FoldTar:
        """TAR (VR) and FAR as `ten_fold.kfold_tar_at_far` has them, but on folds of identities.

        The clusters of the interval are identities.

        Args:
            far: in (0, 1].
        """
        thresholds = np.empty(self.num_folds)
        for k in self._folds():
            num_train = sum(len(self._cells[cell]) for cell in self._train_cells(k))
            if not can_resolve(num_train, far):
                return no_tar(far, impostors_needed(far, self.num_folds))
            thresholds[k] = self._train_threshold(k, far, num_train)
        rates = np.array([self._rates(k, thresholds[k]) for k in self._folds()])
        by_identity = np.argsort(self.genuine_label, kind="stable")
        return FoldTar(
            far_target=far,
            tar=float(rates[:, 0].mean()),
            tar_std=float(rates[:, 0].std()),
            far=float(rates[:, 1].mean()),
            ci95=self.tar_interval(thresholds[self._genuine_fold]),
            threshold=float(thresholds.mean()),
            needs_impostors=impostors_needed(far, self.num_folds),
            is_accepted=(self.genuine <= thresholds[self._genuine_fold])[by_identity],
            clusters=np.unique_counts(self.genuine_label).counts,
        )

    def calibrate_ratio(self) -> Calibration | None:
        """The calibration of probabilities, on folds of identities."""
        cells = {cell: count_distances(values[:0], values) for cell, values in self._cells.items()}
        genuine = [count_distances(self._of_fold(k), self.genuine[:0]) for k in self._folds()]
        whole = np.sum([*cells.values(), *genuine], axis=0)
        folds = []
        for k in self._folds():
            fit = [cells[cell] for cell in self._train_cells(k)] + [genuine[j] for j in self._folds() if j != k]
            folds.append((np.sum(fit, axis=0), genuine[k] + cells[k, k]))
        return calibrate_ratio(whole, folds)

    def tar_interval(self, thresholds) -> tuple[float, float]:
        """95 % interval of the TAR, with identities as clusters.

        Args:
            thresholds: one float, or float [G], one for each genuine pair.
        """
        accepted = (self.genuine <= thresholds).astype(np.float64)
        _, owner = np.unique(self.genuine_label, return_inverse=True)
        return cluster_interval(np.bincount(owner, accepted), np.bincount(owner))

    def _balanced_interval(self, thresholds: np.ndarray) -> tuple[float, float]:
        tar = self.tar_interval(thresholds[self._genuine_fold])
        tests = [self._cells[k, k] for k in self._folds()]
        alarms = np.array([np.searchsorted(cell, t, "right") for cell, t in zip(tests, thresholds, strict=True)])
        far = cluster_interval(alarms, np.array([len(cell) for cell in tests]))
        return (tar[0] + 1.0 - far[1]) / 2, (tar[1] + 1.0 - far[0]) / 2

    def _train_threshold(self, k: int, far: float, num_train: int) -> float:
        """The loosest threshold whose FAR on the train cells of fold k is <= `far`, by bisection of all distances."""
        train = [self._cells[cell] for cell in self._train_cells(k)]
        values, allowed = self.scores.impostor, allowed_accepts(num_train, far)
        low, high = 0, len(values)  # the first value at which one impostor too many is accepted
        while low < high:
            middle = (low + high) // 2
            if sum(int(np.searchsorted(cell, values[middle], "right")) for cell in train) > allowed:
                high = middle
            else:
                low = middle + 1
        out = values[low] if low < len(values) else np.inf  # everything strictly closer is in
        train.append(np.sort(self.genuine[self._genuine_fold != k]))
        accepted = [cell[i - 1] for cell in train if (i := int(np.searchsorted(cell, out, "left"))) > 0]
        return float(max(accepted, default=REJECT_ALL))

    def _rates(self, k: int, threshold: float) -> tuple[float, float]:
        """(TAR, FAR) on the test pairs of fold k."""
        cell = self._cells[k, k]
        return float(np.mean(self._of_fold(k) <= threshold)), float(
            np.searchsorted(cell, threshold, "right") / len(cell)
        )

    def _of_fold(self, k: int) -> np.ndarray:
        return self.genuine[self._genuine_fold == k]

    def _train_cells(self, k: int) -> list[tuple[int, int]]:
        return [cell for cell in self._cells if k not in cell]

    def _folds(self) -> range:
        return range(self.num_folds)


def _deal(labels: np.ndarray) -> tuple[int, list[np.ndarray]]:
    """(number of folds, the rows of each): as equal as possible, each with a genuine and an impostor pair."""
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    num_folds = min(NUM_FOLDS, sum(len(group) > 1 for group in groups), len(groups) // 2)
    blocks = split_identities(groups, num_folds, np.random.default_rng(0))
    return num_folds, [np.sort(np.concatenate(block)) for block in blocks]


def _closest(distances: np.ndarray, first: np.ndarray, second: np.ndarray) -> list[Hard]:
    flat = distances.ravel()
    picked = np.argpartition(flat, NUM_HARDEST)[:NUM_HARDEST] if len(flat) > NUM_HARDEST else np.arange(len(flat))
    row, column = np.unravel_index(picked, distances.shape)
    found = [_hard((int(first[r]), int(second[c])), float(distances[r, c])) for r, c in zip(row, column, strict=True)]
    return [pair for pair in found if np.isfinite(pair.distance)]


def _hard(rows: Sequence[int], distance: float) -> Hard:
    return Hard(min(rows), max(rows), distance)
