"""Finds wrong labels in a training set: faces far from their class centre, and two identities of one person.

All functions take the unit vectors that a trained model gives. Angles are in degrees.

Reference: Deng et al., Sub-center ArcFace, ECCV 2020, section 3.3: train, drop the faces beyond an angle from the
dominant centre of their class, and train again.
"""

from typing import NamedTuple

import numpy as np

KEPT, RELABELLED, DROPPED, TOO_FEW = "kept", "relabelled", "dropped", "too few left"
_ROUNDS = 3
_CHUNK = 4096  # rows of a comparison with all centres at a time


class Verdict(NamedTuple):
    """The decision over each record.

    Attributes:
        labels: int64 [N], the new identity; -1 for a dropped record.
        angle: float32 [N], degrees to the centre of its identity.
        reason: object [N], KEPT, RELABELLED, DROPPED or TOO_FEW.
        nearest: int64 [N], the nearest other centre of a face beyond the angle; -1 for all others.
    """

    labels: np.ndarray
    angle: np.ndarray
    reason: np.ndarray
    nearest: np.ndarray


def robust_centres(vectors: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The direction of each identity, from the half of its faces that lies nearest to it.

    It starts with the mean of all faces and three times takes the mean of the nearer half, so a minority of wrong faces
    does not pull it.

    Args:
        vectors: float32 [N, D], unit rows.
        labels: int [N], the identity of each face.
        num_classes: number of identities.

    Returns:
        float32 [C, D], unit rows; a zero row for an identity without faces.
    """
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(num_classes + 1))
    centres = np.zeros((num_classes, vectors.shape[1]), np.float32)
    for identity in range(num_classes):
        mine = vectors[order[bounds[identity] : bounds[identity + 1]]]
        if not len(mine):
            continue
        centre = _unit(mine.mean(0))
        for _ in range(_ROUNDS if len(mine) > 2 else 0):
            nearest = np.argsort(-(mine @ centre), kind="stable")[: -(-len(mine) // 2)]
            centre = _unit(mine[nearest].mean(0))
        centres[identity] = centre
    return centres


def dominant_centres(vectors: np.ndarray, labels: np.ndarray, sub_centres: np.ndarray) -> np.ndarray:
    """Of the K sub-centres of each identity, the one that most of its faces are nearest to.

    Args:
        vectors: float32 [N, D], unit rows.
        labels: int [N], the identity of each face.
        sub_centres: float32 [C, K, D], unit rows.

    Returns:
        float32 [C, D], unit rows.
    """
    num_classes, num_each, _ = sub_centres.shape
    votes = np.zeros((num_classes, num_each), np.int64)
    nearest = np.argmax(np.einsum("nd,nkd->nk", vectors, sub_centres[labels]), axis=1)
    np.add.at(votes, (labels, nearest), 1)
    return sub_centres[np.arange(num_classes), votes.argmax(1)]


def merged_identities(centres: np.ndarray, counts: np.ndarray, max_angle: float) -> np.ndarray:
    """Merges identities whose centres lie close together, directly or through others between them.

    Args:
        centres: float32 [C, D], unit rows; a zero row for an identity without faces.
        counts: int [C], faces of each identity.
        max_angle: degrees between two centres of one person, at most.

    Returns:
        int64 [C], the identity that each one becomes: of a group the one with the most faces, the first of equals.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    limit, present = np.cos(np.radians(max_angle)), np.flatnonzero(counts)
    pairs = [(np.empty(0, np.int64), np.empty(0, np.int64))]  # so that there is something to concatenate
    for start in range(0, len(present), _CHUNK):
        mine = present[start : start + _CHUNK]
        rows, columns = np.nonzero(centres[mine] @ centres[present[start:]].T >= limit)
        pairs.append((mine[rows], present[start:][columns]))
    first, second = (np.concatenate(part) for part in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(centres), len(centres)))
    num_groups, group = connected_components(graph, directed=False)
    ascending = np.lexsort((-np.arange(len(counts)), counts))  # the first of the largest comes last
    largest = np.empty(num_groups, np.int64)
    largest[group[ascending]] = ascending  # the last assignment of a group stays
    return largest[group]


def judge(
    vectors: np.ndarray,
    labels: np.ndarray,
    centres: np.ndarray,
    *,
    max_angle: float,
    nearer_by: float | None,
    min_images: int,
) -> Verdict:
    """Decides over every record: kept, relabelled or dropped.

    Args:
        vectors: float32 [N, D], unit rows.
        labels: int [N], the identity of each face.
        centres: float32 [C, D], unit rows; a zero row for an identity without faces.
        max_angle: degrees from its centre; a face beyond it is dropped or relabelled.
        nearer_by: degrees by which another centre within `max_angle` must be nearer for a face to be relabelled; None
            relabels no face.
        min_images: identities with fewer faces left are dropped.
    """
    angle = _degrees(np.einsum("nd,nd->n", vectors, centres[labels]))
    new, reason, nearest = labels.astype(np.int64), np.full(len(labels), KEPT, object), np.full(len(labels), -1)
    outliers = np.flatnonzero(angle > max_angle)
    is_empty = ~centres.any(axis=1)
    for start in range(0, len(outliers), _CHUNK):
        mine = outliers[start : start + _CHUNK]
        cosines = vectors[mine] @ centres.T
        cosines[np.arange(len(mine)), labels[mine]] = -2
        cosines[:, is_empty] = -2  # an identity without faces has no direction
        other = cosines.argmax(1)
        other_angle = _degrees(cosines.max(1))
        nearest[mine] = other
        is_other = np.zeros(len(mine), bool)
        if nearer_by is not None:
            is_other = (other_angle <= max_angle) & (other_angle <= angle[mine] - nearer_by)
        new[mine] = np.where(is_other, other, -1)
        reason[mine] = np.where(is_other, RELABELLED, DROPPED)
    counts = np.bincount(new[new >= 0], minlength=len(centres))
    is_small = (new >= 0) & (counts[new] < min_images)
    new[is_small], reason[is_small] = -1, TOO_FEW
    return Verdict(new, angle.astype(np.float32), reason, nearest)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _degrees(cosines: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))
