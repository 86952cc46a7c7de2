"""What a reader of a foreign model gets (`Job`), and what it gives (`Imported`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facelib.cli import print_notes
from facelib.data.readers.calibration_crops import load_crops
from facelib.model_input import PIXEL_SCALINGS

NUM_CROPS = 256  # for the statistics of batch normalisation


@dataclass(frozen=True)
class Job:
    """A file to import, and what the user says of it. None where the user says nothing.

    Attributes:
        path: of the file, or of the folder of a SavedModel.
        build: builds a backbone of ours, raw pixels in, with random weights: `build(name, pixel_mean=.., ..)`. The
            builders are at the top level, where no room imports them.
        pixels: scaling that the net was trained with, a key of `PIXEL_SCALINGS`.
        colour: order of the channels that it takes, 'rgb' | 'bgr'.
        layout: order of the axes that it takes, 'nhwc' | 'nchw'.
        size: (height, width) in pixels, where the file leaves it open.
        faces: training crops, which restore the statistics of folded batch normalisation.
        structure: JSON file with the structure of a file that holds weights only.
        known_as: name of the structure of a file that holds weights only.
    """

    path: Path
    build: Callable[..., Any]
    pixels: str | None = None
    colour: str | None = None
    layout: str | None = None
    size: tuple[int, int] | None = None
    faces: Path | None = None
    structure: Path | None = None
    known_as: str | None = None

    def build_ours(self, name: str, pixels: str, **options):
        """A backbone of ours with the pixel scaling `pixels`, a key of `PIXEL_SCALINGS`, and random weights."""
        mean, std = PIXEL_SCALINGS[pixels]
        return self.build(name, pixel_mean=mean, pixel_std=std, **options)

    def load_faces(self, size: tuple[int, int]) -> tuple[np.ndarray | None, dict | None]:
        """(256 of the crops in `faces`, uint8 [N, *size, 3], RGB; their description); (None, None) without `faces`."""
        if self.faces is None:
            return None, None
        notes: list[str] = []
        crops, described = load_crops(self.faces, NUM_CROPS, 0, size, notes)
        print_notes(notes)
        return crops, described


@dataclass
class Imported:
    """A foreign model as a Keras model of ours.

    Attributes:
        model: Keras model, float raw RGB pixels [N, H, W, 3] -> float32 [N, D] before L2 normalisation. Its input is
            'input_1', its output 'embeddings'.
        pixels: scaling of the original, a key of `PIXEL_SCALINGS`.
        what: the first line of the result, such as 'mobilefacenet: 50 layers'.
        table: the [model] table of a recipe that trains it on; None for a structure that no builder of ours makes.
        original: runs the original on uint8 [N, H, W, 3], RGB; gives float32 [N, D]. None where nothing here runs it.
        is_normalised: whether `original` gives unit vectors.
        max_difference: between the outputs of both that is allowed, relative to the largest.
        lines: more to print, a line each.
        record: what the sidecar says of the import, JSON values.
        centres: class centres of the margin head that was cut off, float32 [C, D]; None if there was none.
    """

    model: Any
    pixels: str
    what: str
    table: dict[str, Any] | None = None
    original: Callable[[np.ndarray], np.ndarray] | None = None
    is_normalised: bool = False
    max_difference: float = 1e-4
    lines: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    centres: np.ndarray | None = None
