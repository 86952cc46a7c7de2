"""Open-set identification (1:N): is this face in the gallery, and as whom. Pure functions of arrays, exact.

A probe whose identity is enrolled is *mated*, any other *unmated*. The score of an identity is the largest cosine of
the probe to its gallery rows. Definitions of ISO/IEC 19795-1:2021 (3.22), NIST FRVT 1:N and IJB-C, at rank R = 1:

- FPIR(T): share of the unmated probes with any identity at score >= T.
- FNIR(T): share of the mated probes whose identity is not the best, or has a score below T. TPIR = 1 - FNIR.
- rank-k rate: share of the mated probes for which fewer than k other identities score at or above the probe's identity;
  no T is used. A tie counts against the probe: an embedder that maps all faces to one point identifies nobody.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.evaluation.metrics import REJECT_ALL, Scores, can_resolve, wilson_interval
from facelib.evaluation.nearest import search_rows
from facelib.unit_vectors import normalize


@dataclass(frozen=True)
class MissRate:
    """FNIR at the loosest threshold whose FPIR is at most `fpir_target`.

    All numbers but `fpir_target` and `needs_unmated` are None when there are too few unmated probes.

    Attributes:
        fpir_target: the FPIR asked for, in (0, 1].
        fnir: fraction of the mated probes.
        ci95: Wilson interval of fnir.
        fpir: the FPIR that the threshold really has.
        threshold: squared L2 of unit vectors, accepted at or below. REJECT_ALL when accepting even the closest unmated
            probe would accept too many.
        needs_unmated: number of unmated probes that this FPIR needs.
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
    """The result of searching probes in a gallery.

    Attributes:
        gallery: number of enrolled identities.
        mated: number of probes of enrolled identities.
        unmated: number of other probes.
        rank: {k: rank-k rate}; the rates are None without mated probes.
        rank_ci95: {k: Wilson interval of the rate}; None without mated probes.
        fnir: one for each FPIR asked for.
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
        gallery: float32 [G, D], of any length above 0; scores are cosines.
        gallery_ids: int [G], identities; several rows may have the same one.
        probes: float32 [P, D], of any length above 0.
        probe_ids: int [P]; a probe is unmated when its identity is not in the gallery.
        ranks: each at least 1.
        fpirs: each in (0, 1].

    Raises:
        FaceError: an empty gallery, no probes, arrays that do not fit, a zero or non-finite embedding.
    """
    gallery, gallery_ids = _checked("gallery", gallery, gallery_ids)
    probes, probe_ids = _checked("probes", probes, probe_ids)
    if gallery.shape[1] != probes.shape[1]:
        raise FaceError(
            f"The gallery and the probes must come from the same model. Received: embeddings of {gallery.shape[1]} "
            f"and of {probes.shape[1]} values."
        )
    if not ranks or min(ranks) < 1:
        raise FaceError(f"Ranks must be 1 or greater. Received: {list(ranks)}.")
    target, others = search_gallery(gallery, gallery_ids, probes, probe_ids, max(ranks))
    is_mated = target > -np.inf
    mated = int(is_mated.sum())
    hits = {k: int(np.count_nonzero(target[is_mated] > others[k - 1, is_mated])) for k in ranks}
    return Identification(
        gallery=len(np.unique(gallery_ids)),
        mated=mated,
        unmated=len(target) - mated,
        rank={k: hits[k] / mated if mated else None for k in ranks},
        rank_ci95={k: wilson_interval(hits[k], mated) if mated else None for k in ranks},
        fnir=tuple(miss_rates(target[is_mated], others[0, is_mated], others[0, ~is_mated], fpirs)),
    )


def miss_rates(target: np.ndarray, other: np.ndarray, unmated: np.ndarray, fpirs: Sequence[float]) -> list[MissRate]:
    """FNIR at each of `fpirs`.

    Args:
        target: float [M], score of each mated probe with its identity.
        other: float [M], score of each mated probe with the best other identity.
        unmated: float [U], best score of each unmated probe.
        fpirs: each in (0, 1].
    """
    scores = (
        Scores(-target, -unmated) if len(target) and len(unmated) else None
    )  # as distances: smaller means more similar
    found = []
    for fpir in fpirs:
        if not 0 < fpir <= 1:
            raise FaceError(f"An FPIR must be above 0 and at most 1, such as 0.01. Received: {fpir:g}.")
        needs = math.ceil(1 / fpir - 1e-9)
        if scores is None or not can_resolve(len(unmated), fpir):
            found.append(MissRate(fpir, None, None, None, None, needs))
            continue
        point = scores.tar_at_far(fpir)
        num_hits = int(np.count_nonzero((target > other) & (-target <= point.threshold)))
        low, high = wilson_interval(len(target) - num_hits, len(target))
        threshold = 2.0 + 2.0 * point.threshold if point.threshold != REJECT_ALL else REJECT_ALL
        found.append(MissRate(fpir, 1 - num_hits / len(target), (low, high), point.far, threshold, needs))
    return found


def search_gallery(
    gallery: np.ndarray, gallery_ids: np.ndarray, probes: np.ndarray, probe_ids: np.ndarray, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best scores of every probe.

    Args:
        gallery: float32 [G, D].
        gallery_ids: int [G].
        probes: float32 [P, D].
        probe_ids: int [P].
        depth: how many other identities to look at.

    Returns:
        target: float32 [P], cosine to the probe's identity; -inf for unmated probes.
        others: float32 [depth, P], the best cosines to other identities, best first; -inf where there are no more.
    """
    most_rows = int(np.unique_counts(gallery_ids).counts.max())
    found = search_rows(gallery, probes, (depth + 1) * most_rows)  # enough for depth + 1 identities
    ids = gallery_ids[found.rows]
    is_target = ids == probe_ids[:, None]
    target = np.where(is_target, found.cosines, -np.inf).max(axis=1)
    missing = np.flatnonzero(~is_target.any(axis=1) & np.isin(probe_ids, gallery_ids))
    target[missing] = np.minimum(_scores_of_target(gallery, gallery_ids, probes[missing], probe_ids[missing]),
                                 found.cosines[missing, -1])  # fmt: skip
    is_best = ~is_target  # the first row of each identity
    for k in range(1, ids.shape[1]) if most_rows > 1 else ():
        is_best[:, k] &= (ids[:, :k] != ids[:, k : k + 1]).all(axis=1)
    others = -np.sort(np.where(is_best, -found.cosines, np.inf), axis=1)[:, :depth].T
    return target, np.vstack([others, np.full((depth - len(others), len(probes)), -np.inf, np.float32)])


def _scores_of_target(
    gallery: np.ndarray, gallery_ids: np.ndarray, probes: np.ndarray, probe_ids: np.ndarray
) -> np.ndarray:
    """float32 [P]: the largest cosine of each probe to the gallery rows of its identity."""
    order = np.argsort(gallery_ids, kind="stable")
    first, last = (np.searchsorted(gallery_ids, probe_ids, side, sorter=order) for side in ("left", "right"))
    scores = np.empty(len(probes), np.float32)
    for i, (probe, start, stop) in enumerate(zip(normalize(probes), first, last, strict=True)):
        scores[i] = (normalize(gallery[order[start:stop]]) @ probe).max()
    return scores


def split_open_set(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits labelled faces into a gallery and the probes of an open-set search.

    Of the identities with at least two images a random half (rounded up) is enrolled, each with one random image. Their
    other images are the mated probes. All images of all other identities are the unmated probes. The same labels and
    seed give the same split.

    Args:
        labels: int [N], identity of each image.
        seed: of the random choice.

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
            "A search needs identities with at least two images: one is enrolled, and the others are searched. None "
            f"of the {len(identities)} identities has two images: add images."
        )
    is_enrolled = np.zeros(len(labels), bool)
    is_enrolled[order[first[several[: (len(several) + 1) // 2]]]] = True
    return np.flatnonzero(is_enrolled), np.flatnonzero(~is_enrolled)


def _checked(what: str, rows: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, ids = np.asarray(rows, np.float32), np.asarray(ids)
    if rows.ndim != 2 or ids.shape != rows.shape[:1] or not len(rows):
        raise FaceError(
            f"The {what} of a search needs at least one embedding [N, D], and one identity for each embedding. "
            f"Received: {list(rows.shape)} embeddings, {list(ids.shape)} identities."
        )
    return rows, ids
