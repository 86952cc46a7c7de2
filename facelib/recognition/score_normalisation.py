"""Cohort-normalised scores of a search: adaptive symmetric normalisation (AS-norm, Matejka et al., Interspeech 2017).

Some faces are close to everybody. The cosine of two faces is therefore seen against the cosines of each to a cohort of
other people, of whom the `TOP` closest count:

    score = ((cosine - mean of a) / deviation of a + (cosine - mean of b) / deviation of b) / 2

A score is no distance, so a calibrated threshold does not fit it. The threshold is measured among the gallery's people.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from facelib.errors import FaceError
from facelib.evaluation.nearest import search_rows
from facelib.recognition.decision import OpenSet
from facelib.recognition.gallery import Gallery, open_gallery
from facelib.recognition.open_set import MOST_SEARCHED, check_people, threshold_among

TOP = 200  # people of a cohort
BLOCK_ROWS = 256  # searched at a time when the threshold is measured: 0.1 GB of scores among 50,000 people
LEAST_DEVIATION = 1e-6  # of cosines; less is rounding


class Statistics(NamedTuple):
    """The cosines of rows to the people of a cohort that are closest to each.

    Attributes:
        mean: float64 [n].
        deviation: float64 [n], the standard deviation.
    """

    mean: np.ndarray
    deviation: np.ndarray


class Found(NamedTuple):
    """What a search found, the most similar person first.

    Attributes:
        rows: int64 [K], row numbers of the gallery.
        cosines: float32 [K].
        is_within: bool [K], within the threshold.
        scores: float64 [K], normalised; None where distances decide.
    """

    rows: np.ndarray
    cosines: np.ndarray
    is_within: np.ndarray
    scores: np.ndarray | None = None


def cohort_statistics(rows: np.ndarray, cohort: np.ndarray, top: int = TOP) -> Statistics:
    """Mean and deviation of the `top` largest cosines of each row to the cohort.

    Args:
        rows: float [n, D], of unit length.
        cohort: float [C, D], of unit length.
        top: at most C.
    """
    cosines = search_rows(np.asarray(cohort, np.float32), rows, top).cosines.astype(np.float64)
    return Statistics(cosines.mean(axis=1), cosines.std(axis=1))


def normalised(cosines: np.ndarray, a: Statistics, b: Statistics) -> np.ndarray:
    """Scores, float64 [n, m], of cosines [n, m]: `a` is of the n rows, `b` of the m columns."""
    by_row = (cosines - a.mean[:, None]) / a.deviation[:, None]
    return (by_row + (cosines - b.mean) / b.deviation) / 2


class NormalisedSearch:
    """Answers queries about the people of a gallery by normalised scores.

    Args:
        vectors: float16 [N, D], rows of unit length.
        cohort: float16 [C, D], of other people; C is `TOP` or more.
        fpir: share of strangers who may be taken for somebody; sets `threshold`, the lowest accepted score.

    Raises:
        FaceError: the gallery is too small for this FPIR, or the cohort has too few people or is one person.
    """

    def __init__(self, vectors: np.ndarray, cohort: np.ndarray, fpir: float):
        if len(cohort) < TOP:
            raise FaceError(f"A cohort must have at least {TOP} people. Received: {len(cohort)}.")
        check_people(len(vectors), fpir)
        self._vectors, self._cohort = np.asarray(vectors, np.float32), np.asarray(cohort, np.float32)
        self._statistics = self._seen(self._vectors)
        self._cohort_size, self.open_set = len(cohort), OpenSet(fpir, len(vectors))
        self.threshold = -threshold_among(np.sort(-self._best_others()), fpir)

    def __call__(self, query: np.ndarray, top: int) -> Found:
        """The people with the highest scores; equal ones in the order of the rows.

        Args:
            query: float32 [D], of unit length.
            top: how many people.
        """
        cosines = self._vectors @ query
        scores = normalised(cosines[None], self._seen(query[None]), self._statistics)[0]
        rows = np.argsort(-scores, kind="stable")[:top]
        return Found(rows, cosines[rows], scores[rows] >= self.threshold, scores[rows])

    def __str__(self) -> str:
        size = self.open_set
        return (
            f"threshold {self.threshold:.4f} of normalised scores for FPIR {size.fpir:g} among {size.people:,} people, "
            f"measured among them; a cohort of {self._cohort_size:,} people"
        )

    def _seen(self, rows: np.ndarray) -> Statistics:
        statistics = cohort_statistics(rows, self._cohort)
        if (statistics.deviation < LEAST_DEVIATION).any():
            raise FaceError(
                "The people of a cohort must differ. All people of this cohort who are closest to a face have the "
                "same cosine to this face."
            )
        return statistics

    def _best_others(self) -> np.ndarray:
        """float64 [n]: the highest score of enrolled people with another one; of many people, some are drawn."""
        people = len(self._vectors)
        drawn = np.random.default_rng(0).permutation(people)[:MOST_SEARCHED]
        best = []
        for rows in np.array_split(drawn, -(-len(drawn) // BLOCK_ROWS)):
            of_rows = Statistics(*(part[rows] for part in self._statistics))
            scores = normalised(self._vectors[rows] @ self._vectors.T, of_rows, self._statistics)
            scores[np.arange(len(rows)), rows] = -np.inf
            best.append(scores.max(axis=1))
        return np.concatenate(best)


def open_normalised(gallery: Gallery, path: Path, fpir: float | None) -> NormalisedSearch:
    """The search of a gallery with a cohort.

    Args:
        gallery: to search.
        path: the cohort, a gallery of other people.
        fpir: as for `NormalisedSearch`; None for that of the gallery's threshold.

    Raises:
        FaceError: the cohort is no gallery, is the gallery itself or was enrolled differently, or no FPIR is known.
    """
    if fpir is None and gallery.decision and gallery.decision.open_set:
        fpir = gallery.decision.open_set.fpir
    if fpir is None:
        raise FaceError(
            "A search with --cohort must have an FPIR, because its scores are not distances. Add --fpir RATE."
        )
    if path.is_dir():
        raise FaceError(
            f"A cohort must be a gallery of other people. '{path}' is a folder. Enrol it first: python predict.py "
            f"enroll {path} cohort.npy --model {gallery.model}"
        )
    cohort = open_gallery(path)
    if path.samefile(gallery.path):
        raise FaceError(
            f"The people of a cohort must not be in the gallery. '{path}' is both the cohort and the gallery."
        )
    if (cohort.model_sha256, cohort.flip) != (gallery.model_sha256, gallery.flip):
        raise FaceError(
            "A cohort and a gallery must be enrolled in the same way: with the same model, and both with or both "
            f"without mirrored faces. '{path}' was enrolled differently from '{gallery.path}'. Enrol it again."
        )
    return NormalisedSearch(gallery.vectors, cohort.vectors, fpir)
