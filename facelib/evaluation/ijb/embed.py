"""From the loose crops of IJB-B and IJB-C to one embedding an image, in bounded memory."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from facelib.alignment.align import align_face
from facelib.alignment.photos import decode_photo
from facelib.embedder import Embedder
from facelib.errors import BadRecord, FaceError
from facelib.evaluation.ijb.files import IjbFaces
from facelib.files import read_image_file
from facelib.unit_vectors import check_norms, row_norms

CHUNK_IMAGES = 512  # aligned faces held at a time, twice: 38 MB of pixels


class IjbEmbeddings(NamedTuple):
    """The embeddings of all images.

    Attributes:
        rows: float32 [N, D], not normalised where the embedder offers raw vectors.
        seconds: time in the runtime alone, without decoding.
        mean_norm: mean L2 norm before the embedding of the mirrored face is added.
    """

    rows: np.ndarray
    seconds: float
    mean_norm: float


def check_images(faces: IjbFaces, folder: Path) -> None:
    """Refuses a folder without some of the images, before hours of work.

    Raises:
        FaceError: no such folder, or missing images.
    """
    if not Path(folder).is_dir():
        raise FaceError(f"--images must be the folder of the loose crops. Received: '{folder}', which is not a folder.")
    missing = [name for name in faces.images if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        raise FaceError(
            f"--images must hold every image that the meta files list. {len(missing)} of {len(faces.images)} "
            f"are not in '{folder}': {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}. Unpack "
            "'loose_crop' again."
        )


def _read(file: Path) -> bytes:
    try:
        return read_image_file(file)
    except BadRecord as error:
        raise FaceError(f"The image '{file}': {error}. Copy the set again.") from error


def stream_faces(faces: IjbFaces, folder: Path, chunk: int, threads: int) -> Iterator[np.ndarray]:
    """Yields the aligned faces, uint8 [<= chunk, 112, 112, 3], RGB; the next chunk is read while one is in use.

    Raises:
        FaceError: a damaged or unreadable image, by name.
    """
    folder = Path(folder)

    def read(i: int) -> np.ndarray:
        file = folder / faces.images[i]
        return align_face(decode_photo(_read(file), f"'{file}'"), faces.points[i])

    starts = range(0, len(faces.images), chunk)
    with ThreadPoolExecutor(threads) as pool:
        jobs: list[Future[np.ndarray]] = []
        for start in starts:
            ahead, jobs = jobs, [pool.submit(read, i) for i in range(start, min(start + chunk, len(faces.images)))]
            if ahead:
                yield np.stack([job.result() for job in ahead])
        if jobs:
            yield np.stack([job.result() for job in jobs])


def embed_faces(
    embedder: Embedder, faces: IjbFaces, folder: Path, *, flip: bool, threads: int, progress: bool = True
) -> IjbEmbeddings:
    """Embeds every image once, raw vectors where the embedder offers them.

    Args:
        embedder: its raw vectors are taken where it offers them.
        faces: names of the images, and their landmarks.
        folder: the folder of the loose crops.
        flip: add the embedding of the mirrored face (F1).
        threads: number of threads that decode and align.
        progress: whether a bar is shown.

    Raises:
        FaceError: what `stream_faces` refuses, or an embedding that is not finite or zero, named by image.
    """
    embed = getattr(embedder, "raw", embedder)
    num_images, rows, done, seconds, norm_sum = len(faces.images), np.empty((0, 0), np.float32), 0, 0.0, 0.0
    with tqdm(total=num_images, unit="img", disable=None if progress else True, leave=False) as bar:
        for images in stream_faces(faces, folder, CHUNK_IMAGES, threads):
            if not done:
                rows = np.empty((num_images, embed(images[:1]).shape[1]), np.float32)  # compiles, outside the clock
            started = time.perf_counter()
            found = np.asarray(embed(images), np.float32)
            mirrored = np.asarray(embed(np.ascontiguousarray(images[:, :, ::-1])), np.float32) if flip else 0.0
            seconds += time.perf_counter() - started
            norm_sum += float(row_norms(found).sum())
            rows[done : done + len(found)] = found + mirrored

            def name_of(i: int, first: int = done) -> str:
                return f"'{faces.images[first + i]}'"

            check_norms(row_norms(rows[done : done + len(found)]), name_of)
            done += len(found)
            bar.update(len(found))
    return IjbEmbeddings(rows, seconds, norm_sum / num_images)
