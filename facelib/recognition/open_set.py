"""The threshold of an open-set search: how often a stranger may be taken for somebody, at the gallery's size.

FPIR (ISO/IEC 19795-1) is the share of searches for people who are not enrolled that return anybody. It grows with the
gallery: the FAR of one comparison gives 1 - (1 - FAR)^N among N people. There are two ways to set a threshold for it.

- Each enrolled person is searched among the others, as a stranger would be (leave one out). Of N + 1 people, everybody
  is equally likely to be the stranger, so a threshold that k of N people reach is passed by k / (N + 1) of strangers.
- Where so few people cannot tell, the model's calibrated threshold for a FAR of at most 1 - (1 - FPIR)^(1 / N).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.evaluation.nearest import search_rows
from facelib.evaluation.thresholds import DEPLOYMENT_FARS
from facelib.recognition.decision import MAX_DISTANCE, Decision, OpenSet, decide_by
from facelib.recognition.gallery import Gallery

MOST_SEARCHED = 10_000  # people of a gallery, drawn at random: enough for an FPIR of 0.002
LEAST_REACHING = 10  # people who must reach a threshold: with fewer, chance decides more than the FPIR that was asked


def people_needed(fpir: float) -> int:
    """How many enrolled people can tell the threshold for an FPIR."""
    return int(np.ceil(LEAST_REACHING / fpir - 1e-6))


def check_people(people: int, fpir: float) -> None:
    """Raises FaceError unless so many enrolled people can tell the threshold for an FPIR."""
    if min(people, MOST_SEARCHED) < people_needed(fpir):
        raise FaceError(
            f"The threshold for FPIR {fpir:g} needs a gallery of {people_needed(fpir):,} people. The gallery has "
            f"{people:,}, of whom at most {MOST_SEARCHED:,} are searched. Choose a larger --fpir."
        )


def check_fpir(fpir: float) -> float:
    """Raises FaceError unless `fpir` is above 0 and below 1."""
    if not 0 < fpir < 1:  # also refuses NaN
        raise FaceError(f"An FPIR must be above 0 and below 1, such as 0.01. Received: --fpir {fpir:g}.")
    return fpir


def open_set_decision(vectors: np.ndarray, fpir: float, model: Path, flip: bool) -> Decision:
    """The threshold at which about `fpir` of strangers are taken for somebody in a gallery.

    Args:
        vectors: float [N, D], the rows of the gallery, of unit length.
        fpir: above 0 and below 1.
        model: embeds the probes; its calibrated thresholds count where N is too small.
        flip: whether the gallery's embeddings have those of mirrored faces added.

    Raises:
        FaceError: the gallery is too small for this FPIR, and the model has no calibrated threshold for it either.
    """
    people = len(vectors)
    if min(people, MOST_SEARCHED) >= people_needed(fpir):
        return Decision(max(0.0, threshold_among(closest_others(vectors), fpir)), open_set=OpenSet(fpir, people))
    asked = 1.0 - (1.0 - fpir) ** (1.0 / people)
    for far in (far for far in DEPLOYMENT_FARS if far <= asked):
        try:
            found = decide_by(model, far, None)
        except FaceError:
            continue
        if found.flip == flip:
            return Decision(found.distance, found.calibrated, OpenSet(fpir, people))
    raise FaceError(
        f"The threshold for FPIR {fpir:g} needs a gallery of {people_needed(fpir):,} people, or a model with a "
        f"threshold for FAR {asked:.2g}. The gallery has {people:,}, and '{model}' has no such threshold. Choose a "
        "larger --fpir, or run the model's test script with a larger set."
    )


def for_its_size(gallery: Gallery) -> tuple[Gallery, list[str]]:
    """(a gallery whose people have changed, with a threshold for the FPIR as before; notes for the user).

    A threshold that was not set for the size of the gallery stays.
    """
    if gallery.decision is None or gallery.decision.open_set is None:
        return gallery, []
    try:
        decision = open_set_decision(gallery.vectors, gallery.decision.open_set.fpir, gallery.model, gallery.flip)
    except FaceError as error:  # people can be removed whatever the threshold
        return replace(gallery, decision=None), [f"the gallery has no threshold any more. {error}"]
    return replace(gallery, decision=decision), size_notes(decision)


def size_notes(decision: Decision | None) -> list[str]:
    """The note that a gallery is too small to measure its FPIR; none if it is not."""
    if not decision or not decision.open_set or not decision.calibrated:
        return []
    size = decision.open_set
    return [
        f"{size.people:,} people are too few to measure FPIR {size.fpir:g} among them ({people_needed(size.fpir):,} "
        "are needed), so the calibrated FAR of one comparison is used"
    ]


def closest_others(vectors: np.ndarray) -> np.ndarray:
    """Squared L2 distance of enrolled people to the closest other one, float64, ascending.

    Args:
        vectors: float [N, D], of unit length; N is 2 or more. Of more than `MOST_SEARCHED`, so many are drawn.
    """
    vectors = np.asarray(vectors, np.float32)
    drawn = np.arange(len(vectors))
    if len(vectors) > MOST_SEARCHED:
        drawn = np.random.default_rng(0).choice(len(vectors), MOST_SEARCHED, replace=False)
    found = search_rows(vectors, vectors[drawn], 2)
    is_other = found.rows != drawn[:, None]  # the row itself is one of the two, unless others are equal to it
    cosines = np.where(is_other[:, 0], found.cosines[:, 0], found.cosines[:, 1])
    return np.sort(np.clip(2.0 - 2.0 * cosines.astype(np.float64), 0.0, MAX_DISTANCE))


def threshold_among(values: np.ndarray, fpir: float) -> float:
    """The threshold that `fpir` of strangers pass, where each person is `values` from the closest other one.

    Two people who are closest to each other have one value, and count as two.

    Args:
        values: float64 [N], ascending; smaller is more similar.
        fpir: at least 2 / N.

    Raises:
        FaceError: so many people are equally close to another one that no threshold lets few enough pass.
    """
    allowed = int(fpir * (len(values) + 1) + 1e-9)
    reached = np.searchsorted(values, values, side="right")  # how many people are at most so far from another one
    if reached[0] > allowed:
        raise FaceError(
            f"No threshold gives FPIR {fpir:g}: {reached[0]:,} of {len(values):,} people are equally close to another "
            "person of the gallery. Remove people who are enrolled twice, or choose --far or --threshold."
        )
    return float(np.nextafter(values[np.flatnonzero(reached <= allowed)[-1]], -np.inf))
