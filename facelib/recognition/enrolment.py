"""Photos of people -> one unit vector a person, with what was seen of each: what `enroll` and `gallery --add` share."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from facelib.alignment.flags import several_note
from facelib.alignment.photos import FaceCutter
from facelib.embedder import Embedder
from facelib.errors import FaceError
from facelib.recognition.gallery import Gallery, check_names
from facelib.recognition.photo_embeddings import Seen, class_centres, embed_photos, means_of
from facelib.unit_vectors import check_differ
from facelib.wording import printable


@dataclass(frozen=True)
class Enrolled:
    """People as their photos gave them.

    Attributes:
        vectors: float [N, D], rows of unit length.
        names: N identities.
        num_photos: N counts.
        quality: N numbers 0 to 1, or None.
        norms: N numbers, or None.
        notes: lines about the photos for the user.
    """

    vectors: np.ndarray
    names: list[str]
    num_photos: list[int]
    quality: list[float] | None
    norms: list[float] | None
    notes: list[str]

    def in_gallery(self, like: Gallery) -> Gallery:
        """These people in place of those of the gallery `like`."""
        return replace(
            like, vectors=self.vectors, names=self.names, num_photos=self.num_photos, quality=self.quality,
            norms=self.norms,
        )  # fmt: skip


def enrol_photos(source, folders: Path, embedder: Embedder, flip: bool, cut: FaceCutter, model: Path) -> Enrolled:
    """Embeds the photos of each person and takes the mean.

    Args:
        source: photos with identities, as `open_source` gives them.
        folders: where they are, for errors.
        embedder: of the model.
        flip: add the embeddings of the mirrored faces.
        cut: finds the face of a photo.
        model: its path, for errors.

    Raises:
        FaceError: a name cannot be printed, nobody could be enrolled, or all people have one embedding.
    """
    check_names(source.class_names)
    bad: list[str] = []
    seen = Seen()
    embedded = embed_photos(source, range(len(source)), embedder, flip, bad=bad, cut=cut, seen=seen, desc="enroll")
    centres = class_centres(embedded, source.labels)
    if not len(centres.labels):
        raise FaceError(
            f"None of the people in '{folders}' could be enrolled. The first of {len(bad)} bad photos: {bad[0]}"
        )
    check_differ(centres.vectors, f"'{model}'")
    lost = sorted(set(source.labels.tolist()) - set(centres.labels.tolist()))
    return Enrolled(
        centres.vectors, [source.class_names[label] for label in centres.labels], centres.counts.tolist(),
        quality=means_of(seen.qualities, source.labels, centres.labels),
        norms=means_of(seen.norms, source.labels, centres.labels),
        notes=[
            *(f"note: {printable(note)}" for note in (*source.notes, *several_note(seen.several, cut.rule))),
            *(f"left out: {line}" for line in bad),
            *(f"not enrolled: {source.class_names[label]}, because none of the photos shows a face" for label in lost),
        ],
    )  # fmt: skip
