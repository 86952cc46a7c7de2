"""IJB-B and IJB-C: from embeddings of images to templates, to verification (1:1) and identification (1:N).

Pooling as the field does it (Whitelam et al., IJB-B, CVPRW 2017; InsightFace, eval_ijbc.py), with its three switches:
N0 scales each image's embedding to unit length, N1 keeps its norm; D1 weights it by the detector's score, D0 does not;
F1 adds the mirrored image's embedding, F0 does not (see ijb_images).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facelib import unit_vectors
from facelib.errors import FaceError
from facelib.evaluation.identification import Identification, identify
from facelib.evaluation.ijb.files import IjbFaces
from facelib.evaluation.metrics import REJECT_ALL, OperatingPoint, Scores, can_resolve, wilson_interval

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
BLOCK_ROWS = 8192  # images pooled at a time
BLOCK_SCORES = 2**24  # of the template matrix held at a time: 64 MiB


@dataclass(frozen=True)
class TarAtFar:
    """TAR (the field's VR) at one point of the ROC: see `verify`.

    All numbers but `far_target` and `needs_impostors` are None when there are too few impostor pairs.

    Attributes:
        far_target: the FAR asked for, in (0, 1].
        tar: fraction of the genuine pairs.
        ci95: Wilson interval of tar.
        far: the FAR that the threshold really has.
        threshold: squared L2 of unit vectors.
        needs_impostors: number of impostor pairs that this FAR needs.
    """

    far_target: float
    tar: float | None
    ci95: tuple[float, float] | None
    far: float | None
    threshold: float | None
    needs_impostors: int

    def as_dict(self) -> dict[str, Any]:
        """JSON values, named as in docs/report.md."""
        is_finite = self.threshold is not None and math.isfinite(self.threshold)
        return {
            "vr": self.tar,
            "ci95": list(self.ci95) if self.ci95 else None,
            "far": self.far,
            "threshold": self.threshold if is_finite else None,
            "needs_impostors": self.needs_impostors,
        }


@dataclass(frozen=True)
class Verification:
    """The result of the 1:1 protocol.

    Attributes:
        pairs: number of pairs of templates.
        genuine: number of genuine pairs.
        auc: area under the ROC.
        eer: equal error rate.
        vr: one for each FAR.
        rule: 'at_most' | 'nearest', the point of the ROC that each FAR takes.
    """

    pairs: int
    genuine: int
    auc: float
    eer: float
    vr: tuple[TarAtFar, ...]
    rule: str = "at_most"

    def as_dict(self) -> dict[str, Any]:
        """JSON values, named as in docs/report.md."""
        vr = {f"{point.far_target:g}": point.as_dict() for point in self.vr}
        head = {"pairs": self.pairs, "genuine": self.genuine, "auc": self.auc, "eer": self.eer}
        return {**head, "rule": self.rule, "vr": vr}


def pool_templates(
    rows: np.ndarray, faces: IjbFaces, *, normalize: bool = False, detector_score: bool = True
) -> np.ndarray:
    """One unit vector a template: mean over the images of one media, sum over media, scaled to unit length.

    Frames of one video are one media, so a long video has the weight of one photo.

    Args:
        rows: float32 [N, D], embeddings of `faces.images`, not normalised.
        faces: the images, their templates and their media.
        normalize: N0, scale each row to unit length first.
        detector_score: D1, multiply each row by the score of the detector.

    Returns: float32 [T, D]; sums are taken in float64.

    Raises:
        FaceError: a template whose sum has no direction.
    """
    order = np.lexsort((faces.media, faces.template_idx))
    template, media = faces.template_idx[order], faces.media[order]
    is_start = np.append(True, (template[1:] != template[:-1]) | (media[1:] != media[:-1]))
    num_templates = len(faces.template_ids)
    bounds = np.searchsorted(template, np.arange(num_templates + 1))  # images of template t: bounds[t] to bounds[t + 1]
    templates = np.empty((num_templates, rows.shape[1]), np.float32)
    first = 0
    while first < num_templates:
        last = max(first + 1, int(np.searchsorted(bounds, bounds[first] + BLOCK_ROWS, side="right")) - 1)
        some = slice(bounds[first], bounds[last])
        image_idx = faces.image_idx[order[some]]
        vectors = rows[image_idx].astype(np.float64)
        if normalize:
            vectors = unit_vectors.normalize(vectors)
        if detector_score:
            vectors *= faces.detector_scores[image_idx, None]
        starts = np.flatnonzero(is_start[some])
        sizes = np.diff(np.append(starts, len(vectors)))
        means = np.add.reduceat(vectors, starts) / sizes[:, None]
        sums = np.add.reduceat(means, np.searchsorted(starts, bounds[first:last] - bounds[first]))
        templates[first:last] = sums / _lengths(sums, faces.template_ids[first:last])
        first = last
    return templates


def score_pairs(templates: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of each pair of templates, from blocks of the matrix of all of them.

    In IJB-C 15.7 million pairs are among 3,531 x 19,593 templates. One product of matrices costs less than reading two
    rows for each pair (benchmarks/bench_ijb_scores.py).

    Args:
        templates: float32 [T, D], unit vectors.
        first: int [P], row of one template of each pair.
        second: int [P], row of the other template.

    Returns: float32 [P].
    """
    used = np.unique(second)
    place_of = np.zeros(len(templates), np.int32)
    place_of[used] = np.arange(len(used))
    rows = np.unique(first)
    row_of = np.zeros(len(templates), np.uint16 if len(rows) <= 2**16 else np.int32)  # 16 bits are sorted by radix
    row_of[rows] = np.arange(len(rows))
    row, right = row_of[first], templates[used].T
    order = np.argsort(row, kind="stable")
    step = max(1, BLOCK_SCORES // len(used))
    ends = np.searchsorted(row, np.arange(step, len(rows) + step, step), side="left", sorter=order)
    scores, begin = np.empty(len(first), np.float32), 0
    for number, end in enumerate(ends.tolist()):
        block = templates[rows[number * step : (number + 1) * step]] @ right
        pairs = order[begin:end]
        scores[pairs] = block[row[pairs] - number * step, place_of[second[pairs]]]
        begin = end
    return scores


def verify(
    cosines: np.ndarray, is_same: np.ndarray, fars: Sequence[float] = FARS, *, nearest: bool = False
) -> Verification:
    """TAR at each FAR, AUC and EER of one long list of pairs, sorted once.

    Exact: the loosest threshold that lets at most FAR x impostors pass, equal scores together.

    Args:
        cosines: float [P], larger means more similar.
        is_same: bool [P], which pairs are genuine.
        fars: each in (0, 1].
        nearest: the rule of InsightFace's scripts instead: see `nearest_points`.
    """
    scores = Scores(-cosines[is_same], -cosines[~is_same])  # not 2 - 2 cos: float32 would make new ties
    num_genuine, num_impostors = len(scores.genuine), len(scores.impostor)
    can = [can_resolve(num_impostors, far) for far in fars]
    usable = [far for far, is_usable in zip(fars, can, strict=True) if is_usable]
    points = iter(nearest_points(scores, usable) if nearest else map(scores.tar_at_far, usable))
    found = []
    for far, is_usable in zip(fars, can, strict=True):
        needs = math.ceil(1 / far - 1e-9)
        if not is_usable:
            found.append(TarAtFar(far, None, None, None, None, needs))
            continue
        point = next(points)
        interval = wilson_interval(round(point.tar * num_genuine), num_genuine)
        found.append(TarAtFar(far, point.tar, interval, point.far, 2.0 + 2.0 * point.threshold, needs))
    rule = "nearest" if nearest else "at_most"
    return Verification(len(cosines), num_genuine, scores.auc(), scores.eer(), tuple(found), rule)


def nearest_points(scores: Scores, fars: Sequence[float]) -> list[OperatingPoint]:
    """The point of the ROC whose FAR is nearest to each of `fars`, as InsightFace's eval_ijbc.py takes it.

    The curve is that of scikit-learn's `roc_curve`: it starts at FAR 0, and points on a straight line between their
    neighbours are left out. Of equally near points the one with the larger FAR counts, and of those with the same FAR
    the one with the larger TAR. The FAR of the point may lie above the FAR asked for.

    Args:
        scores: of the pairs.
        fars: each in (0, 1].
    """
    thresholds = np.unique(np.concatenate([scores.genuine, scores.impostor]))
    tps = np.searchsorted(scores.genuine, thresholds, side="right")
    fps = np.searchsorted(scores.impostor, thresholds, side="right")
    if len(thresholds) > 2:
        is_corner = np.concatenate([[True], (np.diff(fps, 2) != 0) | (np.diff(tps, 2) != 0), [True]])
        thresholds, tps, fps = thresholds[is_corner], tps[is_corner], fps[is_corner]
    thresholds = np.append(REJECT_ALL, thresholds)
    tars, rates = np.append(0, tps) / len(scores.genuine), np.append(0, fps) / len(scores.impostor)
    places = [len(rates) - 1 - int(np.argmin(np.abs(rates[::-1] - far))) for far in fars]
    return [OperatingPoint(float(tars[i]), float(rates[i]), float(thresholds[i])) for i in places]


def identify_galleries(
    templates: np.ndarray,
    galleries: dict[str, tuple[np.ndarray, np.ndarray]],
    probes: tuple[np.ndarray, np.ndarray],
    **options,
) -> dict[str, Identification]:
    """The 1:N protocol: the probes against each gallery alone, and against all of them together.

    Alone, a probe of the other gallery's people is unmated: the open-set search of the IJB papers. Together all
    probes are mated: the closed set whose ranks InsightFace's script prints; its TPIR counts false pairs instead of
    probes and is not given here.

    Args:
        templates: float32 [T, D].
        galleries: {name: (template_idx int [K], subjects int [K])}.
        probes: (template_idx int [K], subjects int [K]).
        options: passed to `identify`.

    Returns: e.g. {'G1': ..., 'G2': ..., 'G1+G2': ...}.
    """
    together = tuple(np.concatenate(parts) for parts in zip(*galleries.values(), strict=True))
    searches = {**galleries, "+".join(galleries): together}
    probe_idx, probe_subjects = probes
    return {
        name: identify(templates[idx], subjects, templates[probe_idx], probe_subjects, **options)
        for name, (idx, subjects) in searches.items()
    }


def mean_of(found: Sequence[Identification]) -> dict[str, Any]:
    """The plain mean of ranks and FNIRs, as the IJB papers average their two galleries; None where one has none."""
    ranks = {str(k): _mean([one.rank[k] for one in found]) for k in found[0].rank}
    rates = zip(*(one.fnir for one in found), strict=True)
    return {"rank": ranks, "fnir": {f"{r[0].fpir_target:g}": {"fnir": _mean([x.fnir for x in r])} for r in rates}}


def _mean(rates: list[float | None]) -> float | None:
    measured = [rate for rate in rates if rate is not None]
    return sum(measured) / len(rates) if len(measured) == len(rates) else None


def _lengths(sums: np.ndarray, template_ids: np.ndarray) -> np.ndarray:
    """L2 norms, float64 [T, 1], all finite and above 0."""
    lengths = unit_vectors.row_norms(sums)[:, None]
    is_bad = ~(np.isfinite(lengths) & (lengths > 0)).ravel()
    if is_bad.any():
        raise FaceError(
            "The embeddings of a template's images must not cancel out. The embeddings of template "
            f"{template_ids[np.argmax(is_bad)]} add up to {lengths[np.argmax(is_bad), 0]:g}: check their detector "
            "scores, or use --no-detector-score."
        )
    return lengths
