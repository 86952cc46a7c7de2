"""The similarity transform is Umeyama's, and its inverse takes points back."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from facelib.alignment.similarity import apply_inverse, cut_square, similarity_transform
from facelib.model_input import TEMPLATE_112
from tests.helpers.placed_faces import moved, placed

TEMPLATE = np.array(TEMPLATE_112)
coordinates = st.floats(-500, 500, width=32)
five_points = st.lists(st.tuples(coordinates, coordinates), min_size=5, max_size=5).map(np.array)


def umeyama(points, template):
    """Umeyama 1991, eq. 40 to 42, as it stands there: covariance, SVD, a sign against mirroring, scale, shift."""
    mean_from, mean_to = points.mean(axis=0), template.mean(axis=0)
    covariance = (template - mean_to).T @ (points - mean_from) / len(points)
    u, d, vt = np.linalg.svd(covariance)
    sign = np.diag([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ sign @ vt
    scale = np.trace(np.diag(d) @ sign) / points.var(axis=0).sum()
    return np.column_stack([scale * rotation, mean_to - scale * rotation @ mean_from])


@given(five_points)
def test_the_transform_is_umeyamas(points):
    centred = points - points.mean(axis=0)
    assume(np.linalg.svd(centred)[1][1] > 1.0)  # on a line the sign of the SVD is a matter of taste
    covariance = centred.T @ (TEMPLATE - TEMPLATE.mean(axis=0))
    assume(abs(np.linalg.det(covariance)) > 1.0)

    found, expected = similarity_transform(points, TEMPLATE), umeyama(points, TEMPLATE)

    assert found.dtype == np.float64 and found.shape == (2, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)


@given(st.floats(-180, 180), st.floats(0.05, 20), coordinates, coordinates)
def test_points_that_are_the_template_moved_are_moved_back(degrees, scale, x, y):
    there = placed(degrees, scale, x, y)

    found = similarity_transform(moved(there, TEMPLATE), TEMPLATE)

    np.testing.assert_allclose(moved(found, moved(there, TEMPLATE)), TEMPLATE, atol=1e-6)


def test_mirrored_points_are_not_mirrored_back():
    found = similarity_transform(TEMPLATE * (-1, 1), TEMPLATE)

    assert np.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize("points", [np.full((5, 2), 7.0), np.where(np.eye(5, 2) > 0, np.nan, TEMPLATE)])
def test_points_at_one_place_or_not_finite_are_refused(points):
    with pytest.raises(ValueError, match="finite and apart"):
        similarity_transform(points, TEMPLATE)


@given(st.floats(-180, 180), st.floats(0.05, 20), coordinates, coordinates)
def test_the_inverse_takes_points_back(degrees, scale, x, y):
    there = placed(degrees, scale, x, y)

    np.testing.assert_allclose(apply_inverse(there, moved(there, TEMPLATE)), TEMPLATE, atol=1e-6)


def test_a_square_is_cut_out_where_the_points_are():
    photo = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    corners = np.array([[0, 0], [15, 0], [0, 15]])

    np.testing.assert_array_equal(cut_square(photo, np.add(corners, (30, 20)), corners, 16), photo[20:36, 30:46])
