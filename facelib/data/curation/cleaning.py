"""Which labels of a training set are wrong: faces far from their class centre, and identities that are one person.

Angles are in degrees, between unit vectors. All functions are NumPy on vectors that a trained model gave.

Reference: Deng et al., Sub-center ArcFace, ECCV 2020, section 3.3: train, drop what lies beyond an angle from the
dominant centre of its class, train again.
"""

from typing import NamedTuple

import numpy as np

KEPT, RELABELLED, DROPPED, TOO_FEW = "kept", "relabelled", "dropped", "too few left"
_ROUNDS = 3
_CHUNK = 4096  # rows of a comparison with all centres at a time


class Verdict(NamedTuple):
    """What becomes of each record. labels: int64 [N], new identity or -1.   angle: float32 [N], to the own centre.

    reason: one of the four words for each record.   nearest: int64 [N], the nearest centre, where it was looked for;
    -1.
    """

    labels: np.ndarray
    angle: np.ndarray
    reason: np.ndarray
    nearest: np.ndarray


def robust_centres(vectors: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The direction of each identity, float32 [C, D], from the half of its faces that lies nearest to it.

    It begins with the mean of all and takes the mean of the nearer half three times, so a minority of wrong faces does
    not pull it. An identity without faces has a zero row.

    Args:
        vectors: float32 [N, D], unit rows.   labels: int [N].
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
    """Of the K sub-centres of each identity the one that most of its faces are nearest to: float32 [C, D].

    Args:
        sub_centres: float32 [C, K, D], unit rows.
    """
    num_classes, num_each, _ = sub_centres.shape
    votes = np.zeros((num_classes, num_each), np.int64)
    nearest = np.argmax(np.einsum("nd,nkd->nk", vectors, sub_centres[labels]), axis=1)
    np.add.at(votes, (labels, nearest), 1)
    return sub_centres[np.arange(num_classes), votes.argmax(1)]


def merged_identities(centres: np.ndarray, counts: np.ndarray, max_angle: float) -> np.ndarray:
    """For each identity the one that it becomes, int64 [C].

    All within `max_angle` of each other, through others too, are one, under the label of the largest (the first of
    equals).
    """
    parent = np.arange(len(centres))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    limit = np.cos(np.radians(max_angle))
    present = np.flatnonzero(counts)
    for start in range(0, len(present), _CHUNK):
        mine = present[start : start + _CHUNK]
        for a, b in np.argwhere(centres[mine] @ centres[present].T >= limit):
            first, second = root(int(mine[a])), root(int(present[b]))
            if first != second:
                larger = (counts[first], -first) >= (counts[second], -second)
                parent[second if larger else first] = first if larger else second
    return np.array([root(i) for i in range(len(centres))])


def judge(
    vectors: np.ndarray,
    labels: np.ndarray,
    centres: np.ndarray,
    *,
    max_angle: float,
    nearer_by: float | None,
    min_images: int,
) -> Verdict:
    """Decides over every record.

    Beyond `max_angle` of its own centre a face is dropped; or relabelled, if `nearer_by` is given and another centre is
    within `max_angle` and that many degrees nearer. Identities with fewer than `min_images` left go too.
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
