"""Pairs across two models: the first face of a pair is a probe, the second one is in a gallery of another model."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from facelib.embedder import Embedder
from facelib.errors import FaceError
from facelib.evaluation.embed_images import Embedded, embed_images
from facelib.evaluation.verification_sets import FaceSet
from facelib.unit_vectors import normalize


@dataclass(frozen=True)
class GalleryModel:
    """The model that embeds the gallery.

    Attributes:
        name: its file name.
        sha256: SHA-256 of its file.
        embedder: the model, opened.
    """

    name: str
    sha256: str
    embedder: Embedder

    def as_dict(self) -> dict[str, str]:
        """`gallery_model` of a report."""
        return {"name": self.name, "sha256": self.sha256}


def embed_across(faces: FaceSet, probe: Embedder, gallery: Embedder, **options: Any) -> Embedded:
    """Embeds the first image of each pair with one model and the second with another.

    Args:
        faces: a set with listed pairs.
        probe: embeds images 0, 2, 4, ...
        gallery: embeds images 1, 3, 5, ...
        options: more arguments of `embed_images`.

    Returns:
        rows of unit length; number of images and time are those of the probes. The norms of two models are not of one
        scale, so there are none.

    Raises:
        FaceError: the set has identities instead of pairs, or the models give embeddings of different sizes.
    """
    if faces.is_same is None:
        raise FaceError(
            f"--gallery-model needs listed pairs, because the first face of each pair is the probe. '{faces.where}' "
            "is a folder of identities: make a .bin from it with make_bin.py."
        )
    sides = [
        embed_images(model, faces.images[k::2], where=faces.where, names=faces.names[k::2], **options)
        for k, model in enumerate((probe, gallery))
    ]
    sizes = [side.rows.shape[1] for side in sides]
    if sizes[0] != sizes[1]:
        raise FaceError(
            f"The embeddings of probe and gallery must have the same size. Received: {sizes[0]} and {sizes[1]} "
            "values. Use a different --gallery-model."
        )
    rows = np.stack([normalize(side.rows) for side in sides], axis=1).reshape(-1, sizes[0]).astype(np.float32)
    return Embedded(rows, None, sides[0].num_distinct, sides[0].seconds)
