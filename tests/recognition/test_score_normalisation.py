"""AS-norm: the score is the one of the formula, and the threshold of normalised scores is passed as often as asked."""

import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.recognition.score_normalisation import NormalisedSearch, cohort_statistics, normalised
from tests.recognition.test_open_set import people


def formula(a, b, cohort, top):
    """The score of two vectors, term by term."""
    score = 0.0
    for one in (a, b):
        closest = sorted((float(one @ other) for other in cohort), reverse=True)[:top]
        score += (float(a @ b) - np.mean(closest)) / np.std(closest) / 2
    return score


def test_the_score_is_that_of_the_formula_and_the_same_both_ways():
    cohort, a, b = people(0, 30), people(1, 4), people(2, 3)
    of_a, of_b = (cohort_statistics(rows, cohort, 7) for rows in (a, b))

    found = normalised(a @ b.T, of_a, of_b)

    expected = [[formula(one, other, cohort, 7) for other in b] for one in a]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(normalised(b @ a.T, of_b, of_a), found.T)


def test_a_search_orders_by_score_and_as_many_strangers_pass_as_were_asked_for():
    cohort, gallery = people(0, 300).astype(np.float16), people(1, 600).astype(np.float16)
    search = NormalisedSearch(gallery, cohort, 0.1)

    found = search(people(2, 1)[0].astype(np.float32), 5)

    scores = [formula(people(2, 1)[0], row.astype(float), cohort.astype(float), 200) for row in gallery]
    np.testing.assert_array_equal(found.rows, np.argsort(scores)[::-1][:5])
    np.testing.assert_allclose(found.scores, np.sort(scores)[::-1][:5], rtol=1e-3)
    seen = [search(one, 1).is_within[0] for one in people(3, 400).astype(np.float32)]
    assert np.mean(seen) == pytest.approx(0.1, abs=0.05)
    assert search(gallery[7].astype(np.float32), 1).rows[0] == 7
    assert "normalised scores for FPIR 0.1 among 600 people" in str(search) and "cohort of 300 people" in str(search)


@pytest.mark.parametrize(
    ("size", "cohort", "match"),
    [
        (50, people(0, 199), "at least 200 people"),
        (50, np.tile(people(0, 1), (200, 1)), "must differ"),
        (19, people(0, 200), "needs a gallery of 20 people"),
    ],
)
def test_a_cohort_or_a_gallery_that_is_too_small_is_one_line(size, cohort, match):
    with pytest.raises(FaceError, match=match) as caught:
        NormalisedSearch(people(1, size), cohort, 0.5)

    assert "\n" not in str(caught.value)
