"""Finds out whether a net of another system really takes the pixels that its user says.

A net that gets pixels of another scaling gives nearly the same embedding for everybody, and int8 would be calibrated on
that. On 64 aligned crops the mean cosine between people is 0.65 for a trained MobileFaceNet that gets raw pixels, and
0.03 for the same net with its own scaling.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from facelib.cli import print_notes
from facelib.errors import FaceError
from facelib.model_input import Io, to_model_input
from facelib.unit_vectors import normalize

MAX_COSINE = 0.5  # mean, between crops: below that, people differ
MIN_SPREAD = 0.1  # 1 - mean cosine of the right scaling
MIN_GAIN = 1.3  # another scaling that separates crops by so much more is the right one


def check_pixels(run: Callable[[np.ndarray], np.ndarray], crops: np.ndarray, io: Io, path: Path) -> None:
    """Refuses raw pixels with which people hardly differ, if they do with scaled ones, and the reverse.

    If people differ with neither, that is said.

    Args:
        run: the float net.
        crops: uint8 [N, H, W, 3], RGB, of different people.
        io: how the user says it is fed.
        path: of the net, for the error.

    Raises:
        FaceError: another scaling separates the crops.
    """

    def mean_cosine(pixels: str) -> float:
        unit = normalize(np.asarray(run(to_model_input(crops, replace(io, pixels=pixels))), np.float64))
        return float((np.square(unit.sum(0)).sum() - len(unit)) / (len(unit) * (len(unit) - 1)))

    stated = mean_cosine(io.pixels) if len(crops) > 1 else 0.0
    if stated < MAX_COSINE:
        return
    other = "pm1" if io.pixels == "raw" else "raw"  # to tell the centred scalings apart takes people with labels
    cosine = mean_cosine(other)
    what = f"with --pixels {io.pixels} the embeddings of {len(crops)} crops hardly differ (mean cosine {stated:.2f})"
    if 1 - cosine > max(MIN_GAIN * (1 - stated), MIN_SPREAD):
        raise FaceError(
            f"The net needs the same pixel scaling as in its training. '{path}': {what}; with --pixels {other} the "
            f"mean cosine is {cosine:.2f}. Use the --pixels with which the net was trained."
        )
    print_notes([f"'{path}': {what}; check --pixels and --output, and check that the net is trained"])


def check_width(embeddings: np.ndarray, io: Io, path: Path) -> None:
    """Refuses a net whose embedding is not as long as its sidecar says.

    Args:
        embeddings: [N, D], of the float net.
        io: what the sidecar says.
        path: of the net, for the error.
    """
    if io.embedding_size not in (0, embeddings.shape[-1]):
        raise FaceError(
            f"The sidecar of '{path}' says embedding_size={io.embedding_size}, but {io.output} has "
            f"{embeddings.shape[-1]} values. Make the graph again, or remove the sidecar and pass --output."
        )
