"""Describes a set of faces of any format: counts, images per identity, encodings, and a contact sheet."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from facelib.data.readers.sources import Source, open_source
from facelib.data.verification.bins import load_bin
from facelib.errors import BadRecord, FaceError
from facelib.files import write_bytes
from facelib.image_decoding import check_image, decode_or_blank
from facelib.wording import counted

_CAPTION_HEIGHT = 16  # pixels
_GAP = 4  # pixels
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.36

SAMPLE = 500  # images whose headers are read
_SHEET_ROWS, _SHEET_COLUMNS = 8, 8
_BANDS = ((1, 1), (2, 4), (5, 9), (10, 19), (20, 49), (50, 99), (100, None))


@dataclass
class Inspection:
    """What was found in a set of faces.

    Attributes:
        lines: to print.
        images: for the contact sheet, uint8 [H, W, 3] RGB each.
        captions: one for each image.
        columns: images in a row.
    """

    lines: list[str]
    images: list[np.ndarray] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    columns: int = _SHEET_COLUMNS

    def sheet(self) -> np.ndarray:
        """uint8 [H, W, 3] RGB."""
        return contact_sheet(self.images, self.captions, self.columns)


def inspect_data(path: Path, seed: int = 0) -> Inspection:
    """Inspects face data of any format, or a verification `.bin`.

    Args:
        path: the data.
        seed: of the sample that is shown.

    Raises:
        FaceError: nothing there, or damaged.
    """
    path = Path(path)
    return _inspect_bin(path, seed) if path.suffix == ".bin" else _inspect_source(open_source(path), seed)


def _inspect_source(source: Source, seed: int) -> Inspection:
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    present = counts[counts > 0]
    lines = [
        f"{source.path}: {source.kind}, {counted(len(source), 'image')}, "
        f"{counted(len(present), 'identity', 'identities')}",
        f"images per identity: min {present.min()}, median {np.median(present):g}, mean {present.mean():.1f}, "
        f"max {present.max()}",
    ]
    for low, high in _BANDS:
        count = int(((present >= low) & (present <= (high or present.max()))).sum())
        if count:
            label = str(low) if low == high else f"{low}-{high}" if high else f"{low}+"
            bar = "#" * max(1, round(40 * count / len(present)))
            lines.append(f"  {label:>6} images {count:>9,} identities  {bar}")
    if len(present) < len(counts):
        lines.append(f"{len(counts) - len(present)} identities have no image")
    lines += [f"note: {note}" for note in source.notes]
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(len(source), min(SAMPLE, len(source)), replace=False)).tolist()
    lines.append(_describe_encodings([_read(source, i) for i in sample], [source.describe(i) for i in sample]))
    result = Inspection(lines)
    chosen = np.sort(rng.choice(np.flatnonzero(counts), min(_SHEET_ROWS, len(present)), replace=False)).tolist()
    result.columns = columns = max(2, min(_SHEET_COLUMNS, int(counts[chosen].max())))  # no column without a face
    for label in chosen:
        images = np.flatnonzero(source.labels == label)
        shown = np.sort(rng.choice(images, min(columns, len(images)), replace=False)).tolist()
        cells = [decode_or_blank(_as_bytes(_read(source, i))) for i in shown]
        result.images += cells + [np.full_like(cells[0], 255)] * (columns - len(cells))
        result.captions += [source.class_names[label], f"of {counted(len(images), 'image')}"] + [""] * (columns - 2)
    return result


def _inspect_bin(path: Path, seed: int) -> Inspection:
    pairs = load_bin(path)
    genuine = int(np.sum(pairs.is_same))
    lines = [f"{path}: verification pairs, {len(pairs):,} pairs, {genuine:,} genuine, {len(pairs.images):,} images"]
    lines.append(f"different images: {len(set(map(bytes, pairs.images))):,}")
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(len(pairs.images), min(SAMPLE, len(pairs.images)), replace=False)).tolist()
    lines.append(_describe_encodings([bytes(pairs.images[i]) for i in sample], [f"image {i}" for i in sample]))
    result = Inspection(lines)
    half = _SHEET_ROWS * _SHEET_COLUMNS // 4
    for is_same in (True, False):
        candidates = np.flatnonzero(np.asarray(pairs.is_same) == is_same)
        for k in np.sort(rng.choice(candidates, min(half, len(candidates)), replace=False)).tolist():
            result.images += [decode_or_blank(bytes(pairs.images[i])) for i in (2 * k, 2 * k + 1)]
            result.captions += [f"pair {k}", "same" if is_same else "different"]
    return result


def _read(source: Source, i: int) -> bytes | BadRecord:
    try:
        return source.read(i)
    except BadRecord as error:
        return error


def _as_bytes(image: bytes | BadRecord) -> bytes:
    return image if isinstance(image, bytes) else b""


def _describe_encodings(images: list[bytes | BadRecord], places: list[str]) -> str:
    kinds: Counter[str] = Counter()
    sizes, bad = [], []
    for image, place in zip(images, places, strict=True):
        try:
            if isinstance(image, BadRecord):
                raise image
            height, width = check_image(image)
        except BadRecord as error:
            bad.append(f"{place}: {error}")
            continue
        kinds[f"{'JPEG' if image[0] == 0xFF else 'PNG'} {height}x{width}"] += 1
        sizes.append(len(image))
    parts = [f"{kind} {100 * count / len(images):.0f} %" for kind, count in kinds.most_common(5)]
    text = f"of {len(images)} images looked at: " + ", ".join(parts)
    if sizes:
        text += f"; {np.mean(sizes) / 1024:.1f} KiB each"
    return text + (f"; {len(bad)} bad, the first {bad[0]}" if bad else "")


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
        raise FaceError(f"The file of a contact sheet must end in .png. Received: '{path}'.")
    write_bytes(path, cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())


def check_sheet_path(path: Path | None) -> None:
    """Checks the name of a contact sheet.

    Raises:
        FaceError: it is not a .png.
    """
    if path is not None and path.suffix.lower() != ".png":
        raise FaceError(f"The file of a contact sheet must end in .png. Received: '{path}'.")
