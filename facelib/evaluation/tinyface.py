"""TinyFace: closed-set identification of native low-resolution faces among distractors.

The set (Cheng, Zhu, Gong, "Low-Resolution Face Recognition", ACCV 2018) has three folders of images:

| folder | images | file names |
|---|---|---|
| Probe | 3,728 | PERSON_NUMBER.jpg |
| Gallery_Match | 4,443, of the people of the probes | PERSON_NUMBER.jpg |
| Gallery_Distractor | 153,428, of other people | any |

Rank k is counted as the scripts of the field do (mk-minchul/AdaFace, validation_lq/validate_tinyface.py): over images
of the gallery, not over people. A probe is found at rank k if one of its person's images is among the k most similar.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facelib.embedder import Embedder
from facelib.errors import BadRecord, FaceError
from facelib.evaluation.embed_images import Embedded, embed_images
from facelib.evaluation.metrics import wilson_interval
from facelib.evaluation.verification_sets import letterboxed
from facelib.files import read_image_file
from facelib.image_decoding import IMAGE_SUFFIXES
from facelib.unit_vectors import normalize

PROBES, GALLERY, DISTRACTORS = "Probe", "Gallery_Match", "Gallery_Distractor"
PUBLISHED = {PROBES: 3728, GALLERY: 4443, DISTRACTORS: 153428}  # images
RANKS = (1, 5, 20)
CHUNK_IMAGES = 8192  # encoded images held at a time
BLOCK_PROBES = 128  # probes compared with the whole gallery at a time: 80 MB of cosines


@dataclass(frozen=True)
class TinyFaceFiles:
    """The images of the set, ascending by name.

    Attributes:
        files: {folder: images}.
        probe_ids: int64 [P], the person of each probe.
        gallery_ids: int64 [G], the person of each image of Gallery_Match.
    """

    files: dict[str, list[Path]]
    probe_ids: np.ndarray
    gallery_ids: np.ndarray

    @property
    def notes(self) -> list[str]:
        """Says which folders have another number of images than the published set."""
        return [
            f"{folder} of TinyFace has {count:,} images; here it has {len(self.files[folder]):,}, so the rates cannot "
            "be compared with published rates"
            for folder, count in PUBLISHED.items()
            if len(self.files[folder]) != count
        ]


def find_tinyface(folder: Path) -> TinyFaceFiles:
    """The images in the three folders of TinyFace's Testing_Set.

    Raises:
        FaceError: a folder is missing, has no images, or one whose name does not begin with the person.
    """
    files = {}
    for role in PUBLISHED:
        place = Path(folder) / role
        files[role] = sorted(file for file in place.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files[role]:
            raise FaceError(
                f"TinyFace must have the folders {', '.join(PUBLISHED)}. There are no images in '{place}'. Pass the "
                "folder Testing_Set, or the folder of its aligned crops."
            )
    return TinyFaceFiles(files, _people(files[PROBES]), _people(files[GALLERY]))


def _people(files: Sequence[Path]) -> np.ndarray:
    people = []
    for file in files:
        match = re.match(r"(\d{1,9})_", file.name)
        if match is None:
            raise FaceError(
                f"The names of TinyFace images must be PERSON_NUMBER.jpg. Received: '{file}'. Copy the set again."
            )
        people.append(int(match[1]))
    return np.array(people, np.int64)


def embed_files(embedder: Embedder, files: Sequence[Path], *, letterbox: bool = False, **options: Any) -> Embedded:
    """Embeds images in bounded memory.

    Args:
        embedder: its raw vectors are taken where it offers them.
        files: of the images.
        letterbox: fit images of another size into the input, with grey bars, instead of refusing them.
        options: passed to `embed_images`.

    Raises:
        FaceError: an image that cannot be read or has another size, by name.
    """

    def read(file: Path) -> bytes:
        try:
            data = read_image_file(file)
        except BadRecord as error:
            raise FaceError(f"The image '{file}': {error}. Copy the set again.") from error
        return letterboxed(data, str(file)) if letterbox else data

    parts = []
    for start in range(0, len(files), CHUNK_IMAGES):
        some = files[start : start + CHUNK_IMAGES]
        where, names = str(some[0].parent), [file.name for file in some]
        parts.append(embed_images(embedder, map(read, some), where=where, names=names, **options))
    rows = np.concatenate([part.rows for part in parts])
    return Embedded(rows, None, sum(part.num_distinct for part in parts), sum(part.seconds for part in parts))


def ranks_of_probes(
    probes: np.ndarray, probe_ids: np.ndarray, gallery: np.ndarray, gallery_ids: np.ndarray, distractors: np.ndarray
) -> np.ndarray:
    """The rank of each probe: 1 + the number of images of others that are at least as similar as its best match.

    A tie counts against the probe. A probe whose person is not in the gallery has rank 0: it is not found.

    Args:
        probes: float [P, D].
        probe_ids: int [P].
        gallery: float [G, D], images of people.
        gallery_ids: int [G].
        distractors: float [N, D], images of nobody among them.

    Returns: int64 [P].
    """
    rows = normalize(np.concatenate([gallery, distractors])).astype(np.float32).T
    unit, ranks = normalize(probes).astype(np.float32), np.zeros(len(probes), np.int64)
    for start in range(0, len(unit), BLOCK_PROBES):
        some = slice(start, start + BLOCK_PROBES)
        cosines = unit[some] @ rows
        is_match = np.zeros(cosines.shape, bool)
        is_match[:, : len(gallery)] = probe_ids[some, None] == gallery_ids
        best = np.where(is_match, cosines, -np.inf).max(axis=1, keepdims=True)
        ahead = ((cosines >= best) & ~is_match).sum(axis=1)
        ranks[some] = np.where(is_match.any(axis=1), ahead + 1, 0)
    return ranks


def rank_rates(ranks: np.ndarray, at: Sequence[int] = RANKS) -> dict[str, dict[str, Any]]:
    """{"1": {"rate", "ci95"}}: share of the probes that are found at each rank, with Wilson's interval.

    Args:
        ranks: of `ranks_of_probes`.
        at: the ranks.
    """
    rates = {}
    for k in at:
        found = int(((ranks > 0) & (ranks <= k)).sum())
        rates[str(k)] = {"rate": found / len(ranks), "ci95": list(wilson_interval(found, len(ranks)))}
    return rates
