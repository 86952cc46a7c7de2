"""Verification sets: the `.bin` files of image pairs that the field exchanges.

A `.bin` is a pickle of `(images, is_same)`: 2N encoded images (JPEG or PNG) and N truth values. Pair k is images 2k and
2k + 1. The pairs are stored fold by fold, so their order matters.
"""

import os
import pickle
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from facelib.data.verification.bin_pickle import RefusedPickleError, load_pickle
from facelib.errors import BadRecord, FaceError, short_repr
from facelib.files import require_file, write_bytes
from facelib.image_decoding import decode_image

IMAGE_SIZE = (112, 112)  # height, width in pixels
MAX_BIN_BYTES = 2 * 2**30  # a .bin is read whole; the largest public one has 0.1 GiB
MAKE_HINT = "Make one from folders of faces: python make_bin.py FOLDERS OUT.bin"


@dataclass(frozen=True)
class Pairs:
    """One verification set.

    Attributes:
        images: 2N encoded images, JPEG or PNG.
        is_same: bool [N]; pair k is images 2k and 2k + 1.
        name: for tables, such as 'lfw'.
        path: where it was read, for messages.
    """

    images: list[bytes]
    is_same: np.ndarray
    name: str
    path: str = ""

    def __len__(self) -> int:
        return len(self.is_same)


def load_bin(path: Path) -> Pairs:
    """Reads a verification set, in every variant of the format, and runs no code that the file may contain.

    Images may be stored as `bytes`, as uint8 arrays of NumPy 1 or 2, or as Python 2 strings; truth values as bools,
    NumPy bools, or ints 0 and 1, in a list or an array. Images are not decoded here; see `decode_images`.

    Raises:
        FaceError: not a verification set, damaged, empty, or a pickle that asks to call something.
    """
    path = require_file(path, "verification set")
    if path.stat().st_size > MAX_BIN_BYTES:
        raise FaceError(
            f"A verification set can have at most {MAX_BIN_BYTES:,} bytes. '{path}' has {path.stat().st_size:,}."
        )
    try:
        content = load_pickle(path.read_bytes())
    except RefusedPickleError as error:
        raise FaceError(
            f"A verification set must be a plain list of images. The pickle '{path}' tries to load {error}. Nothing "
            f"in the pickle was executed. Do not use this file. {MAKE_HINT}"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # the unpickler raises nearly any type on damaged bytes
        reason = re.sub(r"\s+", " ", f"{type(error).__name__}: {str(error)[:160]}")
        raise FaceError(
            f"'{path}' is damaged or not a verification set ({reason}). Copy the file again. {MAKE_HINT}"
        ) from error
    images, is_same = _split_content(content, path)
    return Pairs(images, is_same, path.stem, str(path))


def write_bin(path: Path, images: Sequence[bytes], is_same: Sequence[bool] | np.ndarray) -> None:
    """Writes a verification set atomically, as `bytes` and bools: older tools read it too."""
    if len(images) != 2 * len(is_same) or len(is_same) == 0:
        raise FaceError(
            f"A verification set must have two images per pair and at least one pair. Received: {len(images)} images, "
            f"{len(is_same)} pairs."
        )
    content = ([bytes(image) for image in images], [bool(value) for value in is_same])
    write_bytes(path, pickle.dumps(content, protocol=4))


def find_bins(valid: Path) -> list[Path]:
    """The verification sets at `valid`: one `.bin`, or all `*.bin` of a folder, sorted by name."""
    valid = Path(valid)
    if not valid.is_dir():
        if not valid.exists():
            raise FaceError(
                f"There is no verification set at '{valid}'. Pass the path of a .bin, or of a folder of .bin files. "
                f"{MAKE_HINT}"
            )
        return [require_file(valid, "verification set")]
    paths = sorted(path for path in valid.glob("*.bin") if path.is_file())
    if not paths:
        raise FaceError(f"The folder '{valid}' has no .bin. {MAKE_HINT}")
    return paths


def decode_images(
    images: Sequence[bytes],
    size: tuple[int, int] = IMAGE_SIZE,
    *,
    source: str = "",
    records: Sequence[int | str] | None = None,
    num_threads: int | None = None,
) -> np.ndarray:
    """Decodes JPEG or PNG images to uint8 `[N, H, W, 3]`, RGB, on several threads.

    Args:
        images: encoded images.
        size: (height, width) in pixels that every image must have.
        source: the file, for messages.
        records: numbers or names of the images in the file, for messages; by default 0 to N - 1.
        num_threads: by default one a core.

    Raises:
        FaceError: an image that is cut short, cannot be decoded, or has another size. Names file and record.
    """
    pixels = np.empty((len(images), *size, 3), np.uint8)
    records = range(len(images)) if records is None else records

    def decode(start: int) -> None:
        for i in range(start, min(start + 64, len(images))):
            pixels[i] = decode_face(images[i], size, f"Record {records[i]} of '{source}'" if source else f"Image {i}")

    num_threads = num_threads or os.cpu_count() or 1
    if num_threads == 1 or len(images) <= 64:
        for start in range(0, len(images), 64):
            decode(start)
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(decode, range(0, len(images), 64)))
    return pixels


def stream_images(
    images: Sequence[bytes], chunk: int, size: tuple[int, int] = IMAGE_SIZE, **names
) -> Iterator[np.ndarray]:
    """Decodes `chunk` images at a time, and the next chunk while one is in use.

    Args:
        images: encoded images.
        chunk: images decoded at once.
        size: (height, width) in pixels that every image must have.
        names: further arguments of `decode_images`.

    Yields:
        uint8 [chunk, H, W, 3], RGB; the last one may be shorter.
    """
    records = names.pop("records", None) or range(len(images))
    starts = range(0, len(images), chunk)
    decode = partial(decode_images, size=size, **names)
    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for start in starts:
            job = pool.submit(decode, images[start : start + chunk], records=records[start : start + chunk])
            if ahead is not None:
                yield ahead.result()
            ahead = job
        if ahead is not None:
            yield ahead.result()


def _split_content(content: object, path: Path) -> tuple[list[bytes], np.ndarray]:
    if isinstance(content, list) and len(content) == 2 and isinstance(content[1], bytes):
        content = [content[0], list(content[1])]  # truths as an array of uint8
    if not isinstance(content, list) or len(content) != 2 or not all(isinstance(part, list) for part in content):
        raise FaceError(
            f"A verification set must be a pair (images, is_same). '{path}' holds something else. {MAKE_HINT}"
        )
    images, truth = content
    if not images:
        raise FaceError(f"'{path}' has no images. {MAKE_HINT}")
    if len(images) % 2 or len(images) != 2 * len(truth):
        raise FaceError(
            f"A verification set must have two images per pair. '{path}' has {len(images)} images for {len(truth)} "
            f"pairs. Copy the file again. {MAKE_HINT}"
        )
    for i, image in enumerate(images):
        if type(image) is not bytes:
            raise FaceError(
                f"Each image of a verification set must be bytes or a uint8 array. Record {i} of '{path}' is a "
                f"{type(image).__name__}."
            )
    for k, value in enumerate(truth):
        if type(value) not in (bool, int) or value not in (0, 1):
            raise FaceError(
                f"Each pair of a verification set must be marked True or False. Pair {k} of '{path}' is marked "
                f"{short_repr(value, 40)}."
            )
    return images, np.array(truth, dtype=bool)


def decode_face(data: bytes, size: tuple[int, int], what: str) -> np.ndarray:
    """One aligned face as uint8 [H, W, 3], RGB; `what` names it in errors. Evaluation and calibration take no other."""
    try:
        return decode_image(data, size=size)
    except BadRecord as error:
        raise FaceError(
            f"{what}: {error}. Make the file again. If its faces have the wrong size, align them first with "
            "align_faces.py."
        ) from error
