"""tools/make_face_points.py: the five points are means of landmarks, and another mesh is refused."""

import make_face_points
import numpy as np
import pytest

from facelib.errors import FaceError


def test_a_layer_of_mean_rows_gives_the_means_of_the_landmarks():
    random = np.random.default_rng(0)
    rows, features = random.normal(size=(1404, 7)), random.normal(size=7)
    landmarks = (rows @ features).reshape(468, 3)

    points = (make_face_points.mean_rows(rows) @ features).reshape(5, 2)

    assert [len(group) for group in make_face_points.GROUPS] == [16, 16, 3, 2, 2]
    for point, group in zip(points, make_face_points.GROUPS, strict=True):
        np.testing.assert_allclose(point, sum(landmarks[k, :2] for k in group) / len(group))


@pytest.mark.parametrize("content", [b"too short", b"another mesh" * 400_000])
def test_another_mesh_is_refused(tmp_path, content):
    (tmp_path / "assets.data").write_bytes(content)

    with pytest.raises(
        FaceError, match=r"assets\.data' holds a different mesh or no mesh: download the right one with npm pack"
    ):
        make_face_points.main([str(tmp_path / "assets.data"), str(tmp_path / "OUT.tflite")])

    assert not (tmp_path / "OUT.tflite").exists()
