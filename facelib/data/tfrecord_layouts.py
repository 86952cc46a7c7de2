"""The TFRecord layouts of older face projects, which are recognised by their feature keys.

| origin | image | label | colour of raw pixels |
|---|---|---|---|
| auroua mx2tfrecords, S0, S1, S3, S4h, ours | `image_raw` JPEG/PNG, or raw (auroua `_old`) | `label` | BGR |
| LeonFaith | `image` raw | `label` | RGB |
| peteryuX | `image/encoded`, or a path in `image/img_path` or `image/filename` | `image/source_id` | - |
| TFace torchkit | `image` JPEG | none: an index text file has it | - |
| leondgarse distillation | a path in `image_names`, after one header record | `image_classes` | - |
"""

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from facelib.data.tfrecord import Feature
from facelib.errors import BadRecord, short_repr
from facelib.files import read_image_file
from facelib.image_decoding import check_image

_FOLDERS_ABOVE = 3  # of a record file, where relative image paths are looked up


@dataclass(frozen=True)
class Layout:
    """The feature keys of one older project.

    Attributes:
        name: of the project.
        image_key: the feature that holds the image.
        label_key: the feature that holds the label; None when labels come from another file.
        is_path: the image feature holds the path of an image file.
        is_raw_bgr: raw pixels are BGR, not RGB.
    """

    name: str
    image_key: str
    label_key: str | None
    is_path: bool = False
    is_raw_bgr: bool = False


LAYOUTS = (
    Layout("image_raw", "image_raw", "label", is_raw_bgr=True),
    Layout("image", "image", "label"),
    Layout("peteryuX", "image/encoded", "image/source_id"),
    Layout("peteryuX with paths", "image/img_path", "image/source_id", is_path=True),
    Layout("peteryuX with names", "image/filename", "image/source_id", is_path=True),
    Layout("distillation", "image_names", "image_classes", is_path=True),
    Layout("TFace", "image", None),
)


def is_header(features: dict[str, Feature]) -> bool:
    """Whether this is the header record of a distillation file: counts, no image."""
    return "classes" in features and "total" in features and "image_names" not in features


def find_layout(features: dict[str, Feature]) -> Layout:
    """The first layout whose keys are all there.

    Raises:
        BadRecord: no layout fits. Names the keys found.
    """
    for layout in LAYOUTS:
        if layout.image_key in features and (layout.label_key is None or layout.label_key in features):
            return layout
    keys = ", ".join(sorted(features)) or "none"
    raise BadRecord(
        f"its feature keys match no known layout (received: {keys[:200]}; MobileArc writes image_raw and label)"
    )


def read_label(layout: Layout, features: dict[str, Feature]) -> int:
    """The label as it is stored.

    Raises:
        BadRecord: the feature is not exactly one int64.
    """
    value = None if layout.label_key is None else features.get(layout.label_key)
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], int):
        raise BadRecord(f"its feature '{layout.label_key}' is not one int64")
    return value[0]


def read_image(layout: Layout, features: dict[str, Feature], folder: Path) -> bytes | np.ndarray:
    """The image of a record: JPEG or PNG bytes, or uint8 [H, W, 3] RGB where the record holds raw pixels.

    Args:
        layout: the feature keys.
        features: of the record.
        folder: where the record file lies. Image paths are looked up there and in the three folders above, and must
            stay below them.

    Raises:
        BadRecord: no image, or an image file that cannot be read.
    """
    value = features.get(layout.image_key)
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], bytes | memoryview):
        raise BadRecord(f"its feature '{layout.image_key}' is not one byte string")
    data = bytes(value[0])
    if layout.is_path:
        return _read_path(data, folder)
    if data[:2] == b"\xff\xd8" or data[:4] == b"\x89PNG":
        return data
    height, width = (_one_int(features, key) for key in ("height", "width"))
    if height is None or width is None:
        height = width = math.isqrt(len(data) // 3)
    if not data or min(height, width) < 1 or height * width * 3 != len(data):
        raise BadRecord(f"its image is neither JPEG nor PNG nor raw pixels ({len(data)} bytes)")
    pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)
    return np.ascontiguousarray(pixels[..., ::-1]) if layout.is_raw_bgr else pixels


def declared_size(layout: Layout, features: dict[str, Feature], folder: Path) -> tuple[int, int] | None:
    """(height, width) in pixels that a record says its image has; None unless it says so and the image has that size.

    Args:
        layout: the feature keys.
        features: of the record.
        folder: where the record file lies.
    """
    height, width = _one_int(features, "height"), _one_int(features, "width")
    if height is None or width is None:
        return None
    try:
        image = read_image(layout, features, folder)
        found = check_image(image) if isinstance(image, bytes) else image.shape[:2]
    except BadRecord:
        return None
    return (height, width) if found == (height, width) else None


def _one_int(features: dict[str, Feature], key: str) -> int | None:
    value = features.get(key)
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], int) else None


def _read_path(name: bytes, folder: Path) -> bytes:
    try:
        path = Path(name.decode())
    except UnicodeDecodeError as error:
        raise BadRecord("its image path is not UTF-8") from error
    places = [] if ".." in path.parts or "\0" in str(path) else _searched(folder)
    for place in places:
        candidate = place / path  # of an absolute path, the path itself
        if candidate.is_relative_to(place) and os.path.lexists(candidate):
            try:
                return read_image_file(candidate)
            except BadRecord as error:
                raise BadRecord(f"its image file '{candidate}': {error}") from error
    raise BadRecord(
        f"there is no image file {short_repr(str(path))}: an image path must have no '..', and its file must be "
        f"inside '{folder}' or one of the {_FOLDERS_ABOVE} folders above it"
    )


@lru_cache(maxsize=64)
def _searched(folder: Path) -> list[Path]:
    """The folder of a record file and those above it, but never the root."""
    folder = Path(os.path.abspath(folder))
    return [place for place in [folder, *folder.parents][: 1 + _FOLDERS_ABOVE] if place != place.parent]
