"""Synthetic faces in the file formats of the field: identity folders, InsightFace .rec, older TFRecord, .bin."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from facelib.data.readers.mxnet_rec import face_payloads, write_rec
from facelib.data.synthetic.faces import encode_jpeg, synthetic_face
from facelib.data.tfrecord import encode_image_example, frame
from facelib.data.verification.bins import write_bin
from facelib.data.verification.pair_lists import sample_pairs
from facelib.errors import FaceError
from facelib.files import atomic_path, working_folder

HELD_OUT_IDENTITY = 1_000_000  # the first identity of verification sets: no training set comes near it


@dataclass(frozen=True)
class SyntheticSet:
    """A set of synthetic faces, as many for each identity.

    Attributes:
        num_identities: number of people.
        num_images: pictures of each person.
        first_identity: number of the first person.
        seed: another seed gives other people.
    """

    num_identities: int
    num_images: int
    first_identity: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.num_identities < 1 or self.num_images < 1 or self.first_identity < 0 or self.seed < 0:
            raise FaceError(
                "A synthetic set must have at least 1 identity with at least 1 image, and no number may be negative. "
                f"Received: identities={self.num_identities}, images={self.num_images}, first "
                f"identity={self.first_identity}, seed={self.seed}."
            )

    def __len__(self) -> int:
        return self.num_identities * self.num_images

    @property
    def labels(self) -> np.ndarray:
        """int64 [len(self)], 0 .. num_identities - 1, ascending."""
        return np.repeat(np.arange(self.num_identities), self.num_images)

    def jpeg(self, position: int) -> bytes:
        """The JPEG of the picture at `position`, 112 x 112 pixels. Its quality, 60 to 95, follows from its numbers."""
        identity, image = divmod(position, self.num_images)
        identity += self.first_identity
        quality = int(np.random.default_rng([self.seed, identity, image, 2]).integers(60, 96))
        return encode_jpeg(synthetic_face(self.seed, identity, image), quality)

    def jpegs(self) -> Iterator[bytes]:
        """All pictures in label order, with a progress bar."""
        return (self.jpeg(i) for i in tqdm(range(len(self)), desc="drawing faces", unit="face", disable=None))


def write_folders(out: Path, faces: SyntheticSet) -> None:
    """Writes `out`/0001/0001.jpg and so on; folder names are identity numbers from 1. No half-written folder."""
    _refuse_filled(out)
    with working_folder(out) as folder:
        for position, jpeg in enumerate(faces.jpegs()):
            identity, image = divmod(position, faces.num_images)
            file = folder / f"{faces.first_identity + identity + 1:04d}" / f"{image + 1:04d}.jpg"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(jpeg)


def write_insightface(out: Path, faces: SyntheticSet) -> None:
    """Writes `out`/train.rec, train.idx and property, as InsightFace does. No half-written folder."""
    _refuse_filled(out)
    with working_folder(out) as folder:
        write_rec(folder / "train.rec", face_payloads(list(faces.jpegs()), faces.labels.tolist()))
        (folder / "property").write_text(f"{faces.num_identities},112,112\n", encoding="utf-8")


def write_tfrecord(out: Path, faces: SyntheticSet) -> None:
    """Writes one TFRecord of `image_raw` (JPEG) and `label` (from 0), identity by identity, as older systems do."""
    with atomic_path(out) as part, open(part, "wb") as file:
        for jpeg, label in zip(faces.jpegs(), faces.labels.tolist(), strict=True):
            file.write(frame(encode_image_example(jpeg, label)))


def write_pairs(out: Path, faces: SyntheticSet, num_pairs: int) -> None:
    """Writes a verification .bin: 10 folds that share no identity, with half of the pairs genuine."""
    idx, is_same = sample_pairs(faces.labels, num_pairs, faces.seed)
    positions, places = np.unique(idx, return_inverse=True)  # only the pictures that are needed, each drawn once
    progress = tqdm(positions.tolist(), desc="drawing pairs", unit="face", disable=None)
    jpegs = [faces.jpeg(position) for position in progress]
    write_bin(out, [jpegs[place] for place in places], is_same)


WRITERS: dict[str, Callable[[Path, SyntheticSet], None]] = {
    "folders": write_folders,
    "rec": write_insightface,
    "tfrecord": write_tfrecord,
}


def _refuse_filled(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FaceError(
            f"OUT must be a new or empty folder. '{out}' already exists: remove it or choose a different name."
        )
