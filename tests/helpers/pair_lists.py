"""Lists of pairs with their distances, drawn from a seed or by hypothesis."""

import numpy as np
from hypothesis import strategies as st


def draw_pairs(seed: int, num_pairs: int, num_levels: int | None = None):
    """Genuine pairs a little closer; with `num_levels`, distances that repeat, as int8 models give them."""
    random = np.random.default_rng(seed)
    is_same = random.random(num_pairs) < 0.5
    is_same[:2] = [True, False]
    distances = random.normal(1.5 - 0.5 * is_same, 0.3)
    return (np.round(distances * num_levels) / num_levels if num_levels else distances), is_same


CASES = [(0, 500, None), (1, 500, 10), (2, 37, 3), (3, 5000, 100)]
pair_lists = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=4, max_size=60).filter(
    lambda pairs: 0 < sum(same for _, same in pairs) < len(pairs)
)


def as_arrays(pairs):
    return np.array([d for d, _ in pairs], float), np.array([same for _, same in pairs])
