"""Balances a training set: large identities are sampled, small ones get changed copies, the smallest are dropped.

The rule is from the README of AIWintermuteAI/MobileFaceNet-Keras-K210. It does not give the strength of the noise: here
the Gaussian noise has a standard deviation of 10, 1 % of the pixels become white and 1 % black.
"""

from typing import NamedTuple

import cv2
import numpy as np

from facelib.data.readers.sources import DerivedSource, Source
from facelib.errors import FaceError
from facelib.image_decoding import decode_image

MOST = 350
NOISE_DEVIATION = 10.0  # of 255
PEPPER_SHARE = SALT_SHARE = 0.01
KEPT, OPENED, NOISY, SALTED = range(4)
_QUALITY = 95  # of the JPEG that a changed copy becomes; the original keeps its bytes


class Rule(NamedTuple):
    """What is done with the images of an identity.

    Attributes:
        above: the rule is for identities with more images than this, and for which no earlier rule holds.
        name: for the table.
        copies: what each image becomes, of KEPT, OPENED, NOISY and SALTED.
    """

    above: int
    name: str
    copies: tuple[int, ...]


RULES = (
    Rule(MOST, f"sample {MOST}", (KEPT,)),
    Rule(200, "keep", (KEPT,)),
    Rule(90, "add opening", (KEPT, OPENED)),
    Rule(30, "add opening, Gaussian noise, salt and pepper", (KEPT, OPENED, NOISY, SALTED)),
    Rule(0, "drop", ()),
)


class Balanced(NamedTuple):
    """A balanced training set.

    Attributes:
        source: the images to write.
        table: for each rule (name, identities, images before, images after).
    """

    source: DerivedSource
    table: list[tuple[str, int, int, int]]


def balance(source: Source, seed: int) -> Balanced:
    """Applies the rule to every identity of `source`. The same seed gives the same images.

    Raises:
        FaceError: no identity has more than 30 images.
    """
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    order = np.random.default_rng([seed, 1]).permutation(len(source.labels))
    order = order[np.argsort(source.labels[order], kind="stable")]  # by identity, in random order within
    starts = np.cumsum(counts) - counts
    names: list[str] = []
    picks, labels, changes, table = [], [], [], []
    for rule, above in zip(RULES, (np.inf, *(rule.above for rule in RULES)), strict=False):
        identities = np.flatnonzero((counts > rule.above) & (counts <= above))
        before, after = int(counts[identities].sum()), 0
        for identity in identities.tolist() if rule.copies else []:
            mine = np.sort(order[starts[identity] : starts[identity] + counts[identity]][:MOST])
            picks.append(np.tile(mine, len(rule.copies)))
            changes.append(np.repeat(rule.copies, len(mine)))
            labels.append(np.full(len(picks[-1]), len(names)))
            names.append(source.class_names[identity])
            after += len(picks[-1])
        table.append((rule.name, len(identities), before, after))
    if not picks:
        raise FaceError(
            f"Balancing needs an identity with more than {RULES[-2].above} images. The largest identity of "
            f"'{source.path}' has {counts.max()} images. Use a larger data set."
        )
    changed = np.concatenate(changes)
    picked = np.concatenate(picks)

    def change(image: bytes, i: int) -> bytes:
        return image if changed[i] == KEPT else change_image(image, int(changed[i]), [seed, int(picked[i])])

    what = {"balanced": [rule._asdict() for rule in RULES], "seed": seed}
    return Balanced(DerivedSource(source, picked, np.concatenate(labels), names, what, change), table)


def change_image(image: bytes, kind: int, seed: list[int]) -> bytes:
    """A changed copy of an encoded image, as JPEG.

    Args:
        image: encoded image.
        kind: OPENED for a morphological opening of 5x5 pixels, NOISY for Gaussian noise, SALTED for salt and pepper.
        seed: of the noise.
    """
    pixels = cv2.cvtColor(decode_image(image), cv2.COLOR_RGB2BGR)
    rng = np.random.default_rng([*seed, kind])
    if kind == OPENED:
        pixels = cv2.morphologyEx(pixels, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    elif kind == NOISY:
        noisy = pixels + rng.normal(0, NOISE_DEVIATION, pixels.shape)
        pixels = np.clip(noisy.round(), 0, 255).astype(np.uint8)
    else:
        drawn = rng.random(pixels.shape[:2])
        pixels[drawn < PEPPER_SHARE] = 0
        pixels[drawn >= 1 - SALT_SHARE] = 255
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
