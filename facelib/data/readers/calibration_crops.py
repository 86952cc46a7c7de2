"""Real crops for calibration: they show a quantizer the range of values in a network. A seeded choice."""

from contextlib import suppress
from pathlib import Path

import numpy as np

from facelib.data.readers.sources import open_source
from facelib.data.verification.bins import IMAGE_SIZE, decode_face, load_bin
from facelib.errors import BadRecord, FaceError
from facelib.files import read_image_file, sha256_of
from facelib.image_decoding import IMAGE_SUFFIXES, decode_image
from facelib.model_input import fit_faces


def load_crops(
    path: Path,
    count: int,
    seed: int,
    size: tuple[int, int] = (112, 112),
    notes: list[str] | None = None,
    fit: str = "crop",
) -> tuple[np.ndarray, dict[str, object]]:
    """Draws `count` crops without repetition, or all when there are fewer.

    Args:
        path: a data directory, older TFRecords, an InsightFace directory, identity folders, a flat folder of images,
            or a verification .bin, in which equal images count once.
        count: number of crops.
        seed: of the choice.
        size: (height, width) in pixels of the crops.
        notes: gets what the user should know of the source.
        fit: how aligned 112x112 faces get this size: 'crop' or 'resize', see `facelib.model_input.fit_faces`. Images
            that have it already stay as they are.

    Returns:
        crops: uint8 [count, *size, 3], RGB.
        described: what a sidecar says about them: source, fingerprint, seed, count.

    Raises:
        FaceError: nothing there, or a face that cannot be read or has another size: it is not aligned, and calibration
            with such photos costs points of accuracy.
    """
    if count < 1:
        raise FaceError(f"Calibration needs at least one crop. Received: --num-calibration {count}.")
    path = Path(path)
    total, read, fingerprint, source = _open(path)
    picked = np.sort(np.random.default_rng(seed).permutation(total)[:count])
    crops = np.empty((len(picked), *size, 3), np.uint8)
    for k, record in enumerate(picked.tolist()):
        crops[k] = fit_faces(_decode(read, record, path, size)[None], size, fit)[0]
    if notes is not None and source is not None:
        notes += source.notes
    return crops, {"source": path.name, "fingerprint": fingerprint, "seed": seed, "count": len(picked)}


def with_full_range(crops: np.ndarray) -> np.ndarray:
    """A copy whose first crop has one black and one white pixel: a quantizer must see the whole range 0..255."""
    crops = crops.copy()
    crops[0, 0, 0], crops[0, 0, 1] = 0, 255
    return crops


def fingerprint_of(path: Path) -> str:
    """The fingerprint of `path` that `load_crops` gives."""
    return _open(Path(path))[2]


def _open(path: Path):
    """(number of images, function of a record index that gives bytes or pixels, fingerprint, `Source` or None)."""
    if path.suffix == ".bin":
        images = list(dict.fromkeys(load_bin(path).images))
        return len(images), images.__getitem__, sha256_of(path), None
    files = _list_flat_images(path)
    if files:
        return len(files), lambda i: read_image_file(files[i]), f"{len(files)} files", None
    source = open_source(path)
    return len(source), source.read, source.fingerprint, source


def _list_flat_images(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())


def _decode(read, record: int, path: Path, size: tuple[int, int]) -> np.ndarray:
    """One image, uint8 [H, W, 3], RGB: of `size`, as the data that the net was trained on, or 112x112."""
    try:
        image = read(record)
        if size != IMAGE_SIZE:
            with suppress(BadRecord):
                return decode_image(image, size=size)
        return decode_face(image, IMAGE_SIZE, f"Calibration image {record} of '{path}'")
    except BadRecord as error:
        raise FaceError(f"Calibration image {record} of '{path}' cannot be read: {error}.") from error
