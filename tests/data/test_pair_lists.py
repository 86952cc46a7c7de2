"""Verification pairs: balanced, unrepeated, fold-disjoint, seeded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelib.data.verification.pair_lists import sample_pairs
from facelib.errors import FaceError


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=20, max_size=60),
    folds=st.integers(1, 5),
    per_fold=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_pairs_are_balanced_unrepeated_and_fold_disjoint_or_refused(sizes, folds, per_fold, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 7, sizes))
    num_pairs = 2 * folds * per_fold
    try:
        idx, is_same = sample_pairs(labels, num_pairs, seed, folds)
    except FaceError as error:
        assert "Use at most" in str(error) or "Add identities" in str(error)
        return

    pairs = idx.reshape(-1, 2)

    assert idx.dtype == np.int64 and is_same.dtype == bool and len(is_same) == num_pairs
    assert np.array_equal(labels[pairs[:, 0]] == labels[pairs[:, 1]], is_same)
    assert len({frozenset(pair) for pair in pairs.tolist()}) == num_pairs
    assert (pairs[:, 0] != pairs[:, 1]).all()
    blocks = [set(labels[block].tolist()) for block in np.split(idx, folds)]
    assert sum(map(len, blocks)) == len(set.union(*blocks)), "an identity stands in two folds"
    assert (np.array([block.sum() for block in np.split(is_same, folds)]) == per_fold).all()


def test_the_named_limit_is_reachable_and_the_next_step_is_not():
    labels = np.repeat(np.arange(8), 3)  # two folds of 4 identities: 12 genuine pairs each

    sample_pairs(labels, 48, seed=1, folds=2)
    with pytest.raises(FaceError, match="at most 48 pairs"):
        sample_pairs(labels, 52, seed=1, folds=2)


def test_genuine_pairs_are_spread_over_identities_not_drawn_from_the_largest():
    labels = np.array([0] * 300 + [i for i in range(1, 11) for _ in range(5)])

    idx, is_same = sample_pairs(labels, 2 * 22, seed=0, folds=1)

    _, counts = np.unique(labels[idx.reshape(-1, 2)[is_same, 0]], return_counts=True)
    assert counts.tolist() == [2] * 11


def test_pairs_depend_on_the_seed_and_on_nothing_else():
    labels = np.repeat(np.arange(40), 6)

    first, again, other = (sample_pairs(labels, 200, seed) for seed in (3, 3, 4))

    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("num_pairs", [0, -20, 30])
def test_an_uneven_number_of_pairs_is_refused_with_a_number_that_works(num_pairs):
    with pytest.raises(FaceError, match=r"multiple of 20.*Use (20|40)\."):
        sample_pairs(np.repeat(np.arange(40), 6), num_pairs, seed=0)


def test_no_image_and_single_images_are_refused():
    for labels in (np.zeros(0, int), np.arange(100)):
        with pytest.raises(FaceError, match="Add identities"):
            sample_pairs(labels, 20, seed=0)
