"""Variants of a face for identities with few images: morphological opening, Gaussian noise, salt and pepper.

The rule is that of AIWintermuteAI/MobileFaceNet-Keras-K210, which gives the opening's 5x5 and no other number: the
strengths of the noise are ours, visible beside JPEG's own noise but with every feature still legible.
"""

from collections.abc import Callable

import cv2
import numpy as np

OPENING_SIZE = 5  # pixels, side of the square
GAUSSIAN_SIGMA = 10.0  # grey levels of 255
PEPPER_SHARE = 0.02  # of the pixels; half of them white, half black


def opening(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Erosion, then dilation by a square; what lies outside of the image has no say. `rng` is not used."""
    return cv2.morphologyEx(pixels, cv2.MORPH_OPEN, np.ones((OPENING_SIZE, OPENING_SIZE), np.uint8))


def gaussian(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds noise of `GAUSSIAN_SIGMA`, independent in each pixel and channel; rounded, clipped to 0..255."""
    noise = rng.standard_normal(pixels.shape, np.float32) * GAUSSIAN_SIGMA
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def pepper(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Makes each pixel white or black (all channels alike) with chance `PEPPER_SHARE`."""
    chance = rng.random(pixels.shape[:2], np.float32)
    noisy = pixels.copy()
    noisy[chance < PEPPER_SHARE] = 0
    noisy[chance < PEPPER_SHARE / 2] = 255
    return noisy


# uint8 [H, W, 3], generator -> uint8 [H, W, 3]; the argument is left as it is. The order is part of every seed.
VARIANTS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "opening": opening,
    "gaussian": gaussian,
    "pepper": pepper,
}
