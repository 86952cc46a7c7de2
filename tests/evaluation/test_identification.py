"""Open-set identification against answers by hand, against brute force written from the definitions, and symmetries."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from facelib.errors import FaceError
from facelib.evaluation import nearest
from facelib.evaluation.identification import identify, split_open_set

# Unit vectors whose cosines are multiples of 1/4: float32 adds them exactly in any order, and ties are common.
CORNERS = [[a, b, c, d] for a in (1, -1) for b in (1, -1) for c in (1, -1) for d in (1, -1)]
EXACT = np.array([*CORNERS, *np.eye(4) * 3, *-np.eye(4)], np.float32)
faces = st.lists(st.tuples(st.integers(0, len(EXACT) - 1), st.integers(0, 6)), min_size=1, max_size=25)
RATES = st.lists(st.sampled_from([0.05, 0.1, 0.25, 0.29, 0.5, 1.0]), min_size=1, max_size=3, unique=True)


def as_arrays(drawn):
    return EXACT[[vector for vector, _ in drawn]], np.array([who for _, who in drawn])


def at(degrees):
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def test_a_search_by_hand():
    gallery = np.array([at(0), at(90), at(180)])  # Ann, Ben, Cem
    # Mated: Ann at 10 (right, 10 away), Ann at 50 (Ben is nearer: 40 against 50), Cem at 150 (right, 30 away),
    # Ben at 200 (Cem 20 and Ben 110 away: rank 2), Ben at 310 (Ann 50, Cem 130, Ben 140 away: rank 3).
    # Unmated, with the nearest of the gallery: 25 (Ann, 25), 140 (Cem, 40), 300 (Ann, 60), 250 (Cem, 70).
    probes = np.array([at(a) for a in (10, 50, 150, 200, 310, 25, 140, 300, 250)])
    ids = np.array([1, 1, 3, 2, 2, 8, 8, 9, 9])

    found = identify(gallery, np.array([1, 2, 3]), probes, ids, ranks=(1, 2, 3), fpirs=(0.25, 0.5, 0.1))

    assert (found.gallery, found.mated, found.unmated) == (3, 5, 4)
    assert found.rank == {1: 2 / 5, 2: 4 / 5, 3: 1.0}
    # FPIR 1/4 lets one unmated probe pass, that at 25 degrees. The next one is at 40, so the threshold is the largest
    # observed angle below that: 30 (Cem's). Hits: 10 and 30 degrees, two of five.
    quarter, half, tenth = found.fnir
    assert quarter.fnir == pytest.approx(3 / 5) and quarter.fpir == 0.25
    assert quarter.threshold == pytest.approx(2 - 2 * math.cos(math.radians(30)), abs=1e-6)
    # FPIR 1/2 lets 25 and 40 pass; the next is at 60. Ann at 50 is within, but Ben is nearer: still two hits.
    assert half.fnir == pytest.approx(3 / 5) and half.fpir == 0.5
    assert half.threshold == pytest.approx(2 - 2 * math.cos(math.radians(50)), abs=1e-6)
    assert (tenth.fnir, tenth.ci95, tenth.threshold, tenth.needs_unmated) == (None, None, None, 10)


def brute_force(gallery, gallery_ids, probes, probe_ids, ranks, fpirs):
    """Word by word from the head of identification.py, in Python loops and float64."""
    gallery = gallery / np.linalg.norm(gallery.astype(np.float64), axis=1, keepdims=True)
    probes = probes / np.linalg.norm(probes.astype(np.float64), axis=1, keepdims=True)
    table = [  # for each probe {identity: best score}
        {who: max(float(row @ p) for row, i in zip(gallery, gallery_ids, strict=True) if i == who)
         for who in set(gallery_ids.tolist())} for p in probes
    ]  # fmt: skip
    mated = [(scores, who) for scores, who in zip(table, probe_ids.tolist(), strict=True) if who in scores]
    unmated = [max(scores.values()) for scores, who in zip(table, probe_ids.tolist(), strict=True) if who not in scores]
    place = [sum(s >= scores[who] for i, s in scores.items() if i != who) for scores, who in mated]
    rank = {k: np.mean([p < k for p in place]) if mated else None for k in ranks}
    fnir = {}
    for fpir in fpirs:
        if not mated or not unmated or 1 / len(unmated) > fpir:
            fnir[fpir] = None
            continue
        candidates = [math.inf, *unmated, *(scores[who] for scores, who in mated)]
        allowed = min(t for t in candidates if sum(s >= t for s in unmated) / len(unmated) <= fpir)
        hits = sum(p == 0 and scores[who] >= allowed for p, (scores, who) in zip(place, mated, strict=True))
        fnir[fpir] = 1 - hits / len(mated), sum(s >= allowed for s in unmated) / len(unmated), allowed
    return len(mated), len(unmated), rank, fnir


@given(faces, faces, RATES, st.integers(1, 5))
@settings(deadline=None, max_examples=100)
def test_identify_is_its_definition_whatever_the_blocks(drawn, searched, fpirs, rows):
    arguments = (*as_arrays(drawn), *as_arrays(searched))
    ranks = (1, 2, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "BLOCK_ROWS", rows)

        found = identify(*arguments, ranks=ranks, fpirs=fpirs)

    mated, unmated, rank, fnir = brute_force(*arguments, ranks, fpirs)
    assert (found.mated, found.unmated, found.rank) == (mated, unmated, rank)
    for point in found.fnir:
        expected = fnir[point.fpir_target]
        assert (point.fnir is None) == (expected is None)
        if expected is not None:
            assert (point.fnir, point.fpir) == pytest.approx(expected[:2], abs=1e-12)
            assert point.threshold == pytest.approx(2 - 2 * expected[2], abs=1e-6)  # -inf for 'accept nobody'


@given(faces, faces, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_nothing_depends_on_the_order_of_gallery_or_probes(drawn, searched, random):
    shuffled = [random.sample(faces, len(faces)) for faces in (drawn, searched)]

    first = identify(*as_arrays(drawn), *as_arrays(searched)).as_dict()
    again = identify(*as_arrays(shuffled[0]), *as_arrays(shuffled[1])).as_dict()

    assert first == again


def test_one_point_for_all_faces_identifies_nobody():
    same = np.ones((6, 4), np.float32)

    found = identify(same[:3], np.arange(3), same, np.arange(6), fpirs=(1.0,))

    assert found.rank == {1: 0.0, 5: 1.0}  # a gallery of three has no fifth place to miss
    assert found.fnir[0].fnir == 1.0


def test_a_gallery_with_several_images_of_a_person_counts_the_best_of_them():
    gallery = np.array([at(0), at(80), at(40)])  # Ann twice, Ben between
    probe = np.array([at(75)])

    found = identify(gallery, np.array([1, 1, 2]), probe, np.array([1]))

    assert found.gallery == 2 and found.rank[1] == 1.0


def test_intervals_are_wilsons_and_the_report_is_json():
    random = np.random.default_rng(0)
    centres = random.normal(size=(40, 16))
    ids = np.arange(200) % 60
    probes = np.concatenate([centres, random.normal(size=(20, 16))])[ids] + random.normal(size=(200, 16))

    found = identify(centres, np.arange(40), probes, ids, fpirs=(0.1, 0.001)).as_dict()

    mated = found["mated"]
    assert (found["gallery"], mated, found["unmated"]) == (40, 140, 60)
    for rate, ci95 in ((found["rank"]["1"], found["rank_ci95"]["1"]), (found["fnir"]["0.1"]["fnir"],
                       found["fnir"]["0.1"]["ci95"])):  # fmt: skip
        expected = binomtest(round(rate * mated), mated).proportion_ci(method="wilson")
        assert 0 < rate < 1 and ci95 == pytest.approx([expected.low, expected.high], abs=1e-9)
    assert found["fnir"]["0.001"] == {
        "fnir": None, "ci95": None, "fpir": None, "threshold": None, "needs_unmated": 1000
    }  # fmt: skip


@pytest.mark.parametrize("mated, unmated", [(0, 5), (5, 0)])
def test_without_one_kind_of_probe_there_is_no_number(mated, unmated):
    gallery = np.eye(3)
    probes = np.tile(np.eye(3)[:1], (5, 1))

    found = identify(gallery, np.arange(3), probes, np.array([0] * mated + [7] * unmated))

    assert (found.mated, found.unmated) == (mated, unmated)
    assert (found.rank[1] is None) == (mated == 0)
    assert all(point.fnir is None for point in found.fnir)


def test_a_search_holds_blocks_not_the_table_of_all_scores():
    random = np.random.default_rng(0)
    gallery = random.normal(size=(60_000, 8)).astype(np.float32)
    probes = random.normal(size=(2_000, 8)).astype(np.float32)

    tracemalloc.start()
    identify(gallery, np.arange(60_000), probes, np.arange(2_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 60e6, f"{peak / 1e6:.0f} MB; the whole table takes 480"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"gallery": np.zeros((0, 2))}, "at least one embedding"),
        ({"probe_ids": np.arange(3)}, r"\[2, 2\] embeddings, \[3\] identities"),
        ({"probes": np.ones((2, 3))}, "of 2 and of 3 values"),
        ({"probes": np.array([[1, 0], [np.nan, 1]])}, "a non-finite embedding for row 1 of the probes"),
        ({"gallery": np.array([[0, 0], [1, 0]])}, "a zero embedding for row 0 of the gallery"),
        ({"ranks": (0,)}, "must be 1 or greater"),
        ({"fpirs": (0.0,)}, "FPIR must be above 0"),
    ],
)
def test_what_cannot_be_searched_is_refused(change, words):
    fits = {"gallery": np.eye(2), "gallery_ids": np.arange(2), "probes": np.eye(2), "probe_ids": np.array([0, 5])}

    with pytest.raises(FaceError, match=words):
        identify(**(fits | change))


# --------------------------------------------------------------------------------------------------- split_open_set


@given(st.lists(st.integers(1, 6), min_size=1, max_size=30), st.integers(0, 2**32))
@settings(deadline=None)
def test_a_split_enrols_half_of_those_with_two_images(sizes, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 3 - 5, sizes))
    num_several = sum(size >= 2 for size in sizes)
    if not num_several:
        with pytest.raises(FaceError, match="add images"):
            split_open_set(labels, seed)
        return

    gallery, probes = split_open_set(labels, seed)

    assert sorted([*gallery.tolist(), *probes.tolist()]) == list(range(len(labels)))
    assert len(gallery) == math.ceil(num_several / 2) == len(set(labels[gallery].tolist()))
    assert set(labels[gallery].tolist()) <= set(labels[probes].tolist()), "one without a mated probe is enrolled"


def test_a_split_depends_on_the_seed_and_draws_identities_and_images_evenly():
    labels = np.repeat(np.arange(10), 4)

    splits = [split_open_set(labels, seed)[0] for seed in range(400)]

    np.testing.assert_array_equal(splits[7], split_open_set(labels, 7)[0])
    counts = np.bincount(np.concatenate(splits), minlength=40)  # each image: chance 1/2 x 1/4, 50 of 400, sigma 6.6
    assert counts.min() > 20 and counts.max() < 85
