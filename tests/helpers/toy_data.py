"""Data of synthetic faces for a training that a test starts, and the steps that it logged."""

import json
from pathlib import Path

from facelib.data.conversion.job import convert
from facelib.data.synthetic.files import SyntheticSet, write_folders, write_pairs


def write_data(folder: Path, identities: int, images: int) -> Path:
    """FOLDER/data: a data directory with so many `images` of each identity."""
    write_folders(folder / "faces", SyntheticSet(identities, images))
    convert(folder / "faces", folder / "data", progress=False)
    return folder / "data"


def write_toy_pairs(folder: Path) -> Path:
    """FOLDER/toy.bin: 40 pairs of people who are not in the data."""
    write_pairs(folder / "toy.bin", SyntheticSet(20, 4, first_identity=1000), 40)
    return folder / "toy.bin"


def logged_steps(run: Path) -> list[int]:
    """The steps in metrics.jsonl, in the order of its lines; [] before the first."""
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line["step"] for line in lines if line["kind"] == "step"]
