"""From the embeddings of one verification set to its `SetResult`: every measure, of listed pairs or of all pairs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.evaluation import ten_fold
from facelib.evaluation.all_pairs import NUM_HARDEST, AllPairs
from facelib.evaluation.attributes import group_faces, measure_group
from facelib.evaluation.by_identity import measure_identities
from facelib.evaluation.embed_images import Embedded
from facelib.evaluation.identification import identify, split_open_set
from facelib.evaluation.metrics import Scores, can_resolve, cluster_interval, pair_distances
from facelib.evaluation.probability import Calibration, calibrate_pairs
from facelib.evaluation.results import HISTOGRAM_EDGES, SetResult
from facelib.evaluation.ten_fold import NUM_FOLDS, FoldTar, count_folds, fold_of, kfold_accuracy, kfold_tar_at_far
from facelib.evaluation.thresholds import calibrate
from facelib.evaluation.verification_sets import FaceSet
from facelib.unit_vectors import normalize

PROTOCOLS = {
    "exact": (kfold_accuracy, kfold_tar_at_far),
    "insightface": (ten_fold.grid_accuracy, ten_fold.grid_tar_at_far),
    "keras_insightface": (ten_fold.best_of_set_accuracy, kfold_tar_at_far),
}
NUM_ROC_POINTS = 200
NUM_NORM_BINS = 10


def evaluate_set(
    faces: FaceSet,
    embedded: Embedded,
    fars: Sequence[float] = (1e-3,),
    *,
    protocol: str = "exact",
    attributes: dict[str, str] | None = None,
) -> SetResult:
    """All measures of one verification set.

    Args:
        faces: the set, with listed pairs or with identities.
        embedded: its embeddings.
        fars: FARs of the VR, each in (0, 1].
        protocol: thresholds of listed pairs, a key of `PROTOCOLS`.
        attributes: {identity or image: group}; None for no groups.

    Raises:
        FaceError: the set has too few pairs or identities, or no face of it has a group.
    """
    groups = group_faces(attributes, faces.names, faces.identities, faces.where) if attributes else None
    common: dict[str, Any] = {"norms": embedded.norms, "groups": groups, "images": faces.names, "source": faces.source}
    if faces.labels is not None:
        return measure_folder(faces.name, embedded.rows, faces.labels, fars, identities=faces.identities, **common)
    if faces.is_same is None:
        raise ValueError(f"A FaceSet has `labels` or `is_same`. {faces.where} has neither")
    distances = pair_distances(embedded.rows)
    result = measure_pairs(faces.name, distances, faces.is_same, fars, protocol=protocol, **common)
    if faces.digests is not None:  # photos of a pair list, whose own hash says nothing of them
        for pairs in result.hardest.values():
            for pair in pairs:
                pair["sha256"] = [faces.digests[2 * pair["pair"] + i] for i in (0, 1)]
    return result


def measure_pairs(
    name: str,
    distances: np.ndarray,
    is_same: np.ndarray,
    fars: Sequence[float] = (1e-3,),
    *,
    protocol: str = "exact",
    norms: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    images: Sequence[str] | None = None,
    source: dict[str, Any] | None = None,
) -> SetResult:
    """All measures of listed pairs, which are in the order of the folds.

    Args:
        name: name of the set.
        distances: float [P], squared L2 of unit vectors.
        is_same: bool [P], which pairs are genuine.
        fars: FARs of the VR, each in (0, 1].
        protocol: thresholds of ACC and VR, a key of `PROTOCOLS`.
        norms: float [2P], L2 norms of the raw embeddings; None where they are not known.
        groups: str [2P], the group of each face, '' for none.
        images: 2P names; default: their numbers.
        source: the `source` object of a report.
    """
    distances, is_same = np.asarray(distances), np.asarray(is_same, bool)
    fold_accuracy, fold_tar = PROTOCOLS[protocol]
    try:
        accuracy = fold_accuracy(distances, is_same)
        scores = Scores.of(distances, is_same)
        vr = tuple(fold_tar(distances, is_same, far) for far in fars)
    except FaceError as error:
        raise FaceError(f"Set '{name}': {error}") from error
    threshold = float(accuracy.thresholds.mean())
    fold = fold_of(len(distances), NUM_FOLDS)
    genuine_of_fold = count_folds(fold[is_same], NUM_FOLDS)

    def tar_interval(t: float) -> tuple[float, float]:
        return cluster_interval(count_folds(fold[is_same & (distances <= t)], NUM_FOLDS), genuine_of_fold)

    def describe(pair: int) -> dict[str, Any]:
        ends = [2 * pair, 2 * pair + 1]
        return {
            "pair": pair,
            "images": [images[i] for i in ends] if images else ends,
            "distance": distances[pair].item(),
        }

    return SetResult(
        **_common(name, scores, fars, tar_interval),
        protocol=protocol,
        probability=_as_dict(calibrate_pairs(distances, is_same, fold)),
        accuracy=accuracy,
        vr=vr,
        hardest={
            "false_accepts": [describe(i) for i in _first(np.where(is_same, np.inf, distances))],
            "false_rejects": [describe(i) for i in _first(np.where(is_same, -distances, np.inf))],
        },
        norms=(
            _by_norm(norms.reshape(-1, 2).min(axis=1), (distances <= threshold) == is_same)
            if norms is not None
            else None
        ),
        groups=_pair_groups(groups, distances, is_same, threshold, vr) if groups is not None else None,
        source=source,
    )


def measure_folder(
    name: str,
    embeddings: np.ndarray,
    labels: np.ndarray,
    fars: Sequence[float] = (1e-3,),
    *,
    norms: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    images: Sequence[str],
    identities: Sequence[str] | None = None,
    source: dict[str, Any] | None = None,
) -> SetResult:
    """All measures of all pairs of faces of known identity, and open-set identification among them.

    ACC is balanced, and only genuine pairs are counted by norm.

    Args:
        name: name of the set.
        embeddings: float [N, D].
        labels: int [N], the identity of each face.
        fars: FARs of the VR, each in (0, 1].
        norms: float [N], L2 norms of the raw embeddings; None where they are not known.
        groups: str [N], the group of each face, '' for none.
        images: N names.
        identities: N names, who is on each image; default: the labels.
        source: the `source` object of a report.
    """
    try:
        pairs = AllPairs(embeddings, labels)
    except FaceError as error:
        raise FaceError(f"Set '{name}': {error}") from error
    accuracy = pairs.kfold_accuracy()
    threshold = float(accuracy.thresholds.mean())
    vr = tuple(pairs.kfold_tar_at_far(far) for far in fars)
    strictest = [one.threshold for one in sorted(vr, key=lambda one: one.far_target)] + [threshold, 0.0]

    def describe(hard) -> dict[str, Any]:
        ends = [hard.first, hard.second]
        return {"pair": None, "images": [images[i] for i in ends], "distance": hard.distance}

    sizes = np.unique_counts(labels).counts
    return SetResult(
        **_common(name, pairs.scores, fars, pairs.tar_interval),
        protocol="all-pairs",
        probability=_as_dict(pairs.calibrate_ratio()),
        accuracy=accuracy,
        vr=vr,
        hardest={
            "false_accepts": [describe(hard) for hard in pairs.closest_impostors],
            "false_rejects": [describe(hard) for hard in pairs.farthest_genuine],
        },
        norms=(
            _by_norm(norms[pairs.genuine_rows].min(axis=1), pairs.genuine <= threshold) if norms is not None else None
        ),
        groups=_folder_groups(groups, embeddings, labels, threshold, vr) if groups is not None else None,
        identification=_identification(embeddings, labels),
        by_identity=measure_identities(
            embeddings, labels, next(t for t in strictest if t is not None and np.isfinite(t)), images, identities
        ),
        identities={"count": len(sizes), "images": len(labels), "single": int((sizes == 1).sum()),
                    "median_images": float(np.median(sizes)), "max_images": int(sizes.max())},
        source=source,
    )  # fmt: skip


def _common(
    name: str, scores: Scores, fars: Sequence[float], tar_interval: Callable[[float], tuple[float, float]]
) -> dict[str, Any]:
    """What follows from the sorted scores alone. `tar_interval(threshold)`: of the TAR there."""
    num_impostors = len(scores.impostor)
    return {
        "name": name,
        "pairs": len(scores.genuine) + num_impostors,
        "genuine": len(scores.genuine),
        "auc": scores.auc(),
        "eer": scores.eer(),
        "vr_all_pairs": tuple(scores.tar_at_far(far) if can_resolve(num_impostors, far) else None for far in fars),
        "thresholds": calibrate(scores, tar_interval),
        "dist_max": float(max(scores.genuine[-1], scores.impostor[-1])),
        "dist_min": float(min(scores.genuine[0], scores.impostor[0])),
        "roc": _thin_roc(scores, tar_interval),
        "histogram": {
            "edges": [round(float(edge), 6) for edge in HISTOGRAM_EDGES],
            "genuine": _histogram(scores.genuine),
            "impostor": _histogram(scores.impostor),
        },
    }


def _as_dict(calibration: Calibration | None) -> dict[str, Any] | None:
    return calibration.as_dict() if calibration else None


def _thin_roc(scores: Scores, tar_interval: Callable[[float], tuple[float, float]]) -> dict[str, list[float]]:
    """About 200 points of the ROC, log-spaced in FAR from one impostor to all of them; each is a point of the curve."""
    counts = np.geomspace(1, len(scores.impostor), NUM_ROC_POINTS).round().astype(np.int64)
    by_rates = {(p.far, p.tar): p for p in map(scores.point_at, np.unique(np.append(0, counts)).tolist())}
    points = [by_rates[key] for key in sorted(by_rates)]
    intervals = [tar_interval(point.threshold) for point in points]
    return {
        "far": [point.far for point in points],
        "tar": [point.tar for point in points],
        "tar_low": [low for low, _ in intervals],
        "tar_high": [high for _, high in intervals],
    }


def _histogram(ranked: np.ndarray) -> list[int]:
    """Counts of ascending distances between the edges; those outside go to the ends."""
    inner = np.searchsorted(ranked, HISTOGRAM_EDGES[1:-1].astype(ranked.dtype), side="left")
    return np.diff(np.concatenate([[0], inner, [len(ranked)]])).tolist()


def _first(keys: np.ndarray) -> list[int]:
    """Where the smallest finite keys are, smallest first."""
    order = np.argsort(keys, kind="stable")[:NUM_HARDEST]
    return [int(i) for i in order if np.isfinite(keys[i])]


def _by_norm(norms: np.ndarray, is_right: np.ndarray) -> dict[str, list]:
    """Pairs in bins of equal count by the smaller norm of their faces, and the wrong decisions in each."""
    edges = np.unique(np.quantile(norms, np.linspace(0, 1, NUM_NORM_BINS + 1)))
    bin_of = np.clip(np.searchsorted(edges, norms, side="right") - 1, 0, max(len(edges) - 2, 0))
    num_bins = max(len(edges) - 1, 1)
    return {
        "edges": edges.tolist() if len(edges) > 1 else [float(edges[0]), float(edges[0])],
        "pairs": np.bincount(bin_of, minlength=num_bins).tolist(),
        "errors": np.bincount(bin_of[~is_right], minlength=num_bins).tolist(),
    }


def _pair_groups(groups, distances, is_same, threshold: float, vr: Sequence[FoldTar]) -> dict[str, Any]:
    first, second = groups[0::2], groups[1::2]
    found = {}
    for name in sorted(set(groups.tolist()) - {""}):
        mask = (first == name) & (second == name)
        found[name] = measure_group(distances[mask & is_same], distances[mask & ~is_same], threshold, vr)
    return found


def _folder_groups(groups, embeddings, labels, threshold: float, vr: Sequence[FoldTar]) -> dict[str, Any]:
    found = {}
    for name in sorted(set(groups.tolist()) - {""}):
        rows = np.flatnonzero(groups == name)
        unit = normalize(embeddings[rows]).astype(np.float32)
        upper = np.triu_indices(len(rows), 1)
        distances = np.clip(2.0 - 2.0 * (unit @ unit.T), 0.0, 4.0)[upper]
        is_same = (labels[rows][:, None] == labels[rows][None, :])[upper]
        found[name] = measure_group(distances[is_same], distances[~is_same], threshold, vr)
    return found


def _identification(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    gallery, probes = split_open_set(labels, seed=0)
    unit = normalize(embeddings).astype(np.float32)
    return identify(unit[gallery], labels[gallery], unit[probes], labels[probes]).as_dict()
