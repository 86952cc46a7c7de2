"""Every format that the project reads: how an input of it is changed, and what opens it."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import changes, readers
from tests.fuzz.changes import Tree, any_file, either
from tests.fuzz.mutators import mutate_text


@dataclass(frozen=True)
class Format:
    """How inputs of a format are made and opened.

    Attributes:
        change: (an input, generator) -> a changed input.
        read: opens the folder of an input, as the scripts do.
    """

    change: Callable[[Tree, random.Random], Tree]
    read: Callable[[Path], object]


def _model(suffix: str, *each) -> Format:
    return Format(either(*map(any_file, each)), lambda folder: readers.read_model(folder / f"x.{suffix}"))


IMAGES = (".jpg", ".png")
IN_PROCESS = {
    "bin": Format(any_file(changes.change_pickle), readers.read_bin),
    "rec": Format(
        either(any_file(changes.change_rec, ".rec"), any_file(mutate_text, ".idx", "property")), readers.read_source
    ),
    "data_dir": Format(either(changes.change_data_dir, any_file()), readers.read_data_dir),
    "tfrecord": Format(either(any_file(changes.change_frames), any_file()), readers.read_source),
    "folders": Format(any_file(), readers.read_source),
    "image": Format(any_file(), readers.read_image),
    "pairs": Format(either(any_file(mutate_text, ".txt"), any_file()), readers.read_pairs),
    "list": Format(
        either(any_file(mutate_text, ".txt"), any_file()), lambda folder: readers.read_source(folder, "list.txt")
    ),
    "recipe": Format(any_file(mutate_text), readers.read_recipe),
    "sidecar": Format(any_file(changes.change_json, ".json"), readers.read_sidecar),
    "report": Format(any_file(changes.change_json), readers.read_reports),
    "gallery": Format(changes.change_gallery, readers.read_gallery),
    "checkpoint": Format(any_file(changes.change_zip), readers.read_checkpoint),
    "run": Format(
        either(any_file(changes.change_json, ".report.json", "provenance.json"),
               any_file(changes.change_json_line, ".jsonl"), any_file(mutate_text, ".toml")),
        readers.read_run,
    ),
}  # fmt: skip
NATIVE = {
    "pb": _model("pb", changes.change_proto),
    "h5": _model("h5", changes.change_h5),
    "tflite": _model("tflite", changes.mutate_bytes),
    "onnx": _model("onnx", changes.change_proto),
}
FORMATS = IN_PROCESS | NATIVE
