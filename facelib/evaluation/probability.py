"""The probability that two faces show the same person, from their distance.

The log-likelihood ratio of a pair at squared L2 d is clip(slope * d + offset, -limit, limit): three numbers. The limit
is what the number of pairs can support. Slope and offset are a logistic regression of equally weighted genuine and
impostor pairs, so the ratio does not depend on how many of each the set has; the prior is added to it. How good the
ratios are is Cllr (Bruemmer & du Preez 2006, Computer Speech and Language 20:230): 0 for certainty that is right, 1 for
a ratio that says nothing. It is measured on folds that were not fitted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

STEP = 1e-4  # distances are counted in bins, so that 88 million pairs are 40,000 numbers
NUM_BINS = 40_001
NUM_RELIABILITY_BINS = 10
MIN_PAIRS = 10  # genuine and impostor, in the pairs that are fitted
_Z95 = 1.959963984540054
_CENTRES = STEP * np.arange(NUM_BINS)


def count_distances(genuine: np.ndarray, impostor: np.ndarray) -> np.ndarray:
    """int64 [2, NUM_BINS]: the genuine and the impostor pairs at each distance."""
    return np.stack([np.bincount(np.rint(np.clip(one, 0, 4) / STEP).astype(np.int64), minlength=NUM_BINS)
                     for one in (genuine, impostor)])  # fmt: skip


class Ratio(NamedTuple):
    """The log-likelihood ratio of a pair at squared L2 d, natural logarithm.

    Attributes:
        slope: of the distance, negative.
        offset: at distance 0.
        limit: largest size of the ratio: ln(N + 1), where N is the smaller number of genuine and impostor pairs.
        covariance: of slope and offset, (variance of slope, covariance, variance of offset), by leaving out folds.
    """

    slope: float
    offset: float
    limit: float
    covariance: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def at(self, distance):
        """The ratio, of a float or an array."""
        return np.clip(self.slope * distance + self.offset, -self.limit, self.limit)

    def interval(self, distance: float) -> tuple[float, float]:
        """95 % interval of the ratio."""
        slope, both, offset = self.covariance
        half = _Z95 * math.sqrt(max(slope * distance**2 + 2 * both * distance + offset, 0.0))
        middle = self.slope * distance + self.offset
        low, high = np.clip([middle - half, middle + half], -self.limit, self.limit).tolist()
        return low, high

    @classmethod
    def of(cls, value: dict[str, Any]) -> "Ratio":
        """Reads what `as_dict` wrote; other keys are allowed. Raises KeyError, TypeError or ValueError for others."""
        variance, both, offset = map(float, value["covariance"])
        return cls(float(value["slope"]), float(value["offset"]), float(value["limit"]), (variance, both, offset))

    def as_dict(self) -> dict[str, Any]:
        """JSON."""
        return {**self._asdict(), "covariance": list(self.covariance)}


def probability(ratio: float, prior: float) -> float:
    """P(same person) of a log-likelihood ratio; the prior is the chance of it before the faces are seen, in (0, 1)."""
    return 1 / (1 + math.exp(-(ratio + math.log(prior / (1 - prior)))))


@dataclass(frozen=True)
class Calibration:
    """The ratio of one set, and how good it is.

    Attributes:
        ratio: fitted to all pairs.
        cllr: of ratios that the other folds gave.
        min_cllr: of the best monotone function of the distance (PAV), fitted to the same pairs that it is measured on.
        fold_min_cllr: the same, fitted to the other folds, so that it can be compared with `cllr`.
        reliability: {"ratio", "genuine", "impostor"}: bins of the ratios that the other folds gave, with their mean.
    """

    ratio: Ratio
    cllr: float
    min_cllr: float
    fold_min_cllr: float
    reliability: dict[str, list]

    def as_dict(self) -> dict[str, Any]:
        """The `probability` object of a report."""
        found = {"cllr": self.cllr, "min_cllr": self.min_cllr, "fold_min_cllr": self.fold_min_cllr}
        return {**self.ratio.as_dict(), **found, "reliability": self.reliability}


def calibrate_pairs(distances: np.ndarray, is_same: np.ndarray, fold: np.ndarray) -> Calibration | None:
    """The calibration of listed pairs: each fold is measured by the others.

    Args:
        distances: float [P], squared L2 of unit vectors.
        is_same: bool [P], which pairs are genuine.
        fold: int [P], the fold of each pair.
    """

    def count(mask: np.ndarray) -> np.ndarray:
        return count_distances(distances[mask & is_same], distances[mask & ~is_same])

    whole = count(np.ones(len(fold), bool))
    tests = [count(fold == k) for k in range(int(fold.max()) + 1)]
    return calibrate_ratio(whole, [(whole - test, test) for test in tests])


def calibrate_ratio(whole: np.ndarray, folds: Sequence[tuple[np.ndarray, np.ndarray]]) -> Calibration | None:
    """The calibration of a set; None for a set with too few pairs.

    Args:
        whole: `count_distances` of all pairs.
        folds: the same of (the pairs to fit, the pairs to measure) of each fold.
    """
    if min(int(fit.sum(axis=1).min()) for fit, _ in folds) < MIN_PAIRS:
        return None
    fitted = [fit_ratio(fit) for fit, _ in folds]
    ratios = [one.at(_CENTRES) for one in fitted]
    tests = [test for _, test in folds]
    monotone = [_monotone(fit) for fit, _ in folds]
    ratio = fit_ratio(whole)._replace(covariance=_jackknife(fitted))
    return Calibration(
        ratio,
        cllr=cllr(ratios, tests),
        min_cllr=cllr([_monotone(whole, is_final=True)], [whole]),
        fold_min_cllr=cllr(monotone, tests),
        reliability=_reliability(ratios, tests, ratio.limit),
    )


def fit_ratio(counts: np.ndarray) -> Ratio:
    """Logistic regression of the distance by Newton's method, with equally weighted kinds and without a penalty.

    scikit-learn gives the same; a board need not have it. A penalty of 1e-10 keeps the slope finite where the kinds do
    not overlap; the limit of the ratio then decides.

    Args:
        counts: of `count_distances`.
    """
    used = np.flatnonzero(counts.sum(axis=0))
    x, weights = _CENTRES[used], counts[:, used] / counts.sum(axis=1, keepdims=True)
    limit = math.log(counts.sum(axis=1).min() + 1)
    centre, total = float((x * weights.sum(axis=0)).sum() / 2), weights.sum(axis=0)
    x, beta = x - centre, np.zeros(2)
    penalty = 1e-10 * np.eye(2)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(beta[0] * x + beta[1], -500, 500)))
        error, spread = weights[0] - total * p, total * p * (1 - p)
        gradient = np.array([(error * x).sum(), error.sum()]) - penalty @ beta
        cross = (spread * x).sum()
        step = np.linalg.solve(np.array([[(spread * x * x).sum(), cross], [cross, spread.sum()]]) + penalty, gradient)
        step *= min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        beta += step
        if np.abs(step).max() < 1e-9:
            break
    return Ratio(float(beta[0]), float(beta[1] - beta[0] * centre), limit)


def cllr(ratios: Sequence[np.ndarray], counts: Sequence[np.ndarray]) -> float:
    """Cllr in bits: the mean cost of the ratios of genuine and of impostor pairs, equally weighted.

    Args:
        ratios: the ratio at each distance, float [NUM_BINS], for each of `counts`.
        counts: pairs of `count_distances`.
    """
    costs, pairs = np.zeros(2), np.zeros(2)
    for ratio, count in zip(ratios, counts, strict=True):
        for kind, sign in ((0, -1.0), (1, 1.0)):
            used = np.flatnonzero(count[kind])
            costs[kind] += (count[kind][used] * np.logaddexp(0.0, sign * ratio[used])).sum()
        pairs += count.sum(axis=1)
    return float((costs / pairs).mean() / math.log(2))


def _monotone(counts: np.ndarray, is_final: bool = False) -> np.ndarray:
    """The best ratio that only falls with the distance: pool adjacent violators (PAV), float [NUM_BINS].

    Args:
        counts: of `count_distances`.
        is_final: measured on the same pairs, so that a ratio may be infinite; else it keeps within the limit.
    """
    used = np.flatnonzero(counts.sum(axis=0))
    weights = counts[:, used] / counts.sum(axis=1, keepdims=True)
    blocks: list[list[float]] = []  # genuine weight, impostor weight, number of distances
    for genuine, impostor in weights.T.tolist():
        blocks.append([genuine, impostor, 1])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] <= blocks[-1][0] * blocks[-2][1]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    share = np.array(blocks)
    with np.errstate(divide="ignore"):
        ratio = np.log(share[:, 0]) - np.log(share[:, 1])
    if not is_final:
        limit = math.log(counts.sum(axis=1).min() + 1)
        ratio = np.clip(ratio, -limit, limit)
    values = np.repeat(ratio, share[:, 2].astype(int))
    nearest = np.clip(np.searchsorted(used, np.arange(NUM_BINS), side="right") - 1, 0, None)
    return values[nearest]


def _jackknife(fitted: Sequence[Ratio]) -> tuple[float, float, float]:
    """The covariance of slope and offset, from fits that each leave out one fold."""
    values = np.array([[one.slope, one.offset] for one in fitted])
    values -= values.mean(axis=0)
    covariance = (len(values) - 1) / len(values) * values.T @ values
    return float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])


def _reliability(ratios: Sequence[np.ndarray], counts: Sequence[np.ndarray], limit: float) -> dict[str, list]:
    """Bins of equal width in the ratio, from -limit to limit: mean ratio, genuine and impostor pairs of each."""
    found = np.zeros((3, NUM_RELIABILITY_BINS))
    for ratio, count in zip(ratios, counts, strict=True):
        bins = np.clip(((ratio + limit) / (2 * limit) * NUM_RELIABILITY_BINS).astype(int), 0, NUM_RELIABILITY_BINS - 1)
        for row, values in enumerate((count.sum(axis=0) * ratio, count[0], count[1])):
            found[row] += np.bincount(bins, values, NUM_RELIABILITY_BINS)
    sums, genuine, impostor = found[:, found[1] + found[2] > 0]
    return {
        "ratio": (sums / (genuine + impostor)).tolist(),
        "genuine": genuine.astype(int).tolist(),
        "impostor": impostor.astype(int).tolist(),
    }
