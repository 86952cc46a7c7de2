"""Augmentation of one face: a pure function of (image, key), so a resumed training sees the same images.

`AugmentConfig` is a recipe's [data.augment] table; docs/augmentation.md shows the operations in pictures. Order:
mirroring, crop, colours, the damage of a bad camera or codec, then what hides a part of the face.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np

from facelib.data.rand_augment import rand_augment
from facelib.data.sampling import Draws

GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601 luma of R, G, B
# Outline of a mask on the 112x112 template, pixels (x, y): nose bridge, cheeks, chin. The eyes lie at y = 52.
MASK_OUTLINE = np.array([[56, 62], [78, 70], [84, 88], [72, 106], [56, 111], [40, 106], [28, 88], [34, 70]], np.float32)
MASK_COLOURS = ((120, 170, 200), (235, 235, 235), (30, 30, 35), (150, 190, 160))  # RGB: surgical, white, black, green


PRESETS = {
    "none": {},
    "face_safe": {"crop": 0.04, "color": 0.15, "gray": 0.01, "downsample": 0.05, "blur": 0.02, "jpeg": 0.05},
    "strong": {
        "crop": 0.1, "color": 0.4, "gray": 0.1, "downsample": 0.2, "blur": 0.1, "jpeg": 0.2, "cutout": 0.3, "mask": 0.1,
        "rand_augment": 2,
    },
}  # fmt: skip


@dataclass(frozen=True)
class AugmentConfig:
    """Probabilities and strengths; 0 turns a change off, None takes the value of the preset.

    Attributes:
        preset: 'none', 'face_safe' or 'strong'.
        crop: largest shift and largest change of size, as a share of the side.
        color: largest change of brightness, contrast and saturation, as a share.
        gray: probability that the image becomes grey.
        downsample: probability that the image is reduced and enlarged again.
        blur: probability of a Gaussian blur.
        jpeg: probability of JPEG compression.
        cutout: probability of a grey square.
        mask: probability of a mask over mouth and nose.
        rand_augment: number of RandAugment operations for each image.
        rand_magnitude: strength of the RandAugment operations, 0 to 30.
    """

    preset: str = "none"
    crop: float | None = None
    color: float | None = None
    gray: float | None = None
    downsample: float | None = None
    blur: float | None = None
    jpeg: float | None = None
    cutout: float | None = None
    mask: float | None = None
    rand_augment: int | None = None
    rand_magnitude: int = 9

    def resolved(self) -> "AugmentConfig":
        """The same, with the preset's value for each key that is not given."""
        preset = PRESETS[self.preset]
        filled: dict[str, Any] = {f.name: preset.get(f.name, 0) for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **filled)


def check_augment(config: AugmentConfig, prefix: str) -> list[tuple[bool, str, object]]:
    """Checks the table called `prefix`: a list of (is the rule met, rule, value received)."""
    rules: list[tuple[bool, str, object]] = [
        (config.preset in PRESETS, f"{prefix}.preset must be one of {', '.join(PRESETS)}", repr(config.preset))
    ]
    for name in ("crop", "color"):
        value = getattr(config, name)
        rules.append((value is None or 0 <= value <= 0.5, f"{prefix}.{name} must be from 0 to 0.5", value))
    for name in ("gray", "downsample", "blur", "jpeg", "cutout", "mask"):
        value = getattr(config, name)
        rules.append((value is None or 0 <= value <= 1, f"{prefix}.{name} must be a probability, from 0 to 1", value))
    count, magnitude = config.rand_augment, config.rand_magnitude
    rules.append((count is None or 0 <= count <= 8, f"{prefix}.rand_augment must be from 0 to 8 operations", count))
    rules.append((0 <= magnitude <= 30, f"{prefix}.rand_magnitude must be from 0 to 30", magnitude))
    return rules


class Augmentation:
    """What a recipe's [data] table asks for: a pure function of (image, key).

    Args:
        config: probabilities and strengths.
        flip: whether images are mirrored, half of them, see `is_flipped`.
    """

    def __init__(self, config: AugmentConfig, flip: bool):
        self.config, self.flip = config.resolved(), flip
        self.steps = [step for name, step in _STEPS if getattr(self.config, name)]

    def __call__(self, image: np.ndarray, key: int) -> np.ndarray:
        """Augments one image, which is not changed.

        Args:
            image: uint8 [H, W, 3], RGB.
            key: uint64, from which all that is random follows.

        Returns:
            uint8 [H, W, 3], RGB.
        """
        if self.flip and is_flipped(key):
            image = cv2.flip(image, 1)
        if self.steps:
            draws = Draws(key)
            for step in self.steps:
                image = step(image, draws, self.config)
        return image


def make_augment(config: AugmentConfig, flip: bool) -> Augmentation | None:
    """The augmentation that a recipe's [data] table asks for; None when it asks for nothing."""
    augment = Augmentation(config, flip)
    return augment if augment.steps or flip else None


def is_flipped(keys):
    """Whether an image is mirrored left to right, where that is wanted: the top bit of its key.

    Args:
        keys: uint64, one or an array of any shape.

    Returns:
        A bool, or an array of them.
    """
    return keys >> 63 == 1


def _crop(image, draws, config):
    """Shifts and resizes by up to `crop` of the side; edge pixels are repeated."""
    height, width = image.shape[:2]
    zoom = 1.0 + draws.uniform(-config.crop, config.crop)
    shift = [draws.uniform(-config.crop, config.crop) * side for side in (width, height)]
    matrix = np.array(
        [[zoom, 0, shift[0] + (1 - zoom) * width / 2], [0, zoom, shift[1] + (1 - zoom) * height / 2]], np.float32
    )
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _color(image, draws, config):
    """Changes brightness, contrast, and saturation: towards the luma or away from it."""
    brightness, contrast, saturation = (1.0 + draws.uniform(-config.color, config.color) for _ in range(3))
    gain = brightness * contrast
    mean = float(image.mean()) * brightness
    # One 3x3 colour matrix: saturation s keeps s of the colour and 1 - s of the luma.
    matrix = gain * (saturation * np.eye(3, dtype=np.float32) + (1.0 - saturation) * GRAY[None, :])
    offset = np.full((3, 1), mean * (1.0 - contrast), np.float32)
    return cv2.transform(image, np.hstack([matrix, offset]))


def _gray(image, draws, config):
    return _maybe(
        draws, config.gray, image, lambda: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    )


def _downsample(image, draws, config):
    """Reduces to 0.25 to 0.75 of the side and enlarges again, like a face from far away."""

    def change():
        height, width = image.shape[:2]
        share = draws.uniform(0.25, 0.75)
        small = cv2.resize(
            image, (max(1, round(width * share)), max(1, round(height * share))), interpolation=cv2.INTER_AREA
        )
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)

    return _maybe(draws, config.downsample, image, change)


def _blur(image, draws, config):
    """Gaussian of 0.5 to 2 pixels."""
    return _maybe(draws, config.blur, image, lambda: cv2.GaussianBlur(image, (0, 0), draws.uniform(0.5, 2.0)))


def _jpeg(image, draws, config):
    """Encodes and decodes as a JPEG of quality 30 to 90."""

    def change():
        quality = [cv2.IMWRITE_JPEG_QUALITY, draws.integer(30, 90)]
        _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
        return cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)

    return _maybe(draws, config.jpeg, image, change)


def _rand_augment(image, draws, config):
    return rand_augment(image, draws, config.rand_augment, config.rand_magnitude)


def _cutout(image, draws, config):
    """A gray square of a quarter to half of the side, anywhere. DeVries & Taylor, https://arxiv.org/abs/1708.04552."""

    def change():
        height, width = image.shape[:2]
        side = round(draws.uniform(0.25, 0.5) * min(height, width))
        top, left = draws.integer(0, height - side), draws.integer(0, width - side)
        cut = image.copy()
        cut[top : top + side, left : left + side] = 128
        return cut

    return _maybe(draws, config.cutout, image, change)


def _mask(image, draws, config):
    """A face mask over mouth and nose as the alignment template has them; its outline and colour vary a little."""

    def change():
        height, width = image.shape[:2]
        wobble = np.array([[draws.uniform(-2, 2), draws.uniform(-2, 2)] for _ in MASK_OUTLINE], np.float32)
        points = (MASK_OUTLINE + wobble) * np.array([width, height], np.float32) / 112
        colour = np.array(MASK_COLOURS[draws.integer(0, len(MASK_COLOURS) - 1)]) + draws.uniform(-20, 20)
        masked = image.copy()
        cv2.fillPoly(masked, [points.round().astype(np.int32)], np.clip(colour, 0, 255).tolist(), cv2.LINE_AA)
        return masked

    return _maybe(draws, config.mask, image, change)


def _maybe(draws, probability, image, change):
    return change() if draws.uniform() < probability else image


_STEPS = (
    ("crop", _crop), ("color", _color), ("gray", _gray), ("rand_augment", _rand_augment), ("downsample", _downsample),
    ("blur", _blur), ("jpeg", _jpeg), ("mask", _mask), ("cutout", _cutout),
)  # fmt: skip


random_flip = Augmentation(AugmentConfig(), flip=True)  # nothing but the mirroring
