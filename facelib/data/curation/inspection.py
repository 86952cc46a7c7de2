"""Describes a set of faces of any format: counts, images per identity, encodings, and a contact sheet."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from facelib.data.curation.contact_sheet import contact_sheet
from facelib.data.readers.sources import Source, open_source
from facelib.data.verification.bins import load_bin
from facelib.errors import BadRecord
from facelib.images import check_image, decode_or_blank

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
        f"{source.path}: {source.kind}, {len(source):,} images, {len(present):,} identities",
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
    chosen = np.flatnonzero(counts)
    for label in np.sort(rng.choice(chosen, min(_SHEET_ROWS, len(chosen)), replace=False)).tolist():
        images = np.flatnonzero(source.labels == label)
        shown = np.sort(rng.choice(images, min(_SHEET_COLUMNS, len(images)), replace=False)).tolist()
        cells = [decode_or_blank(_as_bytes(_read(source, i))) for i in shown]
        blank = np.full_like(cells[0], 255)
        missing = _SHEET_COLUMNS - len(cells)
        result.images += cells + [blank] * missing
        result.captions += [f"{source.class_names[label]}: {len(images)}"] + [""] * (_SHEET_COLUMNS - 1)
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
    kinds, sizes, bad = Counter(), [], []
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
