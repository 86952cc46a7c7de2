"""Open-set identification (1:N): is this face in the gallery, and as whom. Pure functions of arrays, exact.

A probe whose identity is enrolled is *mated*, any other *unmated*. The score of an identity is the largest cosine of
the probe to its gallery rows. Definitions of ISO/IEC 19795-1:2021 (3.22), NIST FRVT 1:N and IJB-C, at rank R = 1:

- FPIR(T): share of the unmated probes with any identity at score >= T.
- FNIR(T): share of the mated probes whose own identity is not the best, or is below T. TPIR = 1 - FNIR.
- rank-k rate: share of the mated probes with fewer than k other identities at or above their own, whatever T. A tie
  counts against the probe: an embedder that maps all faces to one point identifies nobody.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.evaluation.intervals import wilson_interval
from facelib.evaluation.metrics import REJECT_ALL, Scores, can_resolve
from facelib.unit_vectors import check_norms

BLOCK_ROWS = 4096  # of the gallery, compared at a time; an identity is never cut
BLOCK_SCORES = 2**21  # held at a time: 8 MiB as float32


@dataclass(frozen=True)
class MissRate:
    """FNIR at the loosest threshold whose FPIR is at most `fpir_target`; what the probes cannot resolve is None.

    fnir: fraction of the mated probes, ci95 its Wilson interval.   fpir: that the threshold really has.
    threshold: squared L2 of unit vectors, accepted at or below; REJECT_ALL when even the closest unmated probe is one
    too many.   needs_unmated: how many unmated probes this FPIR takes.
    """

    fpir_target: float
    fnir: float | None
    ci95: tuple[float, float] | None
    fpir: float | None
    threshold: float | None
    needs_unmated: int

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        is_finite = self.threshold is not None and math.isfinite(self.threshold)
        return {
            "fnir": self.fnir,
            "ci95": list(self.ci95) if self.ci95 else None,
            "fpir": self.fpir,
            "threshold": self.threshold if is_finite else None,
            "needs_unmated": self.needs_unmated,
        }


@dataclass(frozen=True)
class Identification:
    """What a gallery and its probes show.

    gallery: number of identities.   mated, unmated: numbers of probes.   rank: {k: rate}, rank_ci95: {k: Wilson
    interval}, both None without mated probes.   fnir: one for each FPIR asked for.
    """

    gallery: int
    mated: int
    unmated: int
    rank: dict[int, float | None]
    rank_ci95: dict[int, tuple[float, float] | None]
    fnir: tuple[MissRate, ...]

    def as_dict(self) -> dict[str, Any]:
        """The `identification` object of docs/report.md."""
        return {
            "gallery": self.gallery,
            "mated": self.mated,
            "unmated": self.unmated,
            "rank": {str(k): rate for k, rate in self.rank.items()},
            "rank_ci95": {str(k): list(ci95) if ci95 else None for k, ci95 in self.rank_ci95.items()},
            "fnir": {f"{miss.fpir_target:g}": miss.as_dict() for miss in self.fnir},
        }


def identify(
    gallery: np.ndarray,
    gallery_ids: np.ndarray,
    probes: np.ndarray,
    probe_ids: np.ndarray,
    *,
    ranks: Sequence[int] = (1, 5),
    fpirs: Sequence[float] = (0.01, 0.1),
) -> Identification:
    """Searches every probe in the gallery. See the top of this file for the definitions.

    Args:
        gallery: float32 [G, D], of any length above 0; scores are cosines.   gallery_ids: int [G]; several rows may
            have one identity.
        probes: float32 [P, D].   probe_ids: int [P]; identities that are not in the gallery make unmated probes.
        ranks: each at least 1.   fpirs: each in (0, 1].

    Raises:
        FaceError: an empty gallery, no probes, arrays that do not fit, a zero or non-finite embedding.
    """
    gallery, gallery_ids = _checked("gallery", gallery, gallery_ids)
    probes, probe_ids = _checked("probes", probes, probe_ids)
    if gallery.shape[1] != probes.shape[1]:
        raise FaceError(
            f"Gallery and probes come from one model. Received: {gallery.shape[1]} and {probes.shape[1]} values a row."
        )
    if not ranks or min(ranks) < 1:
        raise FaceError(f"A rank counts from 1. Received: {list(ranks)}.")
    own, others = search_gallery(gallery, gallery_ids, probes, probe_ids, max(ranks))
    is_mated = own > -np.inf
    mated = int(is_mated.sum())
    hits = {k: int(np.count_nonzero(own[is_mated] > others[k - 1, is_mated])) for k in ranks}
    return Identification(
        gallery=len(np.unique(gallery_ids)),
        mated=mated,
        unmated=len(own) - mated,
        rank={k: hits[k] / mated if mated else None for k in ranks},
        rank_ci95={k: wilson_interval(hits[k], mated) if mated else None for k in ranks},
        fnir=tuple(miss_rates(own[is_mated], others[0, is_mated], others[0, ~is_mated], fpirs)),
    )


def miss_rates(own: np.ndarray, other: np.ndarray, unmated: np.ndarray, fpirs: Sequence[float]) -> list[MissRate]:
    """FNIR at each of `fpirs`, in (0, 1].

    Args:
        own: float [M], score of each mated probe to its own identity.   other: float [M], to the best other one.
        unmated: float [U], best score of each unmated probe.
    """
    scores = Scores(-own, -unmated) if len(own) and len(unmated) else None  # as distances: smaller is more alike
    found = []
    for fpir in fpirs:
        if not 0 < fpir <= 1:
            raise FaceError(f"An FPIR is a rate above 0 and at most 1, such as 0.01. Received: {fpir:g}.")
        needs = math.ceil(1 / fpir - 1e-9)
        if scores is None or not can_resolve(len(unmated), fpir):
            found.append(MissRate(fpir, None, None, None, None, needs))
            continue
        point = scores.tar_at_far(fpir)
        num_hits = int(np.count_nonzero((own > other) & (-own <= point.threshold)))
        low, high = wilson_interval(len(own) - num_hits, len(own))
        threshold = 2.0 + 2.0 * point.threshold if point.threshold != REJECT_ALL else REJECT_ALL
        found.append(MissRate(fpir, 1 - num_hits / len(own), (low, high), point.far, threshold, needs))
    return found


def search_gallery(
    gallery: np.ndarray, gallery_ids: np.ndarray, probes: np.ndarray, probe_ids: np.ndarray, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best scores of every probe, block by block: 1 M x 128 gallery rows take 0.1 GB more than they are.

    Args:
        gallery, gallery_ids, probes, probe_ids: as in `identify`.   depth: how many other identities to look at.

    Returns:
        own: float32 [P], cosine to the probe's own identity; -inf for unmated probes.
        others: float32 [depth, P], the best cosines to other identities, best first; -inf where there are no more.
    """
    order = np.argsort(gallery_ids, kind="stable")
    identities, starts = np.unique(gallery_ids[order], return_index=True)
    starts = np.append(starts, len(gallery))
    own_idx = np.searchsorted(identities, probe_ids)
    own_idx[identities[np.minimum(own_idx, len(identities) - 1)] != probe_ids] = -1
    gallery_norms, probe_norms = _norms("gallery", gallery), _norms("probes", probes)
    own = np.full(len(probes), -np.inf, np.float32)
    others = np.full((len(probes), depth), -np.inf, np.float32)  # ascending
    for first, last in _blocks(starts):
        block = order[starts[first] : starts[last]]
        rows = (gallery[block] / gallery_norms[block]).T
        step = max(1, BLOCK_SCORES // len(block))
        for begin in range(0, len(probes), step):
            some = slice(begin, begin + step)
            scores = (probes[some] / probe_norms[some]) @ rows  # [probes, gallery rows]
            if len(block) > last - first:
                scores = np.maximum.reduceat(scores, starts[first:last] - starts[first], axis=1)
            mated = np.flatnonzero((own_idx[some] >= first) & (own_idx[some] < last))
            place = mated, own_idx[begin + mated] - first
            own[begin + mated] = scores[place]
            scores[place] = -np.inf
            _keep_best(scores, others[some])
    return own, others[:, ::-1].T


def _keep_best(scores: np.ndarray, best: np.ndarray) -> None:
    """Takes what is better in `scores` [P, N] over into the ascending rows of `best` [P, depth]; uses `scores` up."""
    better = np.flatnonzero(scores.max(axis=1) > best[:, 0])
    while len(better):  # at most `depth` times: in a late block hardly any probe finds something better
        place = better, scores[better].argmax(axis=1)
        best[better, 0] = scores[place]
        best[better] = np.sort(best[better], axis=1)
        scores[place] = -np.inf
        better = better[scores[better].max(axis=1) > best[better, 0]]


def split_open_set(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes an open-set search of any set of labelled faces.

    The rule: of the identities with at least two images a random half (rounded up) is enrolled, each with one random
    image; its other images are the mated probes. All images of all other identities, those with a single image too,
    are the unmated probes. The same labels and seed give the same split.

    Args:
        labels: int [N], identity of each image.

    Returns: (gallery_idx, probe_idx), int64, ascending; together they hold every image once.

    Raises:
        FaceError: no identity has two images.
    """
    labels = np.asarray(labels)
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    identities, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    several = random.permutation(np.flatnonzero(counts >= 2))
    if not len(several):
        raise FaceError(
            f"A search enrols one image of a person and looks for another. None of the {len(identities)} identities "
            f"has two images: add images."
        )
    is_enrolled = np.zeros(len(labels), bool)
    is_enrolled[order[first[several[: (len(several) + 1) // 2]]]] = True
    return np.flatnonzero(is_enrolled), np.flatnonzero(~is_enrolled)


def _blocks(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, last) identities of blocks of about BLOCK_ROWS rows; identity i has rows starts[i] to starts[i + 1]."""
    first = 0
    while first < len(starts) - 1:
        last = int(np.searchsorted(starts, starts[first] + BLOCK_ROWS, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


def _checked(what: str, rows: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, ids = np.asarray(rows, np.float32), np.asarray(ids)
    if rows.ndim != 2 or ids.shape != rows.shape[:1] or not len(rows):
        raise FaceError(
            f"The {what} of a search: at least one embedding [N, D], an identity each. "
            f"Received: {list(rows.shape)} embeddings, {list(ids.shape)} identities."
        )
    return rows, ids


def _norms(what: str, rows: np.ndarray) -> np.ndarray:
    """Lengths, float32 [N, 1], summed in float64."""
    norms = np.empty((len(rows), 1), np.float32)
    for begin in range(0, len(rows), BLOCK_ROWS):
        some = slice(begin, begin + BLOCK_ROWS)
        norms[some] = np.linalg.norm(rows[some].astype(np.float64), axis=1, keepdims=True)
    check_norms(norms[:, 0], lambda row: f"row {row} of the {what}")
    return norms
