"""Two models on the same pairs: how much one lost, and whether the pairs are enough to tell.

Only the pairs count on which the two differ. A pair of the first kind the reference got right and the model wrong; of
the second kind it is the other way round.
"""

import base64
import binascii
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from facelib.evaluation.metrics import Z95, resample_weights

SIGNIFICANT = 0.05
_MOST_PAIRS = 1e9  # more are not worth naming
_STEPS = 60  # of a bisection


class Loss(NamedTuple):
    """What a model lost against its reference on the same pairs; shares of all pairs.

    Attributes:
        lost: share of pairs of the first kind less that of the second.
        low: lower end of the 95 % interval of `lost`.
        high: upper end.
        worse: number of pairs of the first kind.
        better: number of pairs of the second kind.
        num_pairs: number of all pairs.
        design: variance of the clusters' resampling over that of independent pairs, at least 1.
        is_listed: whether the shares are of listed pairs, so that McNemar's test decides about chance.
        unit: what `num_pairs` counts.
    """

    lost: float
    low: float
    high: float
    worse: int
    better: int
    num_pairs: int
    design: float = 1.0
    is_listed: bool = False
    unit: str = "pairs"

    @property
    def is_significant(self) -> bool:
        """Whether a loss so large is hardly due to chance: by McNemar's exact test, or by the interval."""
        return self.p_value < SIGNIFICANT if self.is_listed else self.low > 0

    @property
    def p_value(self) -> float:
        """Of McNemar's exact test: the chance that two equally good models differ so much; see `mcnemar`."""
        return mcnemar(self.worse, self.better)

    def needs(self, allowed: float) -> int | None:
        """About how many pairs tell whether the loss is at most `allowed`, if the rates stay; None for no number."""

        def tells(times: float) -> bool:
            counts = (self.worse * times, self.better * times, self.num_pairs * times)
            if self.lost <= allowed:
                return score_interval(*counts)[1] <= allowed
            return score_interval(*counts)[0] > 0

        most, is_counted = _MOST_PAIRS / self.num_pairs, (self.worse - self.better) / self.num_pairs == self.lost
        if not is_counted or most <= 1 or not tells(most):
            return None
        times = math.exp(_bisect(lambda x: tells(math.exp(x)), 0.0, math.log(most)))
        return math.ceil(self.num_pairs * self.design * times)


def paired_loss(before: np.ndarray, after: np.ndarray, clusters: np.ndarray) -> Loss:
    """The loss with its interval: the wider end of the score interval and of a bootstrap over clusters.

    A bootstrap of models that never differ has no width; the score interval has. Pairs of one cluster share people.

    Args:
        before: bool [N], whether the reference decides each pair rightly.
        after: bool [N], whether the model does.
        clusters: int [K], how many pairs each cluster has, in the order of the pairs; they sum to N.
    """
    ends = np.cumsum(clusters)
    worse, better = (_per_cluster(kind, ends) for kind in (before & ~after, after & ~before))
    b, c, n = int(worse.sum()), int(better.sum()), len(before)
    low, high = score_interval(b, c, n)
    design = 1.0
    if len(clusters) > 1:
        weights = resample_weights(len(clusters))
        drawn = weights @ np.asarray(clusters, np.float64)
        losses = (weights @ (worse - better).astype(np.float64))[drawn > 0] / drawn[drawn > 0]
        ends_of_losses = np.quantile(losses, [0.025, 0.975]).tolist()
        design = max(1.0, ((ends_of_losses[1] - ends_of_losses[0]) / (high - low)) ** 2)
        low, high = min(low, ends_of_losses[0]), max(high, ends_of_losses[1])
    return Loss((b - c) / n, low, high, b, c, n, design)


def fold_loss(new: list[float] | None, old: list[float] | None, genuine: int | None) -> Loss | None:
    """The loss of a balanced accuracy, by a bootstrap over its folds; None if a report does not have the folds.

    The interval is at least as wide as genuine pairs of which none differs would give it.

    Args:
        new: accuracy of each fold.
        old: the same of the reference.
        genuine: number of genuine pairs.
    """
    if not new or not old or not genuine or len(new) != len(old) or len(new) < 2:
        return None
    losses = np.array(old) - np.array(new)
    drawn = resample_weights(len(losses)) @ losses / len(losses)
    lost, half = float(losses.mean()), score_interval(0, 0, genuine)[1] / 2  # a half of the balance
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return Loss(lost, min(low, lost - half), max(high, lost + half), 0, 0, genuine, unit="genuine pairs")


def _per_cluster(kind: np.ndarray, ends: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0], np.cumsum(kind)])
    return np.diff(total[np.concatenate([[0], ends])])


def mcnemar(worse: int, better: int) -> float:
    """Two-sided p-value of McNemar's exact test (1947): whether `worse` of all differing pairs is one half.

    Equal to `scipy.stats.binomtest(worse, worse + better).pvalue`, which a board need not have.
    """
    n, few = worse + better, min(worse, better)
    if n == 0:
        return 1.0
    ranks = np.arange(1, few + 1)
    log_combinations = np.concatenate([[0.0], np.cumsum(np.log((n - ranks + 1) / ranks))])
    return min(1.0, 2 * float(np.exp(log_combinations - n * math.log(2)).sum()))


def score_interval(worse: float, better: float, num_pairs: float) -> tuple[float, float]:
    """95 % interval of (worse - better) / num_pairs: Tango 1998, Statistics in Medicine 17:891, equations 9 to 11.

    It has a width also where the two never differ: +- z^2 / (n + z^2).
    """
    difference = (worse - better) / num_pairs

    def statistic(loss: float) -> float:
        """Tango's score statistic of a true loss; it falls as the loss rises."""
        a = 2 * num_pairs
        b = -worse - better + (2 * num_pairs - worse + better) * loss
        c = -better * loss * (1 - loss)
        rate = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = num_pairs * (2 * rate + loss * (1 - loss))
        distance = worse - better - num_pairs * loss
        return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)

    low = _bisect(lambda loss: statistic(loss) <= Z95, -1.0, difference)
    high = _bisect(lambda loss: statistic(loss) < -Z95, difference, 1.0)
    return low, high


def _bisect(is_beyond: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition that is false at `low` becomes true."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_beyond(middle) else (middle, high)
    return high


def pack_bits(bits: np.ndarray) -> str:
    """bool [N] -> base64 of a bit each, the first one highest."""
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def unpack_bits(text: str, count: int) -> np.ndarray | None:
    """bool [count] of `pack_bits`; None if the text is not that."""
    try:
        data = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except (binascii.Error, ValueError):
        return None
    return np.unpackbits(data, count=count).astype(bool) if len(data) == -(-count // 8) else None
