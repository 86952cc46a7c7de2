"""pairs.txt, the pair list of LFW: which images of an identity-folder tree make a verification set.

The first line is `folds TAB pairs` (10 300: 10 folds of 300 genuine and 300 impostor pairs), or absent. A line of
three columns, `name i j`, is a genuine pair: images `name/name_0001.jpg` for i = 1, and j. Four columns, `name1 i name2
j`, are an impostor pair. Columns are separated by tabs, or by spaces where no tab stands.

Source: http://vis-www.cs.umass.edu/lfw/README.txt.
"""

import re
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.files import require_file

Shot = tuple[str, int]  # name, number of the image


def read_pairs_txt(path: Path) -> tuple[list[tuple[Shot, Shot]], np.ndarray]:
    """(pairs of (name, number), is_same bool [P]), in the order of the file, which is fold by fold.

    Raises:
        FaceError: a line of another form, or another number of pairs than the header says. Names the line.
    """
    try:
        lines = require_file(path, "pair list").read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FaceError(f"A pair list is a text file. '{path}' is not: {error}.") from error
    pairs, is_same, promised = [], [], None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        columns = [column.strip() for column in line.strip().split("\t")] if "\t" in line else line.split()
        if number == 1 and len(columns) <= 2 and all(re.fullmatch(r"\d+", column) for column in columns):
            promised = 2 * int(columns[0]) * (int(columns[1]) if len(columns) == 2 else 1)
            if len(columns) == 1:
                promised = 2 * int(columns[0])  # pairsDevTrain.txt: N genuine, N impostor
            continue
        try:
            if len(columns) not in (3, 4):
                raise ValueError
            first = (columns[0], int(columns[1]))
            second = (columns[-2] if len(columns) == 4 else columns[0], int(columns[-1]))
        except ValueError as error:
            raise FaceError(
                f"A pair is 'name i j' or 'name1 i name2 j', i and j numbers of images. '{path}' line {number}: "
                f"{line.strip()[:80]!r}. Mend the line."
            ) from error
        pairs.append((first, second))
        is_same.append(first[0] == second[0])
    if not pairs:
        raise FaceError(f"The pair list '{path}' has no pairs. Copy it again.")
    if promised is not None and promised != len(pairs):
        raise FaceError(f"The first line of '{path}' promises {promised} pairs; it has {len(pairs)}. Copy it again.")
    return pairs, np.array(is_same, bool)


def find_shot(folders: Path, shot: Shot) -> Path:
    """The image file of a shot: `name/name_0001.jpg`, or .jpeg, .png, with any number of leading zeros.

    Raises:
        FaceError: there is none.
    """
    name, number = shot
    for folder in (folders / name, folders):
        for suffix in (".jpg", ".png", ".jpeg", ".JPG", ".PNG"):
            file = folder / f"{name}_{number:04d}{suffix}"
            if file.is_file():
                return file
    for file in sorted((folders / name).glob("*")) if (folders / name).is_dir() else ():
        match = re.fullmatch(r"(.*?)_?0*(\d+)", file.stem)
        if match and match[1] in (name, "") and int(match[2]) == number:
            return file
    raise FaceError(
        f"The pair list names image {number} of {name!r}, but there is no "
        f"'{folders / name / f'{name}_{number:04d}.jpg'}'. Check FOLDERS, or align all photos."
    )
