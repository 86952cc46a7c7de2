"""The map of a set: some of its faces on a plane, where faces with similar embeddings are near each other.

The plane is scikit-learn's t-SNE (van der Maaten & Hinton 2008). It keeps neighbours, not distances: how far two groups
of faces are from each other on it means little. The same embeddings give the same map.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from facelib.evaluation.by_identity import find_errors
from facelib.evaluation.embed_images import Embedded
from facelib.evaluation.metrics import pair_distances
from facelib.evaluation.results import SetResult
from facelib.evaluation.verification_sets import FaceSet
from facelib.image_decoding import decode_or_blank
from facelib.unit_vectors import normalize

MAX_FACES = 1000
MAX_PER_IDENTITY = 20
SIDE = 48  # pixels of a small picture
RIGHT, CONFUSED, FALSE_ACCEPT, FALSE_REJECT = VERDICTS = ("right", "confused", "false accept", "false reject")
_PERPLEXITY = 30
_SEED = 0
_SAME = 1e-6  # of vectors, in each value


@dataclass(frozen=True)
class MappedFace:
    """A face on the map.

    Attributes:
        image: its name in the set.
        identity: who it is; for a .bin 'person K', the same for faces that genuine pairs join.
        verdict: one of `VERDICTS`: 'confused' in a folder, where the nearest other face is of another identity; 'false
            accept' or 'false reject' of a pair with this face.
        other: name of the other image of that error; '' for 'right'.
    """

    image: str
    identity: str
    verdict: str
    other: str


@dataclass(frozen=True)
class FaceMap:
    """The map of one set.

    Attributes:
        name: of the set.
        set_sha256: of the `source` of its result; '' where it has none.
        faces: M of them.
        vectors: float32 [M, D], unit embeddings.
        places: float32 [M, 2], x and y on the map, 0 to 1.
        pictures: uint8 [M, 48, 48, 3], RGB.
        num_faces: distinct images of the whole set.
    """

    name: str
    set_sha256: str
    faces: list[MappedFace]
    vectors: np.ndarray
    places: np.ndarray
    pictures: np.ndarray
    num_faces: int

    def say_bound(self) -> str:
        """That not all faces are on the map, in one line."""
        return (
            f"the map of {self.name} has {len(self.faces):,} of {self.num_faces:,} faces: people with "
            "errors first, then others, drawn with a fixed seed"
        )


def make_map(faces: FaceSet, embedded: Embedded, result: SetResult) -> FaceMap:
    """The map of a set after its test. Of a set with more than 1,000 images it has at most 1,000.

    Up to half of these are faces with errors and the other faces of these errors. Then come more faces of the same
    people, up to three quarters, and then other people, drawn with a fixed seed.

    Args:
        faces: the set.
        embedded: its embeddings.
        result: its measures; the threshold of ACC says which pairs are wrong.
    """
    if faces.labels is not None:
        mapped, rows, groups = _folder_faces(faces, embedded)
    else:
        mapped, rows, groups = _pair_faces(faces, embedded, float(result.accuracy.thresholds.mean()))
    chosen = choose_faces(mapped, groups)
    vectors = normalize(embedded.rows[rows[chosen]]).astype(np.float32)
    return FaceMap(
        name=faces.name,
        set_sha256=str((result.source or {}).get("sha256") or ""),
        faces=[mapped[i] for i in chosen.tolist()],
        vectors=vectors,
        places=place(vectors),
        pictures=np.stack([_picture(faces.images[row]) for row in rows[chosen].tolist()]),
        num_faces=len(mapped),
    )


def choose_faces(mapped: list[MappedFace], groups: np.ndarray) -> np.ndarray:
    """Which faces are on the map: int [M], ascending, M at most `MAX_FACES`.

    Args:
        mapped: all faces.
        groups: int [N], the group of each: at most `MAX_PER_IDENTITY` of one are taken.
    """
    if len(mapped) <= MAX_FACES:
        return np.arange(len(mapped))
    order = np.argsort(groups, kind="stable")
    split = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    drawn = [split[i] for i in np.random.default_rng(_SEED).permutation(len(split)).tolist()]
    is_wrong = np.array([face.verdict != RIGHT for face in mapped])
    row_of = {face.image: i for i, face in enumerate(mapped)}
    hard = [group for group in drawn if is_wrong[group].any()]
    chosen: set[int] = set()
    for group in hard:  # the wrong faces, each with the other face of its error
        wrong = group[is_wrong[group]].tolist()
        _add(chosen, [*wrong, *(row_of[mapped[i].other] for i in wrong if mapped[i].other in row_of)], MAX_FACES // 2)
    for group, limit in [*((one, 3 * MAX_FACES // 4) for one in hard), *((one, MAX_FACES) for one in drawn)]:
        _add(chosen, group[:MAX_PER_IDENTITY].tolist(), limit)
    return np.array(sorted(chosen))


def _add(chosen: set[int], rows: Iterable[int], limit: int) -> None:
    """Adds the rows, if there is room for all of them."""
    if len(chosen | set(rows)) <= limit:
        chosen |= set(rows)


def place(vectors: np.ndarray) -> np.ndarray:
    """Where the faces are on the map: float32 [M, 2], 0 to 1, the longer side filled.

    Args:
        vectors: float32 [M, D], unit embeddings, M >= 2.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if np.ptp(vectors, axis=0).max() < _SAME:  # t-SNE cannot begin with them
        return np.full((len(vectors), 2), 0.5, np.float32)
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    with threadpool_limits(1):  # more threads wait for each other at every step: many times slower on a busy computer
        places = TSNE(perplexity=perplexity, init="pca", random_state=_SEED).fit_transform(vectors)
    low, high = places.min(axis=0), places.max(axis=0)
    longest = max(float((high - low).max()), 1e-12)
    return ((places - (low + high) / 2) / longest + 0.5).astype(np.float32)


Faces = tuple[list[MappedFace], np.ndarray, np.ndarray]  # the faces, int [N] their rows, int [N] their groups


def _folder_faces(faces: FaceSet, embedded: Embedded) -> Faces:
    labels = np.asarray(faces.labels)
    errors = find_errors(embedded.rows, labels, threshold=0.0)
    identities = faces.identities or [str(label) for label in labels.tolist()]
    mapped = [
        MappedFace(image, identity, *((CONFUSED, faces.names[other]) if is_confused else (RIGHT, "")))
        for image, identity, is_confused, other in zip(
            faces.names, identities, errors.is_confused.tolist(), errors.impostor.tolist(), strict=True
        )
    ]
    return mapped, np.arange(len(mapped)), labels


def _pair_faces(faces: FaceSet, embedded: Embedded, threshold: float) -> Faces:
    """Each distinct image once, by the bytes, with the error of the worst of its pairs."""
    is_same = np.asarray(faces.is_same, bool)
    first: dict[bytes, int] = {}
    rows = [first.setdefault(image, row) for row, image in enumerate(faces.images)]
    distances = pair_distances(embedded.rows)
    error: dict[int, tuple[str, str]] = {}
    wrong = np.flatnonzero((distances <= threshold) != is_same)
    for pair in wrong[np.argsort(-np.abs(distances[wrong] - threshold), kind="stable")].tolist():
        ends = rows[2 * pair], rows[2 * pair + 1]
        for row, other in (ends, ends[::-1]):
            error.setdefault(row, (FALSE_REJECT if is_same[pair] else FALSE_ACCEPT, faces.names[other]))
    distinct = np.array(list(first.values()))
    groups = _people(np.array(rows), is_same)[distinct]
    names = faces.identities
    mapped = [
        MappedFace(faces.names[row], names[row] if names else f"person {group}", *error.get(row, (RIGHT, "")))
        for row, group in zip(distinct.tolist(), groups.tolist(), strict=True)
    ]
    return mapped, distinct, groups


def _people(rows: np.ndarray, is_same: np.ndarray) -> np.ndarray:
    """int [2P]: the same number for faces that genuine pairs join. `rows`: int [2P], equal for equal images."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = rows.reshape(-1, 2)[is_same].T
    joined = coo_array((np.ones(ends.shape[1]), ends), shape=(len(rows), len(rows)))
    return connected_components(joined, directed=False)[1][rows]


def _picture(image: bytes) -> np.ndarray:
    return cv2.resize(decode_or_blank(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
