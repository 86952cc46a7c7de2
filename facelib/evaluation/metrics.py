"""Verification metrics, exact: no grid of thresholds, no interpolation between them; and their 95 % intervals.

A pair is accepted when its distance is at most the threshold. Candidate thresholds are the observed distances, so
equal distances are accepted together and nothing depends on the order of the pairs. `REJECT_ALL` (-inf) is below all
of them. The field prints TAR (true-accept rate) as VR. `Scores` sorts once, O(P log P): scikit-learn's roc_curve gives
the same points, but not for 88 million pairs.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from facelib.errors import FaceError
from facelib.unit_vectors import normalize

Z95 = 1.959963984540054  # normal quantile
NUM_RESAMPLES = 2000
_SEED = 0x1A7E

REJECT_ALL = -math.inf


class OperatingPoint(NamedTuple):
    """One threshold and its rates on the pairs it was taken from.

    Attributes:
        tar: share of the genuine pairs that are accepted.
        far: share of the impostor pairs that are accepted.
        threshold: a pair is accepted when its distance is at most this.
    """

    tar: float
    far: float
    threshold: float


def pair_distances(embeddings: np.ndarray) -> np.ndarray:
    """Squared L2 distance of unit vectors, pair by pair: 0 (same direction) to 4 (opposite).

    Args:
        embeddings: float [2N, D], rows 2k and 2k + 1 are pair k; normalised here, in float64.

    Returns: float64 [N].
    """
    unit = normalize(embeddings)
    return np.square(unit[0::2] - unit[1::2]).sum(axis=1)


class Scores:
    """The genuine and the impostor distances of a set, each sorted once: 88 million pairs take 350 MB as float32.

    `Scores.of` takes distances and a mark for each pair instead.

    Args:
        genuine: float [G], distances of the genuine pairs. Sorted in place.
        impostor: float [I], distances of the impostor pairs. Sorted in place.

    Attributes:
        genuine: float [G], ascending, in the dtype of the argument.
        impostor: float [I], ascending, in the dtype of the argument.

    Raises:
        FaceError: a NaN, or no genuine or no impostor pair.
    """

    def __init__(self, genuine: np.ndarray, impostor: np.ndarray):
        self.genuine, self.impostor = np.asarray(genuine), np.asarray(impostor)
        if not len(self.genuine) or not len(self.impostor):
            raise FaceError(
                f"A verification set needs genuine and impostor pairs. Received: {len(self.genuine)} genuine, "
                f"{len(self.impostor)} impostor. Use a different pair list."
            )
        self.genuine.sort()
        self.impostor.sort()
        if np.isnan(self.genuine[-1]) or np.isnan(self.impostor[-1]):  # they sort last
            raise FaceError("Distances must be numbers. One distance is NaN: check the embeddings.")

    @classmethod
    def of(cls, distances: np.ndarray, is_same: np.ndarray) -> "Scores":
        """The scores of a list of pairs.

        Args:
            distances: float [P]. Not changed.
            is_same: bool [P], which pairs are genuine. Not changed.
        """
        distances, is_same = check_pairs(distances, is_same)
        return cls(distances[is_same], distances[~is_same])

    def auc(self) -> float:
        """Chance that a genuine pair is closer than an impostor pair, ties counting one half. Exact, from ranks."""
        closer = np.searchsorted(self.impostor, self.genuine, side="left")  # impostors strictly closer
        closer_or_tied = np.searchsorted(self.impostor, self.genuine, side="right")
        losses = int(closer.sum(dtype=np.int64)) + int(closer_or_tied.sum(dtype=np.int64))
        return 1.0 - losses / (2 * len(self.genuine) * len(self.impostor))

    def eer(self) -> float:
        """Equal error rate: where FAR = 1 - TAR on the ROC, whose points are joined by straight lines."""
        # FAR + TAR - 1 rises from -1 to 1. Its first crossing is at an observed distance of either kind.
        found = [values[i] for values in (self.genuine, self.impostor) if (i := self._crossing(values)) < len(values)]
        right = min(found)
        below = [values[i - 1] for values in (self.genuine, self.impostor)
                 if (i := np.searchsorted(values, right, side="left")) > 0]  # fmt: skip
        far, tar = self.rates_at(right)
        far_left, tar_left = self.rates_at(max(below)) if below else (0.0, 0.0)
        excess, excess_left = far + tar - 1.0, far_left + tar_left - 1.0
        share = -excess_left / (excess - excess_left)
        return float(far_left + share * (far - far_left))

    def _crossing(self, values: np.ndarray) -> int:
        """The first index of the ascending `values` at which FAR + TAR >= 1."""
        low, high = 0, len(values)
        while low < high:
            middle = (low + high) // 2
            if sum(self.rates_at(values[middle])) >= 1.0:
                high = middle
            else:
                low = middle + 1
        return low

    def rates_at(self, threshold: float) -> tuple[float, float]:
        """(FAR, TAR) when pairs at most `threshold` apart are accepted."""
        num_impostor = int(np.searchsorted(self.impostor, threshold, side="right"))
        num_genuine = int(np.searchsorted(self.genuine, threshold, side="right"))
        return num_impostor / len(self.impostor), num_genuine / len(self.genuine)

    def tar_at_far(self, far: float) -> OperatingPoint:
        """True-accept rate (VR) at the loosest threshold whose false-accept rate is <= `far`.

        Exact: thresholds are the observed distances, ties accepted together; no interpolation, no grid.

        Args:
            far: in (0, 1].

        Returns: the TAR, the FAR that the threshold really has, and the threshold; `REJECT_ALL` when accepting even the
            closest pair would accept too many impostors.

        Raises:
            FaceError: if fewer than 1 / far impostor pairs exist.
        """
        n = len(self.impostor)
        if not can_resolve(n, far):
            raise FaceError(
                f"FAR={far:g} cannot be measured with {n} impostor pairs: the smallest non-zero rate is {1 / n:g}. "
                f"Use --far {1 / n:g} or larger, or use a longer pair list."
            )
        return self.point_at(allowed_accepts(n, far))

    def point_at(self, num_accepts: int) -> OperatingPoint:
        """The loosest threshold that accepts at most `num_accepts` impostor pairs."""
        genuine, impostor = self.genuine, self.impostor
        if num_accepts >= len(impostor):
            return OperatingPoint(1.0, 1.0, float(max(genuine[-1], impostor[-1])))
        first_out = impostor[num_accepts]  # everything strictly closer is in
        num_genuine = int(np.searchsorted(genuine, first_out, side="left"))
        num_impostor = int(np.searchsorted(impostor, first_out, side="left"))
        accepted = [*genuine[max(num_genuine - 1, 0) : num_genuine], *impostor[max(num_impostor - 1, 0) : num_impostor]]
        threshold = float(max(accepted, default=REJECT_ALL))
        return OperatingPoint(num_genuine / len(genuine), num_impostor / len(impostor), threshold)


def tar_at_far(distances: np.ndarray, is_same: np.ndarray, far: float) -> OperatingPoint:
    """The TAR of a list of pairs; see `Scores.tar_at_far`.

    Args:
        distances: float [P], smaller means more similar.
        is_same: bool [P], which pairs are genuine.
        far: in (0, 1].
    """
    return Scores.of(distances, is_same).tar_at_far(far)


def check_far(far: float) -> float:
    """The same FAR. Refuses one that is not in (0, 1]; NaN is none."""
    if not 0 < far <= 1:
        raise FaceError(f"--far must be a rate above 0 and at most 1, such as 0.001. Received: --far {far:g}.")
    return far


def can_resolve(num_impostors: int, far: float) -> bool:
    """Whether `num_impostors` pairs can show a rate of `far`: at least 1 / far of them."""
    check_far(far)
    return allowed_accepts(num_impostors, far) >= 1


def check_pairs(distances: np.ndarray, is_same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays [P].

    Raises:
        FaceError: the lengths differ, a distance is NaN, or one kind of pair is missing.
    """
    distances, is_same = np.asarray(distances), np.asarray(is_same, dtype=bool)
    if distances.ndim != 1 or distances.shape != is_same.shape:
        raise FaceError(
            f"Every pair must have one distance and one entry of is_same. Received: {distances.shape} distances, "
            f"{is_same.shape} entries."
        )
    if np.isnan(distances).any():
        pair = int(np.argmax(np.isnan(distances)))
        raise FaceError(
            f"Distances must be numbers. The distance of pair {pair} is NaN: check the embeddings of its images."
        )
    num_genuine = int(is_same.sum())
    if num_genuine in (0, len(is_same)):
        raise FaceError(
            f"A verification set needs genuine and impostor pairs. Received: {num_genuine} genuine, "
            f"{len(is_same) - num_genuine} impostor. Use a different pair list."
        )
    return distances, is_same


def allowed_accepts(num_impostors: int, far: float) -> int:
    """The largest count of false accepts with count / num_impostors <= far."""
    count = math.floor(far * num_impostors)
    if count < num_impostors and (count + 1) / num_impostors <= far:
        return count + 1  # 0.29 * 100 is 28.999...
    return count


def wilson_interval(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927). It stays inside [0, 1] and has a width also at rates of 0 and 1.

    Equal to `scipy.stats.binomtest(k, n).proportion_ci(method="wilson")` within 1e-12. SciPy also computes a p-value
    that nobody asks for here: 1 to 4 ms a call against 1.6 us, and a ROC has 200 intervals. So the formula stays.

    Args:
        successes: number of successes.
        trials: number of trials.
        z: quantile of the normal distribution; the default is for 95 %.

    Returns: (low, high) as fractions; (0, 1) without trials.
    """
    if trials == 0:
        return 0.0, 1.0
    rate, spread = successes / trials, z * z / trials
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def cluster_interval(successes: np.ndarray, trials: np.ndarray) -> tuple[float, float]:
    """95 % interval of `sum(successes) / sum(trials)` where trials of one cluster depend on each other.

    Pairs of one fold share people, and pairs of one identity share a face, so they are not independent. Clusters are
    drawn with replacement (percentile bootstrap, Efron & Tibshirani 1993, chapter 13), always with the same draws. The
    result is the wider end of the bootstrap and of Wilson's interval: a bootstrap of a rate of 1 in every cluster has
    no width. `scipy.stats.bootstrap` draws other samples, so its figures differ, and it draws anew at each call.

    Args:
        successes: int [K], successes in each cluster.
        trials: int [K], trials in each cluster.

    Returns: (low, high) as fractions.
    """
    successes, trials = np.asarray(successes, np.float64), np.asarray(trials, np.float64)
    low, high = wilson_interval(successes.sum(), trials.sum())
    if len(trials) < 2:
        return low, high
    weights = resample_weights(len(trials))
    drawn = weights @ trials
    rates = (weights @ successes)[drawn > 0] / drawn[drawn > 0]
    return min(low, float(np.quantile(rates, 0.025))), max(high, float(np.quantile(rates, 0.975)))


@lru_cache(maxsize=2)
def resample_weights(num_clusters: int) -> np.ndarray:
    """How often each cluster is drawn in each resample: float64 [NUM_RESAMPLES, num_clusters], always the same."""
    rng = np.random.default_rng([_SEED, num_clusters])
    return rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), NUM_RESAMPLES).astype(np.float64)
