"""Embedding many encoded images with one embedder: each distinct image once, decoded while the runtime works."""

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from facelib.data.verification.bins import stream_images
from facelib.embedder import Embedder
from facelib.unit_vectors import check_norms, row_norms

CHUNK_IMAGES = 512  # decoded at a time: 19 MB of pixels; a slow runtime asks for fewer, `chunk_images`


class Embedded(NamedTuple):
    """The embeddings of a set, and the time that they took.

    Attributes:
        rows: float32 [N, D], not normalised where the embedder offers raw vectors.
        norms: float64 [N], L2 norms of the raw vectors without flip; None when the runtime hides them.
        num_distinct: number of distinct images.
        seconds: time in the runtime alone.
    """

    rows: np.ndarray
    norms: np.ndarray | None
    num_distinct: int
    seconds: float


def embed_images(
    embedder: Embedder,
    images: Iterable[bytes],
    *,
    where: str,
    names: Sequence[str] | None = None,
    flip: bool = False,
    progress: str | None = None,
    threads: int | None = None,
) -> Embedded:
    """Embeds JPEG or PNG images; equal bytes once (LFW's .bin has 12,000 entries, 7,701 images).

    Args:
        embedder: its raw vectors are taken where it offers them.
        images: N encoded images, JPEG or PNG.
        where: names the set in errors.
        names: N names of the images, for errors; default: their numbers.
        flip: add the embedding of the mirrored image.
        progress: label of the progress bar; None for no bar.
        threads: number of threads that decode.

    Raises:
        FaceError: an unreadable image, or an embedding that is zero or not finite. Names the record.
    """
    first_record: dict[bytes, int] = {}
    images = list(images)
    for record, image in enumerate(images):
        first_record.setdefault(image, record)
    distinct = list(first_record)
    records = [names[record] if names else record for record in first_record.values()]
    embed, size = getattr(embedder, "raw", embedder), getattr(embedder, "chunk_images", CHUNK_IMAGES)
    rows: list[np.ndarray] = []
    mirrored: list[np.ndarray] = []
    seconds = 0.0
    with tqdm(total=len(distinct), desc=progress, unit="img", disable=None if progress else True, leave=False) as bar:
        for chunk in stream_images(distinct, size, source=where, records=records, num_threads=threads):
            if not rows:
                embed(chunk[:1])  # compiles and warms up, outside the clock
            started, aside = time.perf_counter(), getattr(embedder, "seconds_aside", 0.0)
            rows.append(np.asarray(embed(chunk), np.float32))
            if flip:
                mirrored.append(np.asarray(embed(np.ascontiguousarray(chunk[:, :, ::-1])), np.float32))
            seconds += time.perf_counter() - started - (getattr(embedder, "seconds_aside", 0.0) - aside)
            bar.update(len(chunk))
    plain = _checked(np.concatenate(rows), where, records)
    total = _checked(plain + np.concatenate(mirrored), where, records) if flip else plain
    position = {image: i for i, image in enumerate(distinct)}
    place = [position[image] for image in images]
    norms = row_norms(plain)[place] if hasattr(embedder, "raw") else None
    return Embedded(total[place], norms, len(distinct), seconds)


def _checked(embeddings: np.ndarray, where: str, records: list) -> np.ndarray:
    check_norms(row_norms(embeddings), lambda i: f"record {records[i]} of '{where}'")
    return embeddings
