"""The other files of a kit: crops, expected embeddings, kit.json, README.md and accept.py."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facelib.model_input import TEMPLATE_112, TEMPLATE_POINTS, Io, fit_faces, scaling_of
from facelib.self_test import FORMULA, ramps
from facelib.sidecar import COMPARISON, git_commit, package_versions

FORMAT_VERSION = 1
ACCEPT = Path(__file__).with_name("accept.py")
README = """# Kit of {name}

For a chip whose converter or runtime is not on the machine that made this kit.

1. Convert one file of `models/`. Calibrate int8 with `calibration/` (`crops.npy`: uint8 [N, H, W, 3], RGB; the
   images are the same crops, without loss).
2. Embed `self_test.png` first: `python accept.py ONE --self-test` says whether the model is fed correctly. The
   image shows nobody: {formula}, in column x, row y.
3. Embed every crop of `test/` on the device, in the order of `crops.npy` or of the file names. Write the embeddings as
   .npy, text or raw float32, {faces} x {values} values.
4. `python accept.py OUTPUT` prints cosine, ACC, VR, and pass or fail, and names what was fed wrongly.

| model | takes |
|---|---|
{models}
The output is the embedding before L2 normalisation, {values} values. Two faces are the same person if the *squared* L2
distance of their unit vectors is at most {distance:.4f} (FAR {far:g} on {set}). `kit.json` has all of this for
programs.

The crops show people. Treat them as the data that they came from.
"""


def draw_pairs(is_same: np.ndarray, num_pairs: int, seed: int = 0) -> np.ndarray:
    """Which pairs are in the test, half of them genuine: int64, ascending; fewer where the set has fewer.

    Args:
        is_same: bool [P], which pairs are genuine.
        num_pairs: how many, an even number.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    picked = [rng.permutation(np.flatnonzero(kind))[: num_pairs // 2] for kind in (is_same, ~is_same)]
    return np.sort(np.concatenate(picked))


def write_crops(folder: Path, crops: np.ndarray) -> None:
    """Writes uint8 [N, H, W, 3], RGB, as crops.npy and as the images 0000.png, 0001.png, ..."""
    folder.mkdir(parents=True)
    np.save(folder / "crops.npy", crops)
    for i, crop in enumerate(crops):
        _write_png(folder / f"{i:04}.png", crop)


def _write_png(path: Path, image: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())


def write_test(folder: Path, faces: np.ndarray, io: Io, expected: np.ndarray, mistakes: np.ndarray) -> None:
    """Writes the crops of the test and the embeddings.

    Args:
        folder: to make.
        faces: uint8 [N, 112, 112, 3], RGB.
        io: of the net: the crops get its size.
        expected: float32 [N, D].
        mistakes: float32 [M, N, D], of the net fed wrongly in M ways.
    """
    write_crops(folder, fit_faces(faces, io.size, io.fit))
    np.save(folder / "expected.npy", expected.astype(np.float32))
    np.save(folder / "mistakes.npy", mistakes.astype(np.float32))


def write_facts(folder: Path, name: str, models: dict[str, Io], expected: np.ndarray, facts: dict[str, Any]) -> None:
    """Writes kit.json, README.md, self_test.png and accept.py.

    Args:
        folder: the kit.
        name: of the net, for people.
        models: {file name in models/: how it is fed}.
        expected: float32 [N, D], of the test.
        facts: more keys of kit.json: genuine, threshold, mistakes, limits, made_from, licence.
    """
    described = {f"models/{file}": {"io": io.as_dict(), "pixel_scaling": scaling_of(io)} for file, io in models.items()}
    value = {
        "kind": "kit", "format_version": FORMAT_VERSION, "models": described, "pixel_range": [0, 255],
        "template": [list(point) for point in TEMPLATE_112], "template_points": list(TEMPLATE_POINTS),
        "comparison": COMPARISON, **facts,
        "made_by": {"git_commit": git_commit(), "versions": package_versions()},
    }  # fmt: skip
    (folder / "kit.json").write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    rows = "".join(f"| models/{file} | {_describe(io)} |\n" for file, io in models.items())
    faces, values = expected.shape
    text = README.format(name=name, faces=faces, values=values, models=rows, formula=FORMULA, **facts["threshold"])
    (folder / "README.md").write_text(text, encoding="utf-8")
    _write_png(folder / "self_test.png", ramps(next(iter(models.values())).size))
    shutil.copyfile(ACCEPT, folder / "accept.py")


def _describe(io: Io) -> str:
    shape = [1, *io.size, 3] if io.layout == "nhwc" else [1, 3, *io.size]
    scaling = scaling_of(io)
    mean, std = (" ".join(f"{value:g}" for value in scaling[key]) for key in ("mean", "std"))
    how = "pixels 0..255 as they are" if io.pixels == "raw" else f"(pixel - mean) / std, mean {mean}, std {std}"
    return f"float32 {shape}, {io.colour.upper()}, {how}"
