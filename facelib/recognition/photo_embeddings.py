"""Photos -> unit vectors, embedded as for the calibration, and the mean vector of each identity."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from facelib.alignment.photos import FaceCutter, UnusablePhotoError
from facelib.embedder import Embedder
from facelib.errors import BadRecord, FaceError
from facelib.image_decoding import Photos
from facelib.unit_vectors import normalize, row_norms

CHUNK_IMAGES = 256  # cut at a time: 10 MB of pixels


def unit_vectors(embedder: Embedder, faces: np.ndarray, flip: bool, places: Sequence[str]) -> np.ndarray:
    """Unit embeddings, float32 [N, D].

    Args:
        embedder: its raw vectors are taken where it offers them.
        faces: uint8 [N, 112, 112, 3], RGB.
        flip: add the raw embedding of the mirrored face before normalising, as `evaluate_data.py --flip` does.
        places: where each face came from, for errors.

    Raises:
        FaceError: an embedding that is zero or not finite.
    """
    embed = getattr(embedder, "raw", embedder)
    raw = np.asarray(embed(faces), np.float64)
    if flip:
        raw = raw + embed(np.ascontiguousarray(faces[:, :, ::-1]))
    return normalize(raw, lambda i: places[i]).astype(np.float32)


def embed_photos(
    photos: Photos,
    numbers: Sequence[int] | np.ndarray,
    embedder: Embedder,
    flip: bool,
    *,
    bad: list[str],
    desc: str | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (numbers int64 [n], unit vectors float32 [n, D]), `CHUNK_IMAGES` photos at a time, in order.

    Photos without a usable face are left out.

    Args:
        photos: where the photos are read from.
        numbers: which photos.
        embedder: the model.
        flip: add the embeddings of mirrored faces.
        bad: gets a line for each photo that is left out.
        desc: label of the progress bar; None for no bar.
    """
    cut = FaceCutter()
    with tqdm(total=len(numbers), desc=desc, unit="img", disable=None if desc else True, leave=False) as bar:
        for start in range(0, len(numbers), CHUNK_IMAGES):
            chunk = numbers[start : start + CHUNK_IMAGES]
            faces, kept = [], []
            for i in map(int, chunk):
                try:
                    faces.append(cut(photos.read(i), photos.describe(i)))
                    kept.append(i)
                except UnusablePhotoError as error:
                    bad.append(str(error))
                except BadRecord as error:
                    bad.append(f"{photos.describe(i)}: {error}")
            if kept:
                places = [photos.describe(i) for i in kept]
                yield np.array(kept), unit_vectors(embedder, np.stack(faces), flip, places)
            bar.update(len(chunk))


class Centres(NamedTuple):
    """Mean vectors of identities.

    Attributes:
        labels: int64 [C], the identities.
        counts: int64 [C], how many faces each vector is the mean of.
        vectors: float32 [C, D], rows of unit length.
    """

    labels: np.ndarray
    counts: np.ndarray
    vectors: np.ndarray


def class_centres(embedded: Iterator[tuple[np.ndarray, np.ndarray]], labels: np.ndarray) -> Centres:
    """The mean unit vector of every identity that has a face, itself of unit length.

    Args:
        embedded: what `embed_photos` yields.
        labels: int64 [N], identity of each photo.
    """
    num_classes = int(labels.max()) + 1
    sums, counts = None, np.zeros(num_classes, np.int64)
    for numbers, vectors in embedded:
        if sums is None:
            sums = np.zeros((num_classes, vectors.shape[1]), np.float32)
        np.add.at(sums, labels[numbers], vectors)
        np.add.at(counts, labels[numbers], 1)
    present = np.flatnonzero(counts)
    if sums is None or not len(present):
        return Centres(present, counts[present], np.zeros((0, 0), np.float32))
    centres = sums[present]
    norms = row_norms(centres)[:, None]
    if (norms < 1e-6).any():
        i = int(np.argmin(norms))
        raise FaceError(
            f"The embeddings of one identity have a mean direction. Those of identity {present[i]} cancel out: check "
            f"its photos, or test the model."
        )
    return Centres(present, counts[present], (centres / norms).astype(np.float32))
