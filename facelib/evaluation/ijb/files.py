"""The meta files of IJB-B and IJB-C, as InsightFace distributes them (`X` is ijbb or ijbc).

| file | a line |
|---|---|
| X_name_5pts_score.txt | image, ten landmark coordinates (x y of both eyes, nose, both mouth corners), detector score |
| X_face_tid_mid.txt | image, template, media: which images make a template |
| X_template_pair_label.txt | template, template, 1 (same person) or 0 |
| X_1N_gallery_G1.csv, _G2.csv (IJB-B: _S1, _S2), X_1N_probe_mixed.csv | header, then TEMPLATE_ID,SUBJECT_ID,... |

Columns of .txt files are separated by spaces. Coordinates are pixels of the loosely cropped image `images/NAME`.
Source: https://github.com/deepinsight/insightface/tree/master/recognition/_evaluation_/ijb.
"""

import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.files import require_file

PROTOCOLS = ("1:1", "1:N")
SETS = ("ijbc", "ijbb")
GALLERIES = {"ijbc": ("G1", "G2"), "ijbb": ("S1", "S2")}
CHUNK_BYTES = 2**24
MIN_SPREAD = 1e-3  # pixels; landmarks all at one place fix no face
MAX_NAMED = 40  # line numbers, or ranges of them, in one message
_PAIR_LINES = re.compile(rb"(?:\d{1,18}+[ \t]++\d{1,18}+[ \t]++[01][ \t]*+\r?+\n)*+")


@dataclass(frozen=True)
class IjbPaths:
    """The meta files of one set.

    Attributes:
        name: 'ijbb' | 'ijbc'.
        points: names, landmarks and detector scores of the images.
        faces: template and media of each image.
        pairs: pairs of templates of the 1:1 protocol.
        galleries: {'G1': path, 'G2': path}.
        probes: probes of the 1:N protocol.
    """

    name: str
    points: Path
    faces: Path
    pairs: Path
    galleries: dict[str, Path]
    probes: Path


@dataclass(frozen=True)
class IjbFaces:
    """The images of a set, and the templates that they belong to.

    Row r says that image `image_idx[r]` belongs to template `template_idx[r]` and comes from media `media[r]`.

    Attributes:
        images: N names below the image folder.
        points: float32 [N, 5, 2], landmarks in pixels (x, y).
        detector_scores: float32 [N].
        image_idx: int64 [R], places in `images`.
        template_idx: int64 [R], places in `template_ids`.
        media: int64 [R], numbers of photos and videos.
        template_ids: int64 [T], ascending.
    """

    images: list[str]
    points: np.ndarray
    detector_scores: np.ndarray
    image_idx: np.ndarray
    template_idx: np.ndarray
    media: np.ndarray
    template_ids: np.ndarray


def find_meta(folder: Path, protocols: tuple[str, ...] = PROTOCOLS) -> IjbPaths:
    """The meta files in `folder`; those that `protocols` need must be there.

    Raises:
        FaceError: neither or both sets, or a file missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FaceError(f"--meta must be the folder of the meta files. Received: '{folder}', which is not a folder.")
    names = [name for name in SETS if (folder / f"{name}_face_tid_mid.txt").is_file()]
    if len(names) != 1:
        raise FaceError(
            f"--meta must hold either ijbb_face_tid_mid.txt or ijbc_face_tid_mid.txt. '{folder}' has "
            f"{'both' if names else 'none'}. Pass the folder 'meta' of one of the two sets."
        )
    name = names[0]
    paths = IjbPaths(
        name,
        folder / f"{name}_name_5pts_score.txt",
        folder / f"{name}_face_tid_mid.txt",
        folder / f"{name}_template_pair_label.txt",
        {gallery: folder / f"{name}_1N_gallery_{gallery}.csv" for gallery in GALLERIES[name]},
        folder / f"{name}_1N_probe_mixed.csv",
    )
    needed = {"1:1": [paths.pairs], "1:N": [*paths.galleries.values(), paths.probes]}
    for path in (paths.points, paths.faces, *(path for protocol in protocols for path in needed[protocol])):
        require_file(path, "meta file")
    return paths


def read_faces(paths: IjbPaths) -> IjbFaces:
    """Reads X_name_5pts_score.txt and X_face_tid_mid.txt. An image may stand in several templates.

    Raises:
        FaceError: lines of another form, an image listed twice or without landmarks. Names every such line.
    """
    number_of: dict[str, int] = {}
    values = array("f")

    def take_points(fields: list[str]) -> None:
        numbers = np.array(fields[1:], np.float32)
        if len(numbers) != 11 or not np.isfinite(numbers).all() or numbers[10] < 0 or fields[0] in number_of:
            raise ValueError
        if np.ptp(numbers[:10].reshape(5, 2), axis=0).max() < MIN_SPREAD:
            raise ValueError
        number_of[fields[0]] = len(number_of)
        values.frombytes(numbers.tobytes())

    rule = (
        "Each image must occur in one line 'NAME x1 y1 ... x5 y5 SCORE', with five different points and a SCORE of 0 "
        "or more"
    )
    _read_lines(paths.points, rule, str.split, take_points)
    rows = array("q")

    def take_row(fields: list[str]) -> None:
        name, template, media = fields
        rows.extend((number_of[name], int(template), int(media)))

    rule = f"Each line must be 'NAME TEMPLATE MEDIA', where NAME is an image in '{paths.points.name}'"
    _read_lines(paths.faces, rule, str.split, take_row)
    image_idx, templates, media = np.frombuffer(rows, np.int64).reshape(-1, 3).T
    template_ids, template_idx = np.unique(templates, return_inverse=True)
    table = np.frombuffer(values, np.float32).reshape(-1, 11)
    used, image_idx = np.unique(image_idx, return_inverse=True)  # landmarks of images that no template has: not needed
    names = list(number_of)
    return IjbFaces(
        [names[i] for i in used.tolist()],
        table[used, :10].reshape(-1, 5, 2),
        table[used, 10],
        image_idx,
        template_idx,
        media.copy(),
        template_ids,
    )


def read_pairs(path: Path, template_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads X_template_pair_label.txt: 15.7 million lines in seconds.

    Args:
        template_ids: int64 [T], ascending.

    Returns: (first, second) int32 [P], places in `template_ids`, and is_same bool [P].

    Raises:
        FaceError: lines of another form, or with a template that is not in `template_ids`. Names every such line.
    """
    bad: list[int] = []
    tables, num_lines, sample = [], 0, b""
    for chunk in _chunks(path):
        fits = np.ones(chunk.count(b"\n"), bool)
        if not _PAIR_LINES.fullmatch(chunk):
            lines = [line + b"\n" for line in chunk.split(b"\n")[:-1]]
            fits = np.array([bool(_PAIR_LINES.fullmatch(line)) for line in lines])
            chunk = b"".join(line if fit else b"0 0 0\n" for line, fit in zip(lines, fits.tolist(), strict=True))
        table = np.fromstring(chunk, np.int64, sep=" ").reshape(-1, 3)
        places = find_templates(table[:, :2], template_ids)
        wrong = np.flatnonzero(~fits | (places < 0).any(axis=1))
        if len(wrong) and not bad:
            sample = lines[wrong[0]] if not fits.all() else chunk.split(b"\n")[wrong[0]]
        bad += (wrong + num_lines + 1).tolist()
        num_lines += len(table)
        tables.append((places[:, 0].copy(), places[:, 1].copy(), table[:, 2] == 1))
    rule = (
        "Each line must be 'TEMPLATE TEMPLATE LABEL', where LABEL is 0 or 1, and each TEMPLATE is in the "
        "face_tid_mid file"
    )
    _refuse(path, rule, bad, sample.decode(errors="replace"))
    first, second, is_same = (np.concatenate(parts) for parts in zip(*tables, strict=True))
    return first, second, is_same


def read_subjects(path: Path, template_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads a 1:N list, in which a template has a line for each of its images.

    Args:
        template_ids: int64 [T], ascending.

    Returns: template_idx, subjects: int64 [K], the templates of the list, each once, and whom they show.

    Raises:
        FaceError: lines of another form, a template that is not in `template_ids` or shows two subjects. Names every
            such line.
    """
    subject_of: dict[int, int] = {}
    known = set(template_ids.tolist())

    def take(fields: list[str]) -> None:
        template, subject = int(fields[0]), int(fields[1])
        if template not in known or subject_of.setdefault(template, subject) != subject:
            raise ValueError

    rule = (
        "Each line must be 'TEMPLATE_ID,SUBJECT_ID,...', with a template of the face_tid_mid file and its one subject"
    )
    _read_lines(path, rule, lambda line: line.split(","), take, has_header=True)
    if not subject_of:
        raise FaceError(
            f"A 1:N list must list templates. '{path}' has no template below its header. Copy the file again."
        )
    templates, subjects = np.array(list(subject_of.items()), np.int64).T
    return find_templates(templates, template_ids).astype(np.int64), subjects.copy()


def find_templates(ids: np.ndarray, template_ids: np.ndarray) -> np.ndarray:
    """Places of `ids` (int, any shape) in the ascending `template_ids`, int32; -1 where there is none."""
    places = np.searchsorted(template_ids, ids).astype(np.int32)
    places[template_ids[np.minimum(places, len(template_ids) - 1)] != ids] = -1
    return places


def _read_lines(path: Path, rule: str, split: Callable, take: Callable, has_header: bool = False) -> None:
    """Gives the fields of every line to `take`, which raises ValueError or KeyError for what is against `rule`."""
    bad: list[int] = []
    sample = ""
    with open(require_file(path, "meta file"), encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1 and has_header and not line.split(",")[0].strip().isdecimal():
                continue
            try:
                take(split(line))
            except (ValueError, KeyError, IndexError, OverflowError):
                sample = sample if bad else line
                bad.append(number)
    _refuse(path, rule, bad, sample)


def _chunks(path: Path) -> Iterator[bytes]:
    """The file in pieces of about CHUNK_BYTES that end with a line."""
    with open(require_file(path, "meta file"), "rb") as file:
        while piece := file.read(CHUNK_BYTES):
            piece += file.readline()
            yield piece if piece.endswith(b"\n") else piece + b"\n"


def _refuse(path: Path, rule: str, bad: list[int], sample: str) -> None:
    """Names all lines of `bad`, in ranges."""
    if not bad:
        return
    ranges: list[list[int]] = []
    for number in bad:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    named = ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in ranges[:MAX_NAMED])
    more = f" and {sum(b - a + 1 for a, b in ranges[MAX_NAMED:])} more" if len(ranges) > MAX_NAMED else ""
    raise FaceError(
        f"{rule}. '{path}' has {len(bad)} other {'line' if len(bad) == 1 else 'lines'}: {named}{more} (the first: "
        f"{sample.strip()[:80]!r}). Copy the file again, or correct these lines."
    )
