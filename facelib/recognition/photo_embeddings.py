"""Photos -> unit vectors, embedded as for the calibration, and the mean vector of each identity."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from facelib.alignment.photos import FaceCutter, PhotoFaces, UnusablePhotoError
from facelib.embedder import Embedder
from facelib.errors import BadRecord, FaceError
from facelib.image_decoding import Photos
from facelib.unit_vectors import normalize, row_norms

CHUNK_IMAGES = 256  # cut at a time: 10 MB of pixels


@dataclass
class Seen:
    """What `embed_photos` saw in the photos that it embedded.

    Attributes:
        several: how many faces each photo with several shows, by its place.
        qualities: of the face that was taken, by the number of the photo, 0 to 1.
        norms: of its embedding before it is normalised, by the number of the photo; empty if the model normalises.
    """

    several: dict[str, int] = field(default_factory=dict)
    qualities: dict[int, float] = field(default_factory=dict)
    norms: dict[int, float] = field(default_factory=dict)

    def add(self, number: int, place: str, found: PhotoFaces) -> None:
        """Notes what was found in photo `number`, which lies at `place`."""
        self.qualities[number] = found.crops[0].quality.score
        if found.num_faces > 1:
            self.several[place] = found.num_faces


def raw_vectors(embedder: Embedder, faces: np.ndarray, flip: bool) -> np.ndarray:
    """Embeddings as the model gives them, float64 [N, D]; not normalised where the embedder offers that.

    Args:
        embedder: its raw vectors are taken where it offers them.
        faces: uint8 [N, 112, 112, 3], RGB.
        flip: add the raw embedding of the mirrored face, as `evaluate_data.py --flip` does.
    """
    embed = getattr(embedder, "raw", embedder)
    raw = np.asarray(embed(faces), np.float64)
    return raw + embed(np.ascontiguousarray(faces[:, :, ::-1])) if flip else raw


def unit_vectors(embedder: Embedder, faces: np.ndarray, flip: bool, places: Sequence[str]) -> np.ndarray:
    """Unit embeddings, float32 [N, D].

    Args:
        embedder: see `raw_vectors`.
        faces: uint8 [N, 112, 112, 3], RGB.
        flip: see `raw_vectors`.
        places: where each face came from, for errors.

    Raises:
        FaceError: an embedding that is zero or not finite.
    """
    return normalize(raw_vectors(embedder, faces, flip), lambda i: places[i]).astype(np.float32)


def embed_photos(
    photos: Photos,
    numbers: Sequence[int] | np.ndarray,
    embedder: Embedder,
    flip: bool,
    *,
    bad: list[str],
    cut: FaceCutter | None = None,
    seen: Seen | None = None,
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
        cut: cuts one face out of each photo; by default the central one.
        seen: gets what was seen in the photos.
        desc: label of the progress bar; None for no bar.
    """
    cut = cut or FaceCutter()
    with tqdm(total=len(numbers), desc=desc, unit="img", disable=None if desc else True, leave=False) as bar:
        for start in range(0, len(numbers), CHUNK_IMAGES):
            chunk = numbers[start : start + CHUNK_IMAGES]
            faces, kept = [], []
            for i in map(int, chunk):
                try:
                    found = cut.cut(photos.read(i), photos.describe(i))
                except UnusablePhotoError as error:
                    bad.append(str(error))
                    continue
                except BadRecord as error:
                    bad.append(f"{photos.describe(i)}: {error}")
                    continue
                faces.append(found.crops[0].pixels)
                kept.append(i)
                if seen is not None:
                    seen.add(i, photos.describe(i), found)
            if kept:
                raw = raw_vectors(embedder, np.stack(faces), flip)
                places = [photos.describe(i) for i in kept]
                if seen is not None and hasattr(embedder, "raw"):
                    seen.norms.update(zip(kept, (row_norms(raw) / (1 + flip)).tolist(), strict=True))
                yield np.array(kept), normalize(raw, places.__getitem__).astype(np.float32)
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
            f"The embeddings of an identity must have a mean direction. The embeddings of identity {present[i]} "
            "cancel out: check the photos of this identity, or test the model."
        )
    return Centres(present, counts[present], (centres / norms).astype(np.float32))


def means_of(values: Mapping[int, float], labels: np.ndarray, classes: np.ndarray) -> list[float] | None:
    """The mean of a value of each photo over the photos of each identity; None where no photo has the value.

    Args:
        values: by the number of the photo.
        labels: int64 [N], identity of each photo.
        classes: int64 [C], the identities; each has a photo with a value, if any photo has one.
    """
    if not values:
        return None
    numbers = np.fromiter(values.keys(), np.int64, len(values))
    sums = np.bincount(labels[numbers], list(values.values()), len(labels))
    return [round(value, 4) for value in (sums[classes] / np.bincount(labels[numbers], minlength=len(labels))[classes])]
