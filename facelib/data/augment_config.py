"""A recipe's [data.augment] table and its presets. docs/augmentation.md shows the operations in pictures."""

from dataclasses import dataclass, fields, replace


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
        filled = {f.name: preset.get(f.name, 0) for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **filled)


PRESETS = {
    "none": {},
    "face_safe": {"crop": 0.04, "color": 0.15, "gray": 0.01, "downsample": 0.05, "blur": 0.02, "jpeg": 0.05},
    "strong": {
        "crop": 0.1, "color": 0.4, "gray": 0.1, "downsample": 0.2, "blur": 0.1, "jpeg": 0.2, "cutout": 0.3, "mask": 0.1,
        "rand_augment": 2,
    },
}  # fmt: skip


def check_augment(config: AugmentConfig, prefix: str) -> list[tuple[bool, str, object]]:
    """Checks the table called `prefix`: a list of (is the rule met, rule, value received)."""
    rules = [(config.preset in PRESETS, f"{prefix}.preset is one of {', '.join(PRESETS)}", repr(config.preset))]
    for name in ("crop", "color"):
        value = getattr(config, name)
        rules.append((value is None or 0 <= value <= 0.5, f"{prefix}.{name} is a share from 0 to 0.5", value))
    for name in ("gray", "downsample", "blur", "jpeg", "cutout", "mask"):
        value = getattr(config, name)
        rules.append((value is None or 0 <= value <= 1, f"{prefix}.{name} is a probability", value))
    count, magnitude = config.rand_augment, config.rand_magnitude
    rules.append((count is None or 0 <= count <= 8, f"{prefix}.rand_augment is from 0 to 8 operations", count))
    rules.append((0 <= magnitude <= 30, f"{prefix}.rand_magnitude is from 0 to 30", magnitude))
    return rules
