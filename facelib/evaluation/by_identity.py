"""Errors by identity, in a set whose faces have identities: who is hard to recognise, and who is taken for whom.

A face is *confused* if the nearest other face of the set, by cosine, is of another identity. A tie counts as confused.
Only a face whose identity has another image can be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facelib.unit_vectors import normalize

NUM_WORST = 20
NUM_CONFUSED = 12  # identities in the matrix
_BLOCK_ROWS = 512  # compared with all at a time: 27 MB of distances for LFW's 13,233 images
_NO_LENGTH = 1e-12


@dataclass(frozen=True)
class FaceErrors:
    """What went wrong with each face of a set. Distances are squared L2 of unit vectors.

    Attributes:
        labels: int [N], identities, numbered from 0 without gaps.
        impostor: int [N], row of the nearest face of another identity.
        impostor_distance: float32 [N], its distance.
        mate: int [N], row of the nearest other face of the same identity; the row itself where there is none.
        mate_distance: float32 [N], its distance; infinite where there is none.
        genuine: int [N], genuine pairs of the face.
        accepted: int [N], those within the threshold.
    """

    labels: np.ndarray
    impostor: np.ndarray
    impostor_distance: np.ndarray
    mate: np.ndarray
    mate_distance: np.ndarray
    genuine: np.ndarray
    accepted: np.ndarray

    @property
    def is_confused(self) -> np.ndarray:
        """Bool [N]."""
        return (self.genuine > 0) & (self.impostor_distance <= self.mate_distance)


def find_errors(embeddings: np.ndarray, labels: np.ndarray, threshold: float) -> FaceErrors:
    """Compares each face with all others, in blocks.

    Args:
        embeddings: float [N, D], of any length above 0.
        labels: int [N], the identity of each face; at least two identities.
        threshold: a pair is accepted at this distance or below.
    """
    unit = normalize(embeddings).astype(np.float32)
    labels = np.unique_inverse(np.asarray(labels)).inverse_indices
    parts = []
    for start in range(0, len(unit), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        distances = np.clip(2.0 - 2.0 * (unit[block] @ unit.T), 0.0, 4.0)
        is_same = labels[block, None] == labels[None, :]
        rows = np.arange(len(distances))
        impostor = np.where(is_same, np.inf, distances)
        is_same[rows, rows + start] = False  # not a pair
        genuine = np.where(is_same, distances, np.inf)
        other, mate = impostor.argmin(axis=1), genuine.argmin(axis=1)
        nearest = genuine[rows, mate]
        parts.append(
            (
                other,
                impostor[rows, other],
                np.where(np.isfinite(nearest), mate, rows + start),
                nearest,
                is_same.sum(axis=1),
                (genuine <= threshold).sum(axis=1),
            )
        )
    return FaceErrors(labels, *map(np.concatenate, zip(*parts, strict=True)))


def measure_identities(
    embeddings: np.ndarray,
    labels: np.ndarray,
    threshold: float,
    images: Sequence[str],
    identities: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The `by_identity` object of docs/report.md.

    Args:
        embeddings: float [N, D], of any length above 0.
        labels: int [N], the identity of each face; at least two identities.
        threshold: a pair is accepted at this distance or below.
        images: N names of the images.
        identities: N names, who is on each image; default: the labels.
    """
    errors = find_errors(embeddings, labels, threshold)
    _, first = np.unique(errors.labels, return_index=True)
    names = [str(identities[i] if identities is not None else labels[i]) for i in first.tolist()]
    return {
        "threshold": threshold,
        "faces": int((errors.genuine > 0).sum()),
        "confused": int(errors.is_confused.sum()),
        "worst": _worst(errors, names, images),
        "confusion": _confusion(errors, names, embeddings),
    }


def _worst(errors: FaceErrors, names: Sequence[str], images: Sequence[str]) -> list[dict[str, Any]]:
    """The identities with the largest share of confused faces, then of rejected pairs; then those closest to others."""
    counts = [
        np.bincount(errors.labels, weights, len(names)).astype(np.int64)
        for weights in (None, errors.is_confused, errors.genuine, errors.accepted)
    ]
    sizes, confused, genuine, accepted = counts
    order = np.argsort(errors.impostor_distance, kind="stable")
    closest = order[np.unique(errors.labels[order], return_index=True)[1]]  # the face of each that is nearest to others
    distances = errors.impostor_distance[closest]
    vr = np.where(genuine > 0, accepted / np.maximum(genuine, 1), 1.0)
    worst = np.lexsort((distances, vr, -confused, -confused / sizes))[:NUM_WORST]
    return [
        {
            "identity": names[i],
            "images": int(sizes[i]),
            "confused": int(confused[i]),
            "genuine": int(genuine[i]) // 2,  # a pair was counted from both its faces
            "accepted": int(accepted[i]) // 2,
            "nearest": names[errors.labels[errors.impostor[closest[i]]]],
            "distance": float(distances[i]),
            "faces": [images[closest[i]], images[errors.impostor[closest[i]]]],
        }
        for i in worst.tolist()
    ]


def _confusion(errors: FaceErrors, names: Sequence[str], embeddings: np.ndarray) -> dict[str, Any]:
    """The identities that are taken for each other most often, or else are closest, and a matrix of them."""
    pairs: dict[tuple[int, int], tuple[int, float]] = {}
    is_confused = errors.is_confused
    for row in np.argsort(errors.impostor_distance, kind="stable").tolist():
        key = int(errors.labels[row]), int(errors.labels[errors.impostor[row]])
        count, distance = pairs.get(key, (0, float(errors.impostor_distance[row])))
        pairs[key] = count - int(is_confused[row]), distance
    chosen: dict[int, None] = {}
    for pair in sorted(pairs, key=lambda pair: pairs[pair]):
        if len(chosen.keys() | set(pair)) <= NUM_CONFUSED:
            chosen |= dict.fromkeys(pair)
    found = list(chosen)
    nearest = np.where(is_confused, errors.impostor, errors.mate)
    has_mate = errors.genuine > 0
    taken = [
        np.bincount(errors.labels[nearest[(errors.labels == i) & has_mate]], minlength=len(names))[found].tolist()
        for i in found
    ]
    unit = normalize(embeddings).astype(np.float64)
    means = np.stack([unit[errors.labels == i].mean(axis=0) for i in found])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), _NO_LENGTH)
    distances = np.clip(2.0 - 2.0 * means @ means.T, 0.0, 4.0)
    return {"identities": [names[i] for i in found], "nearest": taken, "distance": np.round(distances, 4).tolist()}
