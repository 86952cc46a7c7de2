"""Contact sheets: one PNG of many small images with captions."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from facelib.errors import FaceError
from facelib.files import write_bytes

_CAPTION_HEIGHT = 16  # pixels
_GAP = 4  # pixels
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.36


def contact_sheet(images: Sequence[np.ndarray], captions: Sequence[str], columns: int) -> np.ndarray:
    """Lays out images row by row, each above its caption.

    Args:
        images: at least one, uint8 [h, w, 3] RGB each. Sizes may differ; a cell has the size of the largest.
        captions: one for each image, cut to the width of the cell. Letters that the font lacks become '?'.
        columns: images in a row.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    if not len(images) or len(images) != len(captions):
        raise ValueError(f"one caption for each of at least one image. Received: {len(images)} and {len(captions)}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = max(image.shape[0] for image in images) + _CAPTION_HEIGHT + _GAP
    width = max(image.shape[1] for image in images) + _GAP
    sheet = np.full((rows * height + _GAP, columns * width + _GAP, 3), 255, np.uint8)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        top, left = i // columns * height + _GAP, i % columns * width + _GAP
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
        text = _fit(caption.encode("ascii", "replace").decode(), width - _GAP)
        at = (left, top + height - _GAP - 5)
        cv2.putText(sheet, text, at, _FONT, _FONT_SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return sheet


def _fit(text: str, width: int) -> str:
    while text and cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)[0][0] > width:
        text = text[:-1]
    return text


def save_png(path: Path, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] RGB as PNG, atomically."""
    if Path(path).suffix.lower() != ".png":
        raise FaceError(f"A contact sheet is a .png. Received: '{path}'.")
    write_bytes(path, cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())


def check_sheet_path(path: Path | None) -> None:
    """Checks the name of a contact sheet.

    Raises:
        FaceError: it is not a .png.
    """
    if path is not None and path.suffix.lower() != ".png":
        raise FaceError(f"A contact sheet is a .png. Received: '{path}'.")
