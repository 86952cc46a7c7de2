"""From faces to what a runtime eats: one pure function, for every artefact."""

import numpy as np

from facelib.errors import FaceError
from facelib.sidecar import PIXEL_SCALINGS, Io


def to_model_input(images: np.ndarray, io: Io) -> np.ndarray:
    """Crops, reorders and scales faces as `io` says. Does not change `images`.

    Args:
        images: uint8 [N, H, W, 3], RGB.
        io: how the artefact is fed. A smaller `io.size` is cut from the centre (112x96 from 112x112).

    Returns: `io.dtype` [N, h, w, 3] or [N, 3, h, w], contiguous. 'raw' keeps 0..255, the others are `PIXEL_SCALINGS`;
        of 'imagenet' the statistics are taken in the colour order of the pixels.
    """
    pixels = crop_centre(images, io.size)
    if io.pixels == "raw":
        values = pixels
    elif io.dtype == "uint8":
        raise FaceError(f"A uint8 input takes raw pixels. Received: pixels={io.pixels}. Use --pixels raw.")
    else:
        mean, std = (np.asarray(value, np.float32) for value in PIXEL_SCALINGS[io.pixels])
        values = (pixels.astype(np.float32) - mean) / std
    if io.colour == "bgr":
        values = values[..., ::-1]
    if io.layout == "nchw":
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values, dtype=io.dtype)


def crop_centre(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle (height, width) of images [N, H, W, 3], as a view."""
    height, width = images.shape[1:3]
    if size[0] > height or size[1] > width:
        raise FaceError(
            f"The model takes {size[0]}x{size[1]} pixels, the faces have {height}x{width}: a crop cannot grow. "
            f"Make the faces that large, or check --crop."
        )
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return images[:, top : top + size[0], left : left + size[1]]
