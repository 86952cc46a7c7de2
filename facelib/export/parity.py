"""Do two artefacts embed faces alike? The faces, the cosines and the verdict that every conversion shares."""

from collections.abc import Callable

import numpy as np

from facelib.data.synthetic.faces import synthetic_face
from facelib.errors import FaceError
from facelib.unit_vectors import row_cosines

SEED = 20  # any; the same faces at every stage
NUM_FACES = 8

# Lowest cosine over all faces that a conversion may have to what it was made from. int8 is judged by its test script.
MIN_COSINE = {"frozen_pb": 0.99999, "optimized_pb": 0.99999, "tflite_float": 0.9999, "tflite_fp16": 0.9995,
              "onnx": 0.99999}  # fmt: skip


def parity_faces(size: tuple[int, int] = (112, 112), num_faces: int = NUM_FACES) -> np.ndarray:
    """Faces of different people and, last, one of pure noise: uint8 [num_faces, *size, 3], RGB, always the same."""
    rng = np.random.default_rng(SEED)
    noise = rng.integers(0, 256, (*size, 3), np.uint8)
    faces = [_fit(synthetic_face(SEED, identity, 0), size) for identity in range(num_faces - 1)]
    return np.stack([*faces, noise])


def check_parity(
    what: str, kind: str, converted: Callable[[np.ndarray], np.ndarray], original: Callable, pixels: np.ndarray
) -> np.ndarray:
    """Cosines of `converted(pixels)` to `original(pixels)`.

    Args:
        what: names the pair in the error, e.g. "'a.pb' and 'b.h5'".   kind: of the new artefact; see `MIN_COSINE`.
        pixels: what both take, [N, H, W, 3].

    Raises:
        FaceError: the worst is below the floor of `kind`, or not finite.
    """
    cosines = row_cosines(converted(pixels), original(pixels))
    floor = MIN_COSINE.get(kind)
    if not np.isfinite(cosines).all() or (floor is not None and cosines.min() < floor):
        raise FaceError(
            f"{what} must embed faces alike: cosine >= {floor} on each. Received: {cosines.min():.6f} on face "
            f"{int(cosines.argmin())} of {len(cosines)}. Nothing was written; test the original first."
        )
    return cosines


def _fit(face: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The face repeated and cut to `size`: numbers matter here, looks do not."""
    tiles = [-(-size[axis] // face.shape[axis]) for axis in (0, 1)]
    return np.tile(face, (*tiles, 1))[: size[0], : size[1]]
