"""The files of msame, which runs an Ascend model over a folder: names of inputs, results, log. No msame is needed.

From the source of msame (Ascend/tools, msame/src, several versions):

- It reads the files of a folder in the order of their names, without hidden files.
- `X.bin` gives `X_output_<k>.bin` or `.txt`, where k is the number of the output, in a folder below --output whose name
  is the time.
- .bin holds raw values in the model's type. .txt holds at most six digits for each value, separated by white space.
- If the execution of a file fails, msame skips it and continues.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.files import require_file

LOG_NAME = "msame.log"
FLIP = "_flip"  # 7_flip.bin is the mirrored face of 7.bin
MAX_NAMED = 5
_OUTPUT = re.compile(r"(?P<stem>.+)_output_(?P<k>\d+)\.(?:bin|txt)")
_STEM = re.compile(rf"(?P<number>\d+)(?P<flip>{FLIP})?")
_STAMP = re.compile(r"\d{8}_\d{6}")
_AVERAGE = re.compile(r"^Inference average time ?: ([\d.]+) ?ms", re.MULTILINE)
_WITHOUT_FIRST = re.compile(r"^Inference average time without first time: ?([\d.]+) ?ms", re.MULTILINE)
_DTYPES = {2: np.float16, 4: np.float32, 8: np.float64}  # by bytes a value


@dataclass(frozen=True)
class Timing:
    """Times in msame's log.

    Attributes:
        average: mean of all executions, ms.
        without_first: mean without the first execution, ms; None if there was only one.
    """

    average: float
    without_first: float | None

    @property
    def ms(self) -> float:
        """The time to report, ms: without the first execution, which is slower, where possible."""
        return self.average if self.without_first is None else self.without_first


def stem_of(number: int, is_flipped: bool | int = False) -> str:
    """File name without suffix of the input for face `number`."""
    return f"{number}{FLIP if is_flipped else ''}"


def read_timing(text: str) -> Timing | None:
    """The average times in the text of msame's log; None if it has none."""
    average, without_first = _AVERAGE.findall(text), _WITHOUT_FIRST.findall(text)
    if not average:
        return None
    return Timing(float(average[-1]), float(without_first[-1]) if without_first else None)


def find_results(out_dir: Path) -> Path:
    """The folder of results: `out_dir` itself, or the newest folder that msame made in it.

    Raises:
        FaceError: no such folder, or none with results.
    """
    out_dir = Path(out_dir)
    if not out_dir.is_dir():
        raise FaceError(
            f"OUT_DIR must be the folder of msame's results. '{out_dir}' is not a folder. Run om/om_eval.sh first."
        )
    if any(_OUTPUT.fullmatch(file.name) for file in out_dir.iterdir()):
        return out_dir
    runs = sorted(folder for folder in out_dir.iterdir() if folder.is_dir() and _STAMP.fullmatch(folder.name))
    if not runs:
        raise FaceError(
            f"'{out_dir}' has no results of msame: no files like 0_output_0.bin and no folder like 20250131_120000. "
            f"Run om/om_eval.sh MODEL.om BIN_DIR {out_dir}"
        )
    return runs[-1]


def read_embeddings(folder: Path, num_faces: int, embedding_size: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads the embeddings of faces 0 .. num_faces - 1. Files are matched to faces by name.

    Args:
        folder: of the results.
        num_faces: N.
        embedding_size: D; 0 = unknown, which is enough for .txt files.

    Returns:
        float32 [N, D] of the faces; the same of the mirrored faces, or None if there are no mirrored faces.

    Raises:
        FaceError: a result is missing, there twice, of no face or of the wrong size; names it.
    """
    files = _index(folder, num_faces)
    plain = _of_all_faces(folder, files, num_faces, False)
    is_flipped = any(stem_of(i, True) in files for i in range(num_faces))
    flipped = _of_all_faces(folder, files, num_faces, True) if is_flipped else []
    rows = [_read(file) for file in plain + flipped]
    size = embedding_size or _deduce_size(rows[0], plain[0])
    values = np.stack([_as_floats(row, size, file) for row, file in zip(rows, plain + flipped, strict=True)])
    return values[:num_faces], values[num_faces:] if flipped else None


def _index(folder: Path, num_faces: int) -> dict[str, Path]:
    """{stem: file} of the results in `folder`."""
    found: dict[str, Path] = {}
    outputs: Counter[str] = Counter()
    doubles, strangers = [], []
    for file in sorted(folder.iterdir()):
        match = _OUTPUT.fullmatch(file.name)
        if match is None:
            continue
        stem = _STEM.fullmatch(match["stem"])
        outputs[match["k"]] += 1
        if stem is None or int(stem["number"]) >= num_faces:
            strangers.append(file.name)
            continue
        key = stem_of(int(stem["number"]), bool(stem["flip"]))
        if key in found:
            doubles.append(f"{found[key].name} and {file.name}")
        found[key] = file
    if len(outputs) > 1:
        raise FaceError(
            f"An embedder must have one output. '{folder}' has results of {len(outputs)} outputs, numbered "
            f"{', '.join(outputs)}. Convert the model with one output: om/pb_2_om.sh sets --out_nodes."
        )
    if strangers:
        raise FaceError(
            f"Each result must be named after a face, 0 to {num_faces - 1}. '{folder}' has {_named(strangers)}. Pass "
            "the .bin that image2bin.py read, or run msame with an empty OUT_DIR."
        )
    if doubles:
        raise FaceError(
            f"Each face must have only one result. In '{folder}', some faces have several results: {_named(doubles)}. "
            "Run msame with an empty OUT_DIR."
        )
    return found


def _of_all_faces(folder: Path, files: dict[str, Path], num_faces: int, is_flipped: bool) -> list[Path]:
    """The result of each face, in order; `files` are those that are there."""
    stems = [stem_of(i, is_flipped) for i in range(num_faces)]
    missing = [f"{stem}_output_*" for stem in stems if stem not in files]
    if missing:
        raise FaceError(
            f"Every face must have a result. In '{folder}', {len(missing):,} of {num_faces:,} results are "
            f"missing: {_named(missing)}. msame continues after a failed execution: look for [ERROR] in "
            f"{LOG_NAME}."
        )
    return [files[stem] for stem in stems]


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _read(file: Path) -> bytes | np.ndarray:
    """The bytes of a .bin, or the values of a .txt."""
    data = require_file(file, "result").read_bytes()
    if file.suffix == ".bin":
        return data
    words = data.split()
    try:
        if all(word.isdigit() for word in words):  # an older msame prints the bits of float16: 15360 for 1
            return np.array(words, np.uint16).view(np.float16)
        return np.array(words, np.float64)
    except (ValueError, OverflowError) as error:
        raise FaceError(f"A .txt of msame must hold numbers. '{file}' does not ({error}). Use --outfmt BIN.") from error


def _deduce_size(row: bytes | np.ndarray, file: Path) -> int:
    if isinstance(row, np.ndarray):
        return len(row)
    choices = [f"{len(row) // size} of {dtype.__name__}" for size, dtype in _DTYPES.items() if len(row) % size == 0]
    raise FaceError(
        f"'{file}' has {len(row)} bytes. This can mean {' or '.join(choices)}. Pass --embedding-size D, or --model "
        "X.om if X.om has a sidecar."
    )


def _as_floats(row: bytes | np.ndarray, size: int, file: Path) -> np.ndarray:
    """float32 [D] of one result. The length of a .bin tells its type."""
    if isinstance(row, bytes):
        dtype = _DTYPES.get(len(row) // size if len(row) % size == 0 else 0)
        if dtype is None:
            raise FaceError(
                f"An embedding of {size} values must have {2 * size} bytes (float16) or {4 * size} bytes (float32). "
                f"'{file}' has {len(row)}. Check --embedding-size, or run msame again."
            )
        row = np.frombuffer(row, dtype)
    if len(row) != size:
        raise FaceError(f"Every embedding must have {size} values. '{file}' has {len(row)} values. Run msame again.")
    return row.astype(np.float32)
