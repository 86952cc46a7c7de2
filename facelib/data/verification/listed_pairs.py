"""Reads the pair lists of the field: LFW, XQLFW and RFW share one form, CALFW and CPLFW another.

| form | a pair | sets |
|---|---|---|
| pairs.txt | `name i j` (genuine) or `name1 i name2 j`; the first line may say how many | LFW, XQLFW, RFW |
| image list | two lines `name_i.jpg NUMBER`; 0 for an impostor pair, else CALFW has 1 to 10, CPLFW 1 | CALFW, CPLFW |

RFW has a list for each group of people: txts/GROUP/GROUP_pairs.txt. An image list names all genuine pairs first;
its folds are made of them as the readers of the field do (JDAI-CV/FaceX-Zoo, test_protocol/lfw/pairs_parser.py).
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facelib.data.data_dir import MAX_NAME_BYTES
from facelib.errors import FaceError, short_repr
from facelib.files import read_text
from facelib.photo_folders import spellings_of

Shot = tuple[str, int]  # name, number of the image; 0 for an image that is called by the name alone
FOLDS = 10
_SUFFIXES = (".jpg", ".png", ".jpeg", ".jfif", ".JPG", ".PNG")
_IMAGE_LINE = re.compile(r"(\S.*\.(?:jpe?g|jfif|png|bmp))\s+(\d{1,3})", re.IGNORECASE)


def read_pairs_txt(path: Path, encoding: str | None = None) -> tuple[list[tuple[Shot, Shot]], np.ndarray, list[str]]:
    """Reads a pair list in one of the two forms above.

    Args:
        path: the list.
        encoding: of the list; None finds it.

    Returns:
        pairs: of (name, number of the image), fold by fold.
        is_same: bool [P].
        notes: what the user should know, as the encoding of the list.

    Raises:
        FaceError: a line of another form, or another number of pairs than the first line says. Names the line.
    """
    text, notes = read_text(path, "pair list", encoding)
    lines = text.splitlines()
    first = next((line.strip() for line in lines if line.strip()), "")
    pairs, is_same = (_read_image_list if _IMAGE_LINE.fullmatch(first) else _read_name_lines)(path, lines)
    return pairs, np.array(is_same, bool), notes


def find_group_lists(folder: Path) -> list[tuple[str, Path]]:
    """The lists of RFW, of one group of people each: (group, GROUP_pairs.txt), by name.

    Raises:
        FaceError: there is none in the folder.
    """
    found = sorted((file.name.removesuffix("_pairs.txt"), file) for file in Path(folder).rglob("*_pairs.txt"))
    if not found or len({group for group, _ in found}) < len(found):
        state = f"has {len(found)} lists, two of them with the same name" if found else "has no such list"
        raise FaceError(
            "A folder of pair lists must have one GROUP_pairs.txt for each group, like the folder 'txts' of RFW. "
            f"'{folder}' {state}. Pass such a folder, or the path of one list."
        )
    return found


def _read_name_lines(path: Path, lines: list[str]) -> tuple[list[tuple[Shot, Shot]], list[bool]]:
    """The pairs of LFW's form."""
    pairs, is_same, promised = [], [], None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        columns = [column.strip() for column in line.strip().split("\t")] if "\t" in line else line.split()
        if number == 1 and len(columns) <= 2 and all(re.fullmatch(r"\d{1,9}", column) for column in columns):
            promised = 2 * int(columns[0]) * (int(columns[1]) if len(columns) == 2 else 1)
            if len(columns) == 1:
                promised = 2 * int(columns[0])  # pairsDevTrain.txt: N genuine, N impostor
            continue
        try:
            if len(columns) not in (3, 4) or max(map(len, columns)) > MAX_NAME_BYTES:
                raise ValueError
            first = (columns[0], int(columns[1]))
            second = (columns[-2] if len(columns) == 4 else columns[0], int(columns[-1]))
        except ValueError as error:
            raise FaceError(
                "Each pair must be 'name i j' or 'name1 i name2 j', where i and j are the numbers of images. "
                f"'{path}' line {number}: {line.strip()[:80]!r}. Correct the line."
            ) from error
        pairs.append((first, second))
        is_same.append(first[0] == second[0])
    if not pairs:
        raise FaceError(f"The pair list '{path}' has no pairs. Copy the list again.")
    if promised is not None and promised != len(pairs):
        raise FaceError(
            f"The first line of '{path}' says {promised} pairs, but the list has {len(pairs)}. Copy the list again."
        )
    return pairs, is_same


def _read_image_list(path: Path, lines: list[str]) -> tuple[list[tuple[Shot, Shot]], list[bool]]:
    """The pairs of CALFW's and CPLFW's form: each fold has a tenth of the genuine and of the impostor pairs."""
    shots, numbers, places = [], [], []
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = _IMAGE_LINE.fullmatch(line.strip())
        if match is None or len(match[1]) > MAX_NAME_BYTES:
            raise FaceError(
                f"Each line of an image list must be 'name_0001.jpg NUMBER'. '{path}' line {place}: "
                f"{line.strip()[:80]!r}. Correct the line."
            )
        shots.append(_shot_of(match[1]))
        numbers.append(int(match[2]))
        places.append(place)
    if len(shots) % 2:
        raise FaceError(
            f"Each pair must have two lines. The last pair of '{path}' has only one line. Copy the list again."
        )
    for i in range(0, len(shots), 2):
        if numbers[i] != numbers[i + 1]:
            raise FaceError(
                f"Both lines of a pair must have the same number. '{path}' lines {places[i]} and {places[i + 1]} have "
                f"{numbers[i]} and {numbers[i + 1]}. Copy the list again."
            )
    is_same = np.array(numbers[::2]) > 0
    kinds = (np.array_split(np.flatnonzero(kind), FOLDS) for kind in (is_same, ~is_same))
    order = [int(i) for fold in zip(*kinds, strict=True) for part in fold for i in part]
    return [(shots[2 * i], shots[2 * i + 1]) for i in order], is_same[order].tolist()


def _shot_of(file: str) -> Shot:
    """'Ann_Lee_0002.jpg' -> ('Ann_Lee', 2); a few images of CPLFW have no number: 'Ann.jpg' -> ('Ann', 0)."""
    stem = Path(file).stem
    match = re.fullmatch(r"(.+)_(\d{1,9})", stem)
    return (match[1], int(match[2])) if match and int(match[2]) else (stem, 0)


def find_shot(folders: Path, shot: Shot) -> Path:
    """The image file of a shot: `name/name_0001.jpg` or `name_0001.jpg`, or .jpeg, .png, with any leading zeros.

    Raises:
        FaceError: there is none.
    """
    name, number = shot
    spellings = list(spellings_of(name))
    for spelling in spellings:
        for folder in (folders / spelling, folders):
            for file in _files_of(folder, spelling, number):
                if os.path.isfile(file):
                    return file
    for spelling in spellings:
        for file in sorted((folders / spelling).glob("*")) if os.path.isdir(folders / spelling) else ():
            match = re.fullmatch(r"(.*?)_?0*(\d+)", file.stem)
            if match and match[1] in (*spellings, "") and int(match[2]) == number:
                return file
    expected = short_repr(str(folders / name / f"{name}_{number:04d}.jpg"), 300)
    raise FaceError(
        f"The pair list has image {number} of {short_repr(name)}, but there is no file {expected}. Check FOLDERS, or "
        "align all photos."
    )


def _files_of(folder: Path, name: str, number: int) -> Iterator[Path]:
    stems = [f"{name}_{number:04d}", f"{name}_{number}", *([] if number else [name])]
    return (folder / f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES)
