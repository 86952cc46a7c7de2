"""The vectors of two sets that may share people: a mean for each identity of one, each image of the other."""

from typing import NamedTuple

import numpy as np

from facelib.embedder import Embedder
from facelib.errors import FaceError
from facelib.image_decoding import Photos
from facelib.recognition.photo_embeddings import Centres, class_centres, embed_photos
from facelib.unit_vectors import check_differ


class SetVectors(NamedTuple):
    """What was embedded.

    Attributes:
        centres: the identities of the first set.
        images: float32 [V, D], unit vectors of images of the second set.
        image_idx: int64 [V], which images these are.
    """

    centres: Centres
    images: np.ndarray
    image_idx: np.ndarray


def embed_sets(
    train: Photos, labels: np.ndarray, sample: np.ndarray, valid: Photos, embedder: Embedder, flip: bool, bad: list[str]
) -> SetVectors:
    """Embeds a sample of a training set and all images of a verification set.

    Args:
        train: the training images.
        labels: int64 [N], the identity of each.
        sample: int64 [S], which of them to embed.
        valid: the verification images.
        embedder: the model.
        flip: add the embeddings of mirrored faces.
        bad: gets a line for each image that is left out.

    Raises:
        FaceError: no image of one of the sets could be embedded, or all embeddings are the same.
    """
    found = list(embed_photos(valid, range(len(valid)), embedder, flip, bad=bad, desc="verification"))
    centres = class_centres(embed_photos(train, sample, embedder, flip, bad=bad, desc="training"), labels)
    if not found or not len(centres.labels):
        side = "training" if found else "verification"
        raise FaceError(f"No {side} image could be embedded. The last of {len(bad)} bad images: {bad[-1]}")
    image_idx, images = (np.concatenate(part) for part in zip(*found, strict=True))
    check_differ(np.concatenate([centres.vectors, images]), f"'{embedder.name}'")
    return SetVectors(centres, images, image_idx)
