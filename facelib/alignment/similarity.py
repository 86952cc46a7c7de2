"""Similarity transforms: the rotation, scale and shift between two sets of points, and squares cut out of photos by it.

The transform has 4 degrees of freedom and leaves the least squared distance between the sets: Umeyama, Least-squares
estimation of transformation parameters between two point patterns, IEEE PAMI 13(4), 1991. Pure functions of arrays.
"""

import cv2
import numpy as np


def similarity_transform(points: np.ndarray, template: np.ndarray) -> np.ndarray:
    """The similarity that brings `points` nearest to `template`, for `cv2.warpAffine`.

    Args:
        points: float [N, 2], (x, y) in pixels, N >= 2, not all at one place.
        template: float [N, 2], (x, y) in pixels.

    Returns:
        float64 [2, 3].

    Raises:
        ValueError: the points are not finite, or all at one place.
    """
    points, template = np.asarray(points, np.float64), np.asarray(template, np.float64)
    centre, target = points.mean(axis=0), template.mean(axis=0)
    x, y = (points - centre).T
    u, v = (template - target).T
    spread = float(np.sum(x * x + y * y))
    if not np.isfinite(spread) or spread < 1e-12:
        raise ValueError(f"Points are finite and apart. Received: points={points.tolist()}")
    # As complex numbers the rotation and scale are one factor a + bi, and least squares has a closed form. It never
    # mirrors, which is what Umeyama's sign matrix is for.
    a, b = float(np.sum(x * u + y * v)) / spread, float(np.sum(x * v - y * u)) / spread
    rotation = np.array([[a, -b], [b, a]])
    return np.column_stack([rotation, target - rotation @ centre])


def apply_inverse(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The points that `transform` takes to `points`.

    Args:
        transform: float [2, 3], of `similarity_transform`.
        points: float [N, 2], (x, y) in pixels.

    Returns:
        float [N, 2], (x, y) in pixels.
    """
    return (points - transform[:, 2]) @ np.linalg.inv(transform[:, :2]).T


def cut_square(photo: np.ndarray, points: np.ndarray, template: np.ndarray, side: int) -> np.ndarray:
    """The part of a photo in which `points` are nearest to `template`. It is black outside the photo.

    If this part is more than twice as large in the photo, the photo is first reduced by a whole factor, by area.

    Args:
        photo: uint8 [H, W, 3].
        points: float [N, 2], (x, y) in pixels of the photo.
        template: float [N, 2], (x, y) in pixels of the result.
        side: of the result, in pixels.

    Returns:
        uint8 [side, side, 3].
    """
    transform = similarity_transform(points, template)
    times = int(1.0 / np.hypot(transform[0, 0], transform[1, 0]))
    if times > 1:  # warpAffine reads four pixels a point: a large face would alias
        full = np.array(photo.shape[1::-1])
        reduced = np.maximum(1, np.round(full / times)).astype(int)
        photo = cv2.resize(photo, reduced.tolist(), interpolation=cv2.INTER_AREA)
        transform = similarity_transform((np.asarray(points) + 0.5) * (reduced / full) - 0.5, template)
    return cv2.warpAffine(photo, transform, (side, side), flags=cv2.INTER_LINEAR, borderValue=0)
