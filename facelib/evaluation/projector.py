"""Folder X.map beside an artefact X: the maps of its sets in the files of TensorBoard's projector.

For each set SET.vectors.tsv, SET.metadata.tsv and SET.sprite.png, and `projector_config.pbtxt`, which names them
(https://www.tensorflow.org/tensorboard/tensorboard_projector_plugin). `map.json` says of which artefact they are. The
sprite has small pictures of the faces.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from facelib.errors import BadRecord, FaceError
from facelib.evaluation.face_map import SIDE, VERDICTS, FaceMap, MappedFace
from facelib.files import read_json, working_folder, write_json
from facelib.image_decoding import decode_image
from facelib.wording import printable

CONFIG, INDEX = "projector_config.pbtxt", "map.json"
_COLUMNS = ("image", "identity", "verdict", "other", "x", "y")


def map_folder(report: Path) -> Path:
    """X.report.json -> X.map."""
    return report.with_name(report.name.removesuffix(".report.json") + ".map")


def check_map_folder(folder: Path) -> None:
    """Refuses a folder that is not a map: what it holds would be lost."""
    if folder.exists() and not (folder / INDEX).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FaceError(
            f"--map writes the folder '{folder}', but something else is at this path: move it, or choose a different "
            "path with --report."
        )


def write_maps(folder: Path, maps: Sequence[FaceMap], sha256: str | None) -> None:
    """Writes the maps of the sets of one test; replaces those of an earlier one.

    Args:
        folder: as `map_folder` has it.
        maps: one for each set.
        sha256: of the artefact.
    """
    check_map_folder(folder)
    with working_folder(folder) as part:
        for one in maps:
            np.savetxt(_file(part, one.name, "vectors.tsv"), one.vectors, fmt="%.6g", delimiter="\t")
            lines = [_COLUMNS, *(_line(face, xy) for face, xy in zip(one.faces, one.places.tolist(), strict=True))]
            text = "".join("\t".join(line) + "\n" for line in lines)
            _file(part, one.name, "metadata.tsv").write_text(text, encoding="utf-8")
            sprite = cv2.imencode(".png", cv2.cvtColor(_join(one.pictures), cv2.COLOR_RGB2BGR))[1]
            _file(part, one.name, "sprite.png").write_bytes(sprite.tobytes())
        (part / CONFIG).write_text("".join(_embedding(one) for one in maps), encoding="utf-8")
        sets = {one.name: {"sha256": one.set_sha256, "faces": len(one.faces), "of": one.num_faces} for one in maps}
        write_json(part / INDEX, {"artifact_sha256": sha256, "sets": sets})
        if folder.exists():
            shutil.rmtree(folder)


def read_map(folder: Path, name: str, sha256: str | None, set_sha256: str | None) -> FaceMap | None:
    """Reads the map of one set; None where there is none, or it is of another artefact or set.

    Args:
        folder: as `map_folder` has it.
        name: of the set.
        sha256: of the artefact, as the report has it.
        set_sha256: of the set, as the report has it.

    Raises:
        FaceError: a file is damaged.
    """
    if not (folder / INDEX).is_file() or Path(name).name != name:  # a report may come from anybody
        return None
    index = read_json(folder / INDEX, "index of the map")
    try:
        found = index["sets"].get(name)
        if not found or index["artifact_sha256"] != sha256 or found["sha256"] != (set_sha256 or ""):
            return None
        vectors = np.loadtxt(_file(folder, name, "vectors.tsv"), np.float32, delimiter="\t", ndmin=2)
        text = _file(folder, name, "metadata.tsv").read_text(encoding="utf-8")
        rows = [line.split("\t") for line in text.split("\n")[1:-1]]
        faces = [MappedFace(*row[:4]) for row in rows]
        places = np.array([row[4:] for row in rows], np.float32).reshape(len(faces), 2)
        pictures = _split(decode_image(_file(folder, name, "sprite.png").read_bytes()), len(faces))
        if len(vectors) != len(faces) or not np.isfinite(places).all() or {one.verdict for one in faces} - {*VERDICTS}:
            raise ValueError("its files do not match each other")
        return FaceMap(name, found["sha256"], faces, vectors, places, pictures, int(found["of"]))
    except (OSError, BadRecord, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FaceError(
            f"A map must have all the files that --map wrote. '{folder}' does not have all these files: {error}. Test "
            "again with --map."
        ) from error


def _file(folder: Path, name: str, ending: str) -> Path:
    return folder / f"{name}.{ending}"


def _line(face: MappedFace, place: Sequence[float]) -> tuple[str, ...]:
    texts = (face.image, face.identity, face.verdict, face.other)
    return (*map(printable, texts), *(f"{value:.4f}" for value in place))


def _embedding(one: FaceMap) -> str:
    """The part of `projector_config.pbtxt` for one set, a `ProjectorConfig` in protobuf's text format."""
    rows, size = one.vectors.shape
    return (
        "embeddings {\n"
        f"  tensor_name: {_quoted(one.name)}\n"
        f"  tensor_path: {_quoted(_file(Path(), one.name, 'vectors.tsv').name)}\n"
        f"  tensor_shape: {rows}\n  tensor_shape: {size}\n"
        f"  metadata_path: {_quoted(_file(Path(), one.name, 'metadata.tsv').name)}\n"
        f"  sprite {{\n    image_path: {_quoted(_file(Path(), one.name, 'sprite.png').name)}\n"
        f"    single_image_dim: {SIDE}\n    single_image_dim: {SIDE}\n  }}\n"
        "}\n"
    )


def _quoted(text: str) -> str:
    """A string of protobuf's text format: other bytes than plain ASCII in octal."""
    plain = (chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(plain)}"'


def _columns(num_pictures: int) -> int:
    """Of a sprite, which is square as the projector expects it."""
    return int(np.ceil(np.sqrt(num_pictures)))


def _join(pictures: np.ndarray) -> np.ndarray:
    """uint8 [M, S, S, 3] -> the sprite, uint8 [H, W, 3], row by row."""
    columns = _columns(len(pictures))
    sheet = np.zeros((columns * columns, *pictures.shape[1:]), np.uint8)
    sheet[: len(pictures)] = pictures
    side = columns * SIDE
    return sheet.reshape(columns, columns, SIDE, SIDE, 3).swapaxes(1, 2).reshape(side, side, 3)


def _split(sprite: np.ndarray, num_pictures: int) -> np.ndarray:
    columns = _columns(num_pictures)
    tiles = sprite.reshape(columns, SIDE, columns, SIDE, 3).swapaxes(1, 2)
    return tiles.reshape(columns * columns, SIDE, SIDE, 3)[:num_pictures]
