"""Checks that a converted model gives the embeddings of its parent: the faces, the cosines, the lowest allowed."""

from collections.abc import Callable

import numpy as np

from facelib.data.synthetic.faces import synthetic_face
from facelib.errors import FaceError
from facelib.export.targets import min_cosine_of
from facelib.unit_vectors import check_differ, normalize, row_cosines

SEED = 20  # any: every conversion sees the same faces
NUM_FACES = 8


def parity_faces(size: tuple[int, int] = (112, 112), num_faces: int = NUM_FACES) -> np.ndarray:
    """uint8 [num_faces, *size, 3], RGB: synthetic faces of different identities and one image of noise."""
    rng = np.random.default_rng(SEED)
    noise = rng.integers(0, 256, (*size, 3), np.uint8)
    faces = [_fit(synthetic_face(SEED, identity, 0), size) for identity in range(num_faces - 1)]
    return np.stack([*faces, noise])


def check_parity(
    what: str, kind: str, converted: Callable[[np.ndarray], np.ndarray], original: Callable, pixels: np.ndarray
) -> np.ndarray:
    """Cosines between the embeddings of a converted model and its parent, float [N].

    Args:
        what: names the two in the error, such as "'a.pb' and 'b.h5'".
        kind: of the new artefact; `TARGETS` has the lowest cosine that is allowed for it.
        converted: pixels -> embeddings [N, D].
        original: pixels -> embeddings [N, D] of the parent.
        pixels: [N, H, W, 3], as both take them.

    Raises:
        FaceError: a cosine that is too low, or not finite.
    """
    embeddings = [converted(pixels), original(pixels)]
    cosines = row_cosines(*embeddings)
    floor = min_cosine_of(kind)
    if not np.isfinite(cosines).all() or (floor is not None and cosines.min() < floor):
        rule = "a finite cosine" if floor is None else f"cosine >= {floor}"
        raise FaceError(
            f"{what} must give the same embeddings: {rule} for every face. Received: {cosines.min():.6f} for face "
            f"{int(cosines.argmin())} of {len(cosines)}. Nothing was written. Test the original model first."
        )
    for rows, name in zip(embeddings, ("the converted model", "its parent"), strict=True):
        check_differ(normalize(rows, f"face {{}} of {name}".format), f"{what}: {name}")
    return cosines


def _fit(face: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The face, repeated and cut to `size`. Any pixels serve the comparison."""
    tiles = [-(-size[axis] // face.shape[axis]) for axis in (0, 1)]
    return np.tile(face, (*tiles, 1))[: size[0], : size[1]]
