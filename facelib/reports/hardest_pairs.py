"""The pictures behind a report's hardest pairs: the set is looked for, checked, and its faces cut small for a page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import cv2

from facelib.data.readers.folder_source import FolderSource
from facelib.data.verification.bins import load_bin
from facelib.errors import FaceError
from facelib.files import sha256_of
from facelib.images import decode_or_blank
from facelib.reports.artefact_table import Block
from facelib.reports.html import data_url, folded
from facelib.reports.read_run import Stage

_LISTS = (
    ("false_accepts", "Different people, the closest first"),
    ("false_rejects", "The same person, the farthest first"),
)

_SIDE = 112  # pixels, of the longer side
_JPEG_QUALITY = 82

ReadFace = Callable[[int | str], bytes]  # entry of the .bin, or path below the folder -> encoded image


class FacesMissing(FaceError):
    """The faces of a report cannot be shown. The message says why, for the page."""


@dataclass
class FaceFinder:
    """Finds the images of verification sets, each set once.

    valid: where the sets are now, a folder or a .bin; asked after the place that the report names.
    """

    valid: Path | None = None
    _found: dict[tuple[str, Path], ReadFace | str] = field(default_factory=dict)

    def find(self, result: dict[str, Any], folder: Path) -> ReadFace:
        """What reads a face of this set of a report.

        Args:
            result: one set of a report.   folder: of the report file.

        Raises:
            FacesMissing: the report does not say where, nothing is there, or it is not what was tested.
        """
        source = result.get("source") or {}
        if not source.get("path"):
            raise FacesMissing("The report does not say which images it used: test the artefact again.")
        key = (source.get("sha256") or "", (folder / source["path"]).resolve())
        if key not in self._found:
            try:
                self._found[key] = self._open(result, key[1])
            except FaceError as error:
                self._found[key] = str(error)
        reader = self._found[key]
        if isinstance(reader, str):
            raise FacesMissing(reader)
        return reader

    def _open(self, result: dict[str, Any], named: Path) -> ReadFace:
        expected, is_bin = result["source"].get("sha256"), _is_of_bin(result)
        places = [named, *([self.valid, self.valid / named.name] if self.valid is not None else [])]
        places = [place for place in places if (place.is_file() if is_bin else place.is_dir())]
        if not places:
            raise FacesMissing(f"'{named.name}' is no longer where it was tested. Say where it is: --valid DIR_OR_BIN.")
        for place in places:
            if is_bin and expected in (None, sha256_of(place)):
                images = load_bin(place).images
                return lambda entry: images[int(entry)]
            # Of a pair list, the hash is that of the list: its photos are looked up by their names alone.
            is_listed = result.get("protocol") != "all-pairs"
            if not is_bin and (is_listed or expected in (None, FolderSource(place).fingerprint)):
                root = place.resolve()
                return lambda name: _read_below(root, str(name))
        raise FacesMissing(
            f"'{named.name}' was changed since the test (its sha256 is another): test the artefact again."
        )


def _is_of_bin(result: dict[str, Any]) -> bool:
    """Whether the images of the hardest pairs are entry numbers, and not paths."""
    pairs = [pair for pairs in (result.get("hardest") or {}).values() for pair in pairs]
    return all(str(name).isdecimal() for pair in pairs for name in pair["images"])


def thumbnail(image: bytes) -> bytes:
    """An encoded image of any size as a small JPEG; a crossed-out square for what cannot be decoded."""
    pixels = decode_or_blank(image)
    scale = _SIDE / max(pixels.shape[:2])
    if scale < 1:
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def _read_below(root: Path, name: str) -> bytes:
    """The bytes of an image below `root`; none for a name that leads out of it or to nothing."""
    file = (root / name).resolve()
    if not file.is_relative_to(root) or not file.is_file():
        return b""
    return file.read_bytes()


def hardest_section(block: Block, finder: FaceFinder) -> str:
    """Pairs as pictures, once for artefacts that agree on them; '' when no report lists any."""
    galleries: dict[str, list[Stage]] = {}
    for stage in block.stages:
        hardest = stage.report["sets"][block.set_name].get("hardest")
        if hardest and any(hardest[key] for key, _ in _LISTS):
            key = repr([[pair["images"] for pair in hardest[key]] for key, _ in _LISTS])
            galleries.setdefault(key, []).append(stage)
    parts = []
    for i, stages in enumerate(galleries.values()):
        result = stages[0].report["sets"][block.set_name]
        try:
            content = _gallery(result, finder.find(result, stages[0].folder), stages)
        except FacesMissing as error:
            content = f'<p class="soft">{escape(str(error))}</p>'
        names = ", ".join(stage.name for stage in stages)
        parts.append(folded(f"Hardest pairs of {names}", f'<div class="card">{content}</div>', is_open=i == 0))
    return "".join(parts)


def _gallery(result: dict[str, Any], read: ReadFace, stages: Sequence[Stage]) -> str:
    threshold = result.get("acc_threshold")
    note = "Squared L2 distance"
    if threshold is not None:
        note += f", and whether it is within {threshold:.3f}, the mean threshold of ACC"
    if len(stages) > 1:
        note += f"; distances are those of {stages[0].name}"
    parts = [f'<p class="soft">{escape(note)}.</p>']
    for key, title in _LISTS:
        pairs = result["hardest"][key]
        if pairs:
            cells = "".join(_pair(pair, read, threshold, key == "false_accepts") for pair in pairs)
            parts.append(f'<h4>{title}</h4><div class="pairs">{cells}</div>')
    return "".join(parts)


def _pair(pair: dict[str, Any], read: ReadFace, threshold: float | None, is_impostor: bool) -> str:
    faces = ""
    for i, name in enumerate(pair["images"], 1):
        try:
            image = read(name)
        except (ValueError, IndexError):  # no entry of this number
            image = b""
        faces += f'<img alt="face {i}: {escape(str(name))}" src="{data_url(thumbnail(image), "jpeg")}">'
    caption = f"{pair['distance']:.3f}"
    if threshold is not None:
        is_accepted = pair["distance"] <= threshold
        kind = "bad" if is_accepted == is_impostor else "good"
        caption += f" {'≤' if is_accepted else '&gt;'} {threshold:.3f}"
        caption += f'<br><b class="{kind}">{"accepted" if is_accepted else "rejected"}</b>'
    names = " / ".join(str(name) for name in pair["images"])
    return (
        f'<figure class="pair"><div>{faces}</div><figcaption>{caption}<br><span>{escape(names)}</span>'
        f"</figcaption></figure>"
    )
