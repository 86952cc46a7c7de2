"""Whether a model that only flags describe tells people apart better when it is fed in another way.

There is no reference for such a model. But fed rightly, it separates genuine from impostor pairs best.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from facelib.data.verification.bins import decode_images
from facelib.embedder import RuntimeEmbedder
from facelib.evaluation.metrics import pair_distances
from facelib.evaluation.verification_sets import FaceSet
from facelib.model_input import Io
from facelib.unit_vectors import row_norms

NUM_PAIRS = 64  # genuine ones, and as many impostors
CLEARLY = 4.0  # standard errors from which on one way of feeding is better
_DRAWS = 200


@dataclass(frozen=True)
class BetterFeeding:
    """A way to feed a model that separates pairs better.

    Attributes:
        flag: what says it, such as '--pixels raw'.
        mistake: the likely cause, a noun phrase.
        separation: d' of the pairs as the flags say.
        better: d' under the other way.
        num_pairs: number of pairs.
        name: of the set.
    """

    flag: str
    mistake: str
    separation: float
    better: float
    num_pairs: int
    name: str

    def __str__(self) -> str:
        return (
            f"the likely cause is {self.mistake}: with the setting {self.flag} the model separates genuine from "
            f"impostor pairs better (d' {self.better:.2f} instead of {self.separation:.2f}, {self.num_pairs} pairs of "
            f"'{self.name}'). Test the model again with {self.flag}"
        )


def find_better_feeding(embedder: RuntimeEmbedder, faces: FaceSet) -> BetterFeeding | None:
    """Feeds pairs of a set in other ways too: the colours swapped, the pixels scaled or not.

    Args:
        embedder: the model, fed as the flags say.
        faces: a verification set.

    Returns: the best other way, if it is clearly better; else None, also for a set without listed pairs of both kinds.
    """
    if faces.is_same is None:
        return None
    picked = np.concatenate([_evenly(np.flatnonzero(faces.is_same == same)) for same in (True, False)])
    is_same = faces.is_same[picked]
    if len(set(is_same.tolist())) < 2:
        return None
    ends = np.stack([2 * picked, 2 * picked + 1], axis=1).ravel().tolist()
    images = decode_images([faces.images[i] for i in ends], source=faces.where, records=[faces.names[i] for i in ends])
    now, usual = _distances(embedder, images), embedder.io
    best: BetterFeeding | None = None
    try:
        for io, flag, mistake in other_ways(usual):
            embedder.io = io
            other = _distances(embedder, images)
            better = separation(other, is_same)
            if better > (best.better if best else 0) and _is_clear(now, other, is_same):
                best = BetterFeeding(flag, mistake, separation(now, is_same), better, len(is_same), faces.name)
    finally:
        embedder.io = usual
    return best


def other_ways(io: Io) -> Iterator[tuple[Io, str, str]]:
    """The ways that a user may have meant: (`Io`, the flag that says it, the mistake that was made)."""
    colour = "bgr" if io.colour == "rgb" else "rgb"
    yield replace(io, colour=colour), f"--color {colour}", f"{io.colour.upper()} for {colour.upper()}"
    if io.pixels != "raw":
        yield replace(io, pixels="raw"), "--pixels raw", "pixels scaled twice"
    elif io.dtype != "uint8":
        yield replace(io, pixels="pm1"), "--pixels pm1", "pixels not scaled"


def separation(distances: np.ndarray, is_same: np.ndarray) -> float:
    """d': the difference of the mean distances of impostor and genuine pairs, in mean standard deviations.

    Args:
        distances: float [P].
        is_same: bool [P], which pairs are genuine.
    """
    genuine, impostor = distances[is_same], distances[~is_same]
    spread = np.sqrt((genuine.var() + impostor.var()) / 2)
    return float((impostor.mean() - genuine.mean()) / spread) if spread else 0.0


def _is_clear(now: np.ndarray, other: np.ndarray, is_same: np.ndarray) -> bool:
    """Whether `other` separates better by `CLEARLY` standard errors of the difference, by bootstrap over pairs."""
    random = np.random.default_rng(0)
    groups = [np.flatnonzero(is_same == same) for same in (True, False)]
    gains = []
    for _ in range(_DRAWS):
        drawn = np.concatenate([random.choice(group, len(group)) for group in groups])
        gains.append(separation(other[drawn], is_same[drawn]) - separation(now[drawn], is_same[drawn]))
    return float(np.mean(gains)) > CLEARLY * float(np.std(gains))


def _distances(embedder: RuntimeEmbedder, images: np.ndarray) -> np.ndarray:
    """float64 [P]: squared L2 of the unit embeddings of pairs; all 0 where the model gives an embedding without one."""
    rows = embedder.raw(images)
    norms = row_norms(rows)
    return pair_distances(rows) if (np.isfinite(norms) & (norms > 0)).all() else np.zeros(len(rows) // 2)


def _evenly(numbers: np.ndarray) -> np.ndarray:
    """At most `NUM_PAIRS` of `numbers`, spread evenly."""
    places = np.linspace(0, len(numbers) - 1, min(NUM_PAIRS, len(numbers)))
    return numbers[places.astype(int)]
