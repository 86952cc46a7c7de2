"""The hardest pairs of a report as pictures: finds the verification set, checks that it is the tested one, and makes
small pictures of its faces for the page.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from facelib.data.readers.folder_source import FolderSource
from facelib.data.verification.bins import load_bin
from facelib.errors import BadRecord, FaceError
from facelib.files import read_image_file, sha256_of
from facelib.image_decoding import decode_or_blank, shrunk
from facelib.reports.artefact_table import ResultGroup
from facelib.reports.read_run import Artefact

_LISTS = (
    ("false_accepts", "Different people, the closest first"),
    ("false_rejects", "The same person, the farthest first"),
)

_SIDE = 112  # pixels, of the longer side
_JPEG_QUALITY = 82

ReadFace = Callable[[int | str], bytes]  # number in the .bin, or path below the folder -> encoded image


class FacesMissing(FaceError):
    """The faces of a report cannot be shown. The message says why, for the page."""


@dataclass(frozen=True)
class Pair:
    """A pair of faces on the page.

    Attributes:
        faces: (name in the set, JPEG bytes), two.
        distance: 'D ≤ T' or 'D > T' where the threshold is known, else the distance alone.
        verdict: 'accepted' or 'rejected'; '' where the threshold is not known.
        kind: 'good' where the verdict is right, 'bad' where it is wrong.
    """

    faces: list[tuple[str, bytes]]
    distance: str
    verdict: str = ""
    kind: str = ""

    @property
    def names(self) -> str:
        """Both names in one line."""
        return " / ".join(name for name, _ in self.faces)


@dataclass(frozen=True)
class Gallery:
    """The hardest pairs of one artefact, or of several that have the same.

    Attributes:
        title: names the artefacts.
        note: what the numbers are, or why there are no faces.
        lists: (title, pairs): wrongly close ones, then wrongly far ones; none where the faces are missing.
        is_open: whether the reader sees it from the start.
    """

    title: str
    note: str
    lists: list[tuple[str, list[Pair]]]
    is_open: bool


@dataclass
class FaceFinder:
    """Finds the images of verification sets, and opens each set once.

    Args:
        valid: a .bin, or a folder with sets: where to look when a set is no longer where the report says.
    """

    valid: Path | None = None
    _found: dict[tuple[str, Path, frozenset], ReadFace | str] = field(default_factory=dict)

    def find(self, result: dict[str, Any], folder: Path) -> ReadFace:
        """A function that reads a face of this set.

        Args:
            result: one set of a report.
            folder: where the report file lies.

        Raises:
            FacesMissing: the report does not say where the set is, or the set is missing or not the tested one.
        """
        source = result.get("source") or {}
        if not source.get("path"):
            raise FacesMissing("The report does not say which images it used: test the artefact again.")
        tested = _tested_photos(result)
        key = (source.get("sha256") or "", (folder / source["path"]).resolve(), frozenset(tested.items()))
        if key not in self._found:
            try:
                self._found[key] = self._open(result, key[1], tested)
            except FaceError as error:
                self._found[key] = str(error)
        reader = self._found[key]
        if isinstance(reader, str):
            raise FacesMissing(reader)
        return reader

    def _open(self, result: dict[str, Any], named: Path, tested: dict[str, str]) -> ReadFace:
        expected, is_bin = result["source"].get("sha256"), _is_of_bin(result)
        places = [named, *([self.valid, self.valid / named.name] if self.valid is not None else [])]
        places = [place for place in places if (place.is_file() if is_bin else place.is_dir())]
        if not places:
            raise FacesMissing(f"'{named.name}' is no longer where it was tested. Say where it is: --valid DIR_OR_BIN.")
        for place in places:
            if is_bin:
                if expected == sha256_of(place):
                    images = load_bin(place).images
                    return lambda entry: images[int(entry)]
                continue
            # A pair list's hash is that of the list itself. So the report has the hash of each photo that it shows.
            is_listed, root = result.get("protocol") != "all-pairs", place.resolve()
            if is_listed and tested:
                return lambda name: _read_tested(root, str(name), tested)
            if is_listed:
                raise FacesMissing("The report does not say which photos it used: test the artefact again.")
            if expected == FolderSource(place).fingerprint:
                return lambda name: _read_below(root, str(name))
        raise FacesMissing(f"'{named.name}' has changed since the test (its sha256 differs): test the artefact again.")


def hardest_galleries(group: ResultGroup, finder: FaceFinder) -> list[Gallery]:
    """The hardest pairs of each artefact, once for artefacts with the same pairs; without those that list none."""
    same_pairs: dict[str, list[Artefact]] = {}
    for artefact in group.artefacts:
        hardest = artefact.report["sets"][group.set_name].get("hardest")
        if hardest and any(hardest[key] for key, _ in _LISTS):
            key = repr([[pair["images"] for pair in hardest[key]] for key, _ in _LISTS])
            same_pairs.setdefault(key, []).append(artefact)
    return [
        _gallery(artefacts, group.set_name, finder, is_open=i == 0) for i, artefacts in enumerate(same_pairs.values())
    ]


def _gallery(artefacts: Sequence[Artefact], set_name: str, finder: FaceFinder, is_open: bool) -> Gallery:
    first = artefacts[0]
    result = first.report["sets"][set_name]
    title = f"Hardest pairs of {', '.join(artefact.name for artefact in artefacts)}"
    try:
        read = finder.find(result, first.folder)
    except FacesMissing as error:
        return Gallery(title, str(error), [], is_open)
    threshold = result.get("acc_threshold")
    note = "Squared L2 distance"
    if threshold is not None:
        note += f", and whether it is within {threshold:.3f}, the mean threshold of ACC"
    if len(artefacts) > 1:
        note += f"; distances are those of {first.name}"
    lists = []
    for key, heading in _LISTS:
        pairs = [_pair(pair, read, threshold, key == "false_accepts") for pair in result["hardest"][key]]
        lists += [(heading, pairs)] if pairs else []
    return Gallery(title, f"{note}.", lists, is_open)


def _pair(pair: dict[str, Any], read: ReadFace, threshold: float | None, is_impostor: bool) -> Pair:
    faces = []
    for name in map(str, pair["images"]):
        try:
            image = read(name)
        except (ValueError, IndexError):  # the .bin has no such number
            image = b""
        faces.append((name, thumbnail(image)))
    distance = f"{pair['distance']:.3f}"
    if threshold is None:
        return Pair(faces, distance)
    is_accepted = pair["distance"] <= threshold
    return Pair(
        faces,
        f"{distance} {'≤' if is_accepted else '>'} {threshold:.3f}",
        "accepted" if is_accepted else "rejected",
        "bad" if is_accepted == is_impostor else "good",
    )


def thumbnail(image: bytes) -> bytes:
    """An encoded image of any size as a small JPEG; a crossed-out square if it cannot be decoded."""
    pixels = cv2.cvtColor(shrunk(decode_or_blank(image), _SIDE), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def _is_of_bin(result: dict[str, Any]) -> bool:
    """Whether the images of the hardest pairs are numbers in a .bin, and not paths."""
    pairs = [pair for pairs in (result.get("hardest") or {}).values() for pair in pairs]
    return all(str(name).isdecimal() for pair in pairs for name in pair["images"])


def _tested_photos(result: dict[str, Any]) -> dict[str, str]:
    """{name of a photo of the hardest pairs: its SHA-256}, as the test of a pair list writes it."""
    pairs = [pair for pairs in (result.get("hardest") or {}).values() for pair in pairs]
    return {
        str(name): str(digest)
        for pair in pairs
        for name, digest in zip(pair["images"], pair.get("sha256") or (), strict=False)
    }


def _read_tested(root: Path, name: str, tested: dict[str, str]) -> bytes:
    """The bytes of a tested photo below `root`; none for any other file: a report may come from anybody."""
    image = _read_below(root, name)
    return image if hashlib.sha256(image).hexdigest() == tested.get(name) else b""


def _read_below(root: Path, name: str) -> bytes:
    """The bytes of an image below `root`; none if the name leads out of it or there is no such file."""
    file = (root / name).resolve()
    try:
        return read_image_file(file) if file.is_relative_to(root) else b""
    except BadRecord:
        return b""
