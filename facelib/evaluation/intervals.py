"""95 % intervals of measured rates."""

import math
from functools import lru_cache

import numpy as np

Z95 = 1.959963984540054  # normal quantile
NUM_RESAMPLES = 2000
_SEED = 0x1A7E


def wilson_interval(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927), as fractions: sane also at 0 and 1. `z`: normal quantile."""
    if trials == 0:
        return 0.0, 1.0
    rate, spread = successes / trials, z * z / trials
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def cluster_interval(successes: np.ndarray, trials: np.ndarray) -> tuple[float, float]:
    """95 % interval of `sum(successes) / sum(trials)` where the trials of one cluster hang together.

    Pairs of one fold share people, pairs of one identity share a face, so they are not independent. Clusters are
    drawn with replacement (percentile bootstrap, Efron & Tibshirani 1993, chapter 13; always the same draws), and the
    wider end of that and of Wilson's interval is taken: a bootstrap of a rate of 1 in every cluster has no width.

    Args:
        successes, trials: int [K], of each cluster.
    """
    successes, trials = np.asarray(successes, np.float64), np.asarray(trials, np.float64)
    low, high = wilson_interval(successes.sum(), trials.sum())
    if len(trials) < 2:
        return low, high
    weights = _resample_weights(len(trials))
    drawn = weights @ trials
    rates = (weights @ successes)[drawn > 0] / drawn[drawn > 0]
    return min(low, float(np.quantile(rates, 0.025))), max(high, float(np.quantile(rates, 0.975)))


@lru_cache(maxsize=2)
def _resample_weights(num_clusters: int) -> np.ndarray:
    """How often each cluster is drawn in each resample: float64 [NUM_RESAMPLES, num_clusters], always the same."""
    rng = np.random.default_rng([_SEED, num_clusters])
    return rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), NUM_RESAMPLES).astype(np.float64)
