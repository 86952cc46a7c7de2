"""RandAugment: random operations of one strength. Cubuk et al., https://arxiv.org/abs/1909.13719.

The strength is 0 to 30, as in the paper; at 30 the ranges are those of its table. The direction of a rotation, a shear
or a shift is random.
"""

import cv2
import numpy as np

from facelib.data.sampling import Draws


def rand_augment(image: np.ndarray, draws: Draws, count: int, magnitude: int) -> np.ndarray:
    """Applies random operations, one after another.

    Args:
        image: uint8 [H, W, 3], RGB; it is not changed.
        draws: the random numbers of this image.
        count: number of operations.
        magnitude: their strength, 0 to 30.

    Returns:
        uint8 [H, W, 3], RGB.
    """
    for _ in range(count):
        operation = OPERATIONS[draws.integer(0, len(OPERATIONS) - 1)]
        sign = 1 if draws.uniform() < 0.5 else -1
        image = operation(image, magnitude / 30, sign)
    return image


def _identity(image, strength, sign):
    return image


def _autocontrast(image, strength, sign):
    low, high = image.min((0, 1)).astype(np.float32), image.max((0, 1)).astype(np.float32)
    scale = 255 / np.maximum(high - low, 1)
    return np.clip((image - low) * scale, 0, 255).astype(np.uint8)


def _equalize(image, strength, sign):
    return cv2.merge([cv2.equalizeHist(np.ascontiguousarray(image[..., c])) for c in range(3)])


def _rotate(image, strength, sign):
    height, width = image.shape[:2]
    return _warp(image, cv2.getRotationMatrix2D((width / 2, height / 2), sign * 30 * strength, 1.0))


def _solarize(image, strength, sign):
    return np.where(image < 256 * (1 - strength), image, 255 - image)


def _posterize(image, strength, sign):
    dropped = round(4 * strength)
    return image >> dropped << dropped


def _contrast(image, strength, sign):
    mean = float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean())
    return _blend(np.full_like(image, round(mean)), image, sign * strength)


def _brightness(image, strength, sign):
    return _blend(np.zeros_like(image), image, sign * strength)


def _color(image, strength, sign):
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return _blend(gray, image, sign * strength)


def _sharpness(image, strength, sign):
    return _blend(cv2.GaussianBlur(image, (3, 3), 0), image, sign * strength)


def _shear_x(image, strength, sign):
    share = sign * 0.3 * strength
    return _warp(image, np.array([[1, share, -share * image.shape[0] / 2], [0, 1, 0]], np.float32))


def _shear_y(image, strength, sign):
    share = sign * 0.3 * strength
    return _warp(image, np.array([[1, 0, 0], [share, 1, -share * image.shape[1] / 2]], np.float32))


def _move_x(image, strength, sign):
    return _warp(image, np.array([[1, 0, sign * 0.3 * strength * image.shape[1]], [0, 1, 0]], np.float32))


def _move_y(image, strength, sign):
    return _warp(image, np.array([[1, 0, 0], [0, 1, sign * 0.3 * strength * image.shape[0]]], np.float32))


def _warp(image, matrix):
    height, width = image.shape[:2]
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_CONSTANT, borderValue=(128, 128, 128))


def _blend(degenerate, image, change):
    """Moves `image` away from `degenerate`, by 0.9 * change; towards it when change is negative."""
    factor = 1 + 0.9 * change
    return cv2.addWeighted(image, factor, degenerate, 1 - factor, 0)


OPERATIONS = (
    _identity, _autocontrast, _equalize, _rotate, _solarize, _posterize, _contrast, _brightness, _color, _sharpness,
    _shear_x, _shear_y, _move_x, _move_y,
)  # fmt: skip
